//! Reads what tcpdump writes: the pcap format, with Ethernet frames.

use std::net::{IpAddr, SocketAddr};

use super::{Fragment, Seen};
use crate::packet::{TCP, UDP};

/// Begin of a file with times in microseconds, as a machine writes it for itself.
const MAGIC: [u8; 4] = 0xa1b2_c3d4_u32.to_ne_bytes();
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
/// `LINKTYPE_ETHERNET`
const ETHERNET: u32 = 1;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TAGS: [u16; 2] = [0x8100, 0x88a8];

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// The packets of a file, in order. What is neither TCP nor UDP is left out.
pub(super) fn packets(file: &[u8]) -> Result<Vec<Seen>, String> {
    let header = file
        .get(..FILE_HEADER)
        .ok_or_else(|| format!("{} bytes are no capture", file.len()))?;
    if header[..4] != MAGIC {
        return Err(format!("it begins with {:02x?}", &header[..4]));
    }
    let link = native32(header, 20).unwrap_or_default();
    if link != ETHERNET {
        return Err(format!(
            "it is of a device with the link type {link}, not Ethernet"
        ));
    }
    let mut seen = Vec::new();
    let mut rest = &file[FILE_HEADER..];
    while !rest.is_empty() {
        let record = native32(rest, 8).and_then(|len| {
            let end = RECORD_HEADER.checked_add(usize::try_from(len).ok()?)?;
            rest.split_at_checked(end)
        });
        let (record, after) = record.ok_or_else(|| format!("packet {} is cut off", seen.len() + 1))?;
        seen.extend(frame(&record[RECORD_HEADER..]));
        rest = after;
    }
    Ok(seen)
}

fn native32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn word16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// What an Ethernet frame holds, if it is TCP or UDP.
fn frame(bytes: &[u8]) -> Option<Seen> {
    let mut at = 12;
    while TAGS.contains(&word16(bytes, at)?) {
        at += 4;
    }
    let packet = bytes.get(at + 2..)?;
    match word16(bytes, at)? {
        IPV4 => ipv4(packet),
        IPV6 => ipv6(packet),
        _ => None,
    }
}

fn ipv4(packet: &[u8]) -> Option<Seen> {
    const MORE: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let header = usize::from(packet.first()? & 0xf) * 4;
    let field = word16(packet, 6)?;
    let fragment = (field & (MORE | OFFSET) != 0).then_some(Fragment {
        id: word16(packet, 4)?.into(),
        offset: (field & OFFSET) * 8,
        more: field & MORE != 0,
    });
    let addr = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(octets.into())
    };
    transport(
        word16(packet, 2)?.into(),
        *packet.get(9)?,
        addr(12)?,
        addr(16)?,
        fragment,
        packet.get(header..)?,
    )
}

fn ipv6(packet: &[u8]) -> Option<Seen> {
    let addr = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(octets.into())
    };
    let mut next = *packet.get(6)?;
    let mut rest = packet.get(40..)?;
    let mut fragment = None;
    loop {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let len = (usize::from(*rest.get(1)?) + 1) * 8;
                (next, rest) = (*rest.first()?, rest.get(len..)?);
            }
            FRAGMENT => {
                let field = word16(rest, 2)?;
                let id = rest.get(4..8)?.try_into().ok()?;
                let found = Fragment {
                    id: u32::from_be_bytes(id),
                    offset: field & !7,
                    more: field & 1 != 0,
                };
                fragment = Some(found);
                (next, rest) = (*rest.first()?, rest.get(8..)?);
                if found.offset > 0 {
                    break;
                }
            }
            _ => break,
        }
    }
    let len = 40 + u32::from(word16(packet, 4)?);
    transport(len, next, addr(8)?, addr(24)?, fragment, rest)
}

