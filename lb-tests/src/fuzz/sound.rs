//! Whether a frame's checksums hold: computed from scratch, with nothing of the code under test.

/// What the checksums of a frame say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sound {
    /// The IPv4 header's; true for IPv6, which has none.
    pub(super) header: bool,
    /// That of TCP, UDP or ICMP; none for other protocols, fragments, and frames whose lengths contradict each other.
    pub(super) payload: Option<bool>,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What the checksums of a frame say; none if it is no IP packet that is there to its end.
pub(super) fn sound(frame: &[u8]) -> Option<Sound> {
    let packet = frame.get(14..)?;
    match frame.get(12..14)? {
        [0x08, 0x00] => v4(packet),
        [0x86, 0xdd] => v6(packet),
        _ => None,
    }
}

fn v4(packet: &[u8]) -> Option<Sound> {
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(word(packet, 2)?);
    let header = packet.get(..header_len.max(20))?;
    let payload = packet.get(header_len..total)?;
    let is_fragment = word(packet, 6)? & 0x3fff != 0;
    let protocol = packet[9];
    let pseudo = sum(&packet[12..20]) + u64::from(protocol) + payload.len() as u64;
    Some(Sound {
        header: fold(sum(header)) == 0xffff,
        payload: if is_fragment {
            None
        } else {
            of_payload(protocol, payload, pseudo)
        },
    })
}

fn v6(packet: &[u8]) -> Option<Sound> {
    let len = usize::from(word(packet, 4)?);
    let protocol = *packet.get(6)?;
    let payload = packet.get(40..)?.get(..len)?;
    let pseudo = sum(&packet[8..40]) + u64::from(protocol) + payload.len() as u64;
    Some(Sound {
        header: true,
        payload: of_payload(protocol, payload, pseudo),
    })
}

fn of_payload(protocol: u8, payload: &[u8], pseudo: u64) -> Option<bool> {
    let covered = match protocol {
        TCP if payload.len() >= 20 => pseudo,
        // No checksum at all is sound in IPv4, and the datapath leaves it so in IPv6 too.
        UDP if payload.len() >= 8 && word(payload, 4)? as usize == payload.len() => {
            if word(payload, 6)? == 0 {
                return Some(true);
            }
            pseudo
        }
        ICMP if payload.len() >= 8 => 0,
        ICMPV6 if payload.len() >= 8 => pseudo,
        _ => return None,
    };
    Some(fold(covered + sum(payload)) == 0xffff)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))
        .sum()
}

fn fold(mut sum: u64) -> u64 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

#[cfg(test)]
mod tests {
    use lb_testkit::packet;

    use super::*;

    #[test]
    fn sound_frames_are_told_from_broken_ones() {
        for build in [
            packet::tcp("10.0.0.1:1", "10.0.0.2:2"),
            packet::udp("10.0.0.1:1", "10.0.0.2:2"),
            packet::tcp("[fd00::1]:1", "[fd00::2]:2"),
            packet::udp("[fd00::1]:1", "[fd00::2]:2"),
        ] {
            let good = sound(&build.clone().bytes());
            assert_eq!(
                good.map(|sound| (sound.header, sound.payload)),
                Some((true, Some(true)))
            );
            let bad = sound(&build.wrong_checksum(1).bytes());
            assert_eq!(bad.and_then(|sound| sound.payload), Some(false));
        }
        let bad = packet::udp("10.0.0.1:1", "10.0.0.2:2")
            .wrong_ip_checksum(1)
            .bytes();
        assert_eq!(sound(&bad).map(|sound| sound.header), Some(false));
    }
}