fn transport(
    len: u32,
    proto: u8,
    src: IpAddr,
    dst: IpAddr,
    fragment: Option<Fragment>,
    bytes: &[u8],
) -> Option<Seen> {
    if proto != TCP && proto != UDP {
        return None;
    }
    let later = fragment.is_some_and(|fragment| fragment.offset > 0);
    // The first fragment may be so small that it ends within the header.
    let header = if later { &[] } else { bytes };
    let port = |at: usize| word16(header, at).unwrap_or_default();
    Some(Seen {
        len,
        src: SocketAddr::new(src, port(0)),
        dst: SocketAddr::new(dst, port(2)),
        tcp_flags: (proto == TCP).then(|| header.get(13).copied()).flatten(),
        fragment,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Build, flags, ip, syn, tcp, udp};

    const A4: &str = "10.0.0.1:4711";
    const B4: &str = "10.0.0.2:80";
    const A6: &str = "[fd00::1]:4711";
    const B6: &str = "[fd00::2]:80";

    fn file(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        file.extend([0; 16]);
        file.extend(ETHERNET.to_ne_bytes());
        for frame in frames {
            let len = u32::try_from(frame.len()).unwrap().to_ne_bytes();
            file.extend([0; 8]);
            file.extend(len);
            file.extend(len);
            file.extend(frame);
        }
        file
    }

    fn one(build: &Build) -> Seen {
        let seen = packets(&file(&[build.bytes()])).unwrap();
        assert_eq!(seen.len(), 1);
        seen[0]
    }

    fn ends(seen: &Seen) -> (String, String) {
        (seen.src.to_string(), seen.dst.to_string())
    }

    #[test]
    fn both_families_and_protocols_are_understood() {
        for (src, dst) in [(A4, B4), (A6, B6)] {
            let seen = one(&syn(src, dst));
            assert_eq!(ends(&seen), (src.to_owned(), dst.to_owned()));
            assert_eq!((seen.tcp_flags, seen.fragment), (Some(flags::SYN), None));
            assert!(seen.is_syn());
            let answer = one(&tcp(src, dst).flags(flags::SYN | flags::ACK));
            assert!(!answer.is_syn());
            let seen = one(&udp(src, dst).vlan(0x8100, 7));
            assert_eq!(ends(&seen), (src.to_owned(), dst.to_owned()));
            assert_eq!(seen.tcp_flags, None);
        }
    }

    #[test]
    fn options_and_extension_headers_are_passed_over() {
        assert_eq!(ends(&one(&udp(A4, B4).ip_options(&[1; 8]))).1, B4);
        let padded = udp(A6, B6).extension(HOP_BY_HOP, &[0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(ends(&one(&padded)).1, B6);
    }

    #[test]
    fn only_the_first_ipv4_fragment_has_ports() {
        let first = one(&udp(A4, B4).fragment(0x2000));
        assert_eq!(first.dst.port(), 80);
        let fragment = |offset, more| {
            Some(Fragment {
                id: 0x1234,
                offset,
                more,
            })
        };
        assert_eq!(first.fragment, fragment(0, true));
        let last = one(&tcp(A4, B4).fragment(185));
        assert_eq!(ends(&last), ("10.0.0.1:0".to_owned(), "10.0.0.2:0".to_owned()));
        assert_eq!((last.tcp_flags, last.fragment), (None, fragment(1480, false)));
        // Do not fragment is no fragment.
        assert_eq!(one(&udp(A4, B4).fragment(0x4000)).fragment, None);
    }

    #[test]
    fn only_the_first_ipv6_fragment_has_ports() {
        let header = |field: u16| [&[0][..], &field.to_be_bytes(), &[0, 0, 0, 9]].concat();
        let fragment = |offset, more| Some(Fragment { id: 9, offset, more });
        let first = one(&udp(A6, B6).extension(FRAGMENT, &header(1)));
        assert_eq!((first.dst.port(), first.fragment), (80, fragment(0, true)));
        let last = one(&udp(A6, B6).extension(FRAGMENT, &header(1448)));
        assert_eq!(ends(&last), ("[fd00::1]:0".to_owned(), "[fd00::2]:0".to_owned()));
        assert_eq!(last.fragment, fragment(1448, false));
    }

    #[test]
    fn what_is_cut_or_of_others_does_no_harm() {
        let frames = [
            ip("10.0.0.1", "10.0.0.2", 1).bytes(),
            udp(A4, B4).ether_type(0x0806).bytes(),
            udp(A6, B6).cut(50),
            vec![0; 13],
        ];
        assert_eq!(packets(&file(&frames)), Ok(vec![]));
        // A first fragment that ends within the header.
        let short = packets(&file(&[udp(A4, B4).fragment(0x2000).cut(37)])).unwrap();
        assert_eq!((short[0].src.port(), short[0].dst.port()), (4711, 0));
    }

    #[test]
    fn a_file_that_is_no_capture_is_refused() {
        assert!(packets(b"short").is_err());
        assert!(packets(&[0; 24]).unwrap_err().contains("begins with"));
        let mut raw = file(&[]);
        raw[20..24].copy_from_slice(&101_u32.to_ne_bytes());
        assert!(packets(&raw).unwrap_err().contains("link type 101"));
        let mut cut = file(&[udp(A4, B4).bytes()]);
        cut.pop();
        assert!(packets(&cut).unwrap_err().contains("cut off"));
    }
}
