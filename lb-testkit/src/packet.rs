//! Frames, sound by default and broken on request.
//!
//! Everything is computed here from scratch: nothing is shared with the code that the frames are to test.

use std::net::{IpAddr, SocketAddr};

/// Flags of a TCP header.
pub mod flags {
    /// The sender has no more to say.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Refuses or ends a connection at once.
    pub const RST: u8 = 0x04;
    /// Hand over what has come so far.
    pub const PSH: u8 = 0x08;
    /// Acknowledges.
    pub const ACK: u8 = 0x10;
}

/// The protocol number of TCP.
pub(crate) const TCP: u8 = 6;
/// The protocol number of UDP.
pub(crate) const UDP: u8 = 17;
/// The protocol number of SCTP.
const SCTP: u8 = 132;

/// Types of SCTP chunks.
pub mod chunk {
    /// Data.
    pub const DATA: u8 = 0;
    /// Opens an association.
    pub const INIT: u8 = 1;
    /// Answers [`INIT`].
    pub const INIT_ACK: u8 = 2;
    /// Ends an association at once.
    pub const ABORT: u8 = 6;
    /// Ends an association.
    pub const SHUTDOWN: u8 = 7;
    /// Answers [`SHUTDOWN`].
    pub const SHUTDOWN_ACK: u8 = 8;
    /// Answers [`INIT_ACK`].
    pub const COOKIE_ECHO: u8 = 10;
    /// Answers [`SHUTDOWN_ACK`].
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// A frame in the making: a TCP segment, UDP datagram or SCTP packet with right checksums, until told otherwise.
#[derive(Clone, Debug)]
pub struct Build {
    src: SocketAddr,
    dst: SocketAddr,
    proto: u8,
    flags: u8,
    chunk: u8,
    dst_mac: [u8; 6],
    hops: u8,
    vlan: Vec<(u16, u16)>,
    ether_type: Option<u16>,
    ip_options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    fragment: u16,
    id: u32,
    tcp_options: Vec<u8>,
    payload: Vec<u8>,
    trailer: Vec<u8>,
    no_checksum: bool,
    wrong: u16,
    wrong_ip: u16,
}

/// A TCP segment with ACK from `src` to `dst` (`address:port`).
pub fn tcp(src: &str, dst: &str) -> Build {
    Build::new(src, dst, TCP)
}

/// A TCP segment with SYN alone.
pub fn syn(src: &str, dst: &str) -> Build {
    tcp(src, dst).flags(flags::SYN)
}

/// A UDP datagram.
pub fn udp(src: &str, dst: &str) -> Build {
    Build::new(src, dst, UDP)
}

/// An SCTP packet of one chunk.
pub fn sctp(src: &str, dst: &str) -> Build {
    Build::new(src, dst, SCTP)
}

/// Any IP packet with the payload of a `proto` that has no ports.
pub fn ip(src: &str, dst: &str, proto: u8) -> Build {
    Build::new(
        &format!("{}:0", bracket(src)),
        &format!("{}:0", bracket(dst)),
        proto,
    )
}

fn bracket(addr: &str) -> String {
    if addr.contains(':') {
        format!("[{addr}]")
    } else {
        addr.to_owned()
    }
}

/// A socket address as tests write it.
///
/// # Panics
///
/// If it is none: it is a constant of the test.
pub fn addr(text: &str) -> SocketAddr {
    text.parse()
        .unwrap_or_else(|_| panic!("{text} is not address:port"))
}

impl Build {
    fn new(src: &str, dst: &str, proto: u8) -> Self {
        Self {
            src: addr(src),
            dst: addr(dst),
            proto,
            flags: flags::ACK,
            chunk: chunk::DATA,
            dst_mac: [0; 6],
            hops: 64,
            vlan: Vec::new(),
            ether_type: None,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            fragment: 0,
            id: 0x1234,
            tcp_options: Vec::new(),
            payload: b"fairlead".to_vec(),
            trailer: Vec::new(),
            no_checksum: false,
            wrong: 0,
            wrong_ip: 0,
        }
    }

    /// TCP flags.
    pub fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    /// The type of an SCTP packet's chunk.
    pub fn chunk(mut self, chunk: u8) -> Self {
        self.chunk = chunk;
        self
    }

    /// Another destination than the receiver.
    pub fn for_other_host(mut self) -> Self {
        self.dst_mac = [2, 0, 0, 0, 0, 9];
        self
    }

    /// A tag with that EtherType (0x8100 or 0x88a8) and identifier, inside the ones before.
    pub fn vlan(mut self, tag_type: u16, id: u16) -> Self {
        self.vlan.push((tag_type, id));
        self
    }

    /// Another EtherType than the one of the addresses.
    pub fn ether_type(mut self, ether_type: u16) -> Self {
        self.ether_type = Some(ether_type);
        self
    }

    /// IPv4 options, padded to whole words with "end of options".
    pub fn ip_options(mut self, options: &[u8]) -> Self {
        self.ip_options = options.to_vec();
        self.ip_options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// An IPv6 extension header of that type: its content without the next-header byte.
    pub fn extension(mut self, kind: u8, content: &[u8]) -> Self {
        self.extensions.push((kind, content.to_vec()));
        self
    }

    /// The IPv4 flags and fragment offset field.
    pub fn fragment(mut self, field: u16) -> Self {
        self.fragment = field;
        self
    }

    /// The identification; IPv4 takes the low 16 bits.
    pub fn id(mut self, id: u32) -> Self {
        self.id = id;
        self
    }

    /// TCP options, padded to whole words.
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        self.tcp_options = options.to_vec();
        self.tcp_options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// What follows the headers.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Bytes behind the IP packet, such as Ethernet's padding.
    pub fn trailer(mut self, trailer: &[u8]) -> Self {
        self.trailer = trailer.to_vec();
        self
    }

    /// UDP or SCTP without a checksum.
    pub fn no_checksum(mut self) -> Self {
        self.no_checksum = true;
        self
    }

    /// A transport checksum that is wrong by `by`.
    pub fn wrong_checksum(mut self, by: u16) -> Self {
        self.wrong = by;
        self
    }

    /// An IPv4 header checksum that is wrong by `by`.
    pub fn wrong_ip_checksum(mut self, by: u16) -> Self {
        self.wrong_ip = by;
        self
    }

    /// With that many hops left (time to live, hop limit) instead of 64.
    pub fn hops(mut self, hops: u8) -> Self {
        self.hops = hops;
        self
    }

    /// The same packet to another destination: what a translation must give.
    pub fn to(mut self, dst: &str) -> Self {
        self.dst = addr(dst);
        self
    }

    /// The same packet from another source: what a restored reply must look like.
    pub fn from(mut self, src: &str) -> Self {
        self.src = addr(src);
        self
    }

    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        self.frame(&self.transport())
    }

    /// The frames of the datagram in fragments of `size` bytes, which must be a multiple of 8. IPv6 extension headers stand
    /// in each of them.
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        let transport = self.transport();
        let mut frames = Vec::new();
        for (nth, piece) in transport.chunks(size).enumerate() {
            let offset = nth * size;
            let more = offset + piece.len() < transport.len();
            let mut build = self.clone();
            if self.src.is_ipv4() {
                build.fragment = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
            } else {
                build = build.fragment_header(offset as u16 | u16::from(more));
            }
            frames.push(build.frame(piece));
        }
        frames
    }

    /// An IPv6 fragment header; the field holds offset and flags.
    pub fn fragment_header(self, field: u16) -> Self {
        let mut content = vec![0];
        content.extend(field.to_be_bytes());
        content.extend(self.id.to_be_bytes());
        self.extension(44, &content)
    }

    fn frame(&self, transport: &[u8]) -> Vec<u8> {
        let mut frame = self.dst_mac.to_vec();
        frame.extend([2, 0, 0, 0, 0, 1]);
        for (tag_type, id) in &self.vlan {
            frame.extend(tag_type.to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        let ether_type = if self.src.is_ipv4() { 0x0800 } else { 0x86dd };
        frame.extend(self.ether_type.unwrap_or(ether_type).to_be_bytes());
        frame.extend(if self.src.is_ipv4() {
            self.ipv4(transport)
        } else {
            self.ipv6(transport)
        });
        frame.extend(&self.trailer);
        frame
    }

    /// The frame by which the destination says that nobody listens: ICMP port unreachable.
    pub fn port_unreachable(&self) -> Vec<u8> {
        self.answer(if self.src.is_ipv4() { [3, 3] } else { [1, 4] }, 0)
    }

    /// The frame by which the destination says that the packet has gone as far as it may: ICMP time exceeded.
    pub fn time_exceeded(&self) -> Vec<u8> {
        self.answer(if self.src.is_ipv4() { [11, 0] } else { [3, 0] }, 0)
    }

    /// The frame by which the destination says that the packet may have `mtu` bytes at most.
    pub fn too_big(&self, mtu: u32) -> Vec<u8> {
        self.answer(if self.src.is_ipv4() { [3, 4] } else { [2, 0] }, mtu)
    }

    /// The ICMP error of that type and code, which quotes the IP header (without options) and 8 bytes.
    fn answer(&self, kind: [u8; 2], word: u32) -> Vec<u8> {
        let frame = self.bytes();
        let v4 = self.src.is_ipv4();
        let quote = &frame[14..14 + if v4 { 28 } else { 48 }];
        let mut icmp = kind.to_vec();
        icmp.extend([0; 2]);
        icmp.extend(word.to_be_bytes());
        icmp.extend(quote);
        let mut covered = Vec::new();
        if !v4 {
            covered.extend(octets(self.dst.ip()));
            covered.extend(octets(self.src.ip()));
            covered.extend((icmp.len() as u32).to_be_bytes());
            covered.extend([0, 0, 0, 58]);
        }
        covered.extend(&icmp);
        icmp[2..4].copy_from_slice(&checksum(&covered).to_be_bytes());
        let mut answer = frame[6..12].to_vec();
        answer.extend(&frame[..6]);
        answer.extend(&frame[12..14]);
        if v4 {
            let mut header = vec![0x45, 0];
            header.extend(((20 + icmp.len()) as u16).to_be_bytes());
            header.extend([0, 0, 0, 0, 64, 1, 0, 0]);
            header.extend(octets(self.dst.ip()));
            header.extend(octets(self.src.ip()));
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            answer.extend(header);
        } else {
            answer.extend([0x60, 0, 0, 0]);
            answer.extend((icmp.len() as u16).to_be_bytes());
            answer.extend([58, 64]);
            answer.extend(octets(self.dst.ip()));
            answer.extend(octets(self.src.ip()));
        }
        answer.extend(icmp);
        answer
    }

    /// The first `len` bytes of the frame.
    pub fn cut(&self, len: usize) -> Vec<u8> {
        let mut frame = self.bytes();
        frame.truncate(len);
        frame
    }

    /// The frame with the byte at `at` changed.
    pub fn with_byte(&self, at: usize, byte: u8) -> Vec<u8> {
        let mut frame = self.bytes();
        frame[at] = byte;
        frame
    }

    fn ipv4(&self, transport: &[u8]) -> Vec<u8> {
        let len = 20 + self.ip_options.len();
        let mut header = vec![0x40 | (len / 4) as u8, 0];
        header.extend(((len + transport.len()) as u16).to_be_bytes());
        header.extend((self.id as u16).to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.hops, self.proto, 0, 0]);
        header.extend(octets(self.src.ip()));
        header.extend(octets(self.dst.ip()));
        header.extend(&self.ip_options);
        let sum = off_by(checksum(&header), self.wrong_ip);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header.extend(transport);
        header
    }

    fn ipv6(&self, transport: &[u8]) -> Vec<u8> {
        let kinds: Vec<u8> = self
            .extensions
            .iter()
            .map(|(kind, _)| *kind)
            .chain([self.proto])
            .collect();
        let mut rest = Vec::new();
        for ((_, content), next) in self.extensions.iter().zip(&kinds[1..]) {
            rest.push(*next);
            rest.extend(content);
        }
        rest.extend(transport);
        let mut header = vec![0x60, 0, 0, 0];
        header.extend((rest.len() as u16).to_be_bytes());
        header.extend([kinds[0], self.hops]);
        header.extend(octets(self.src.ip()));
        header.extend(octets(self.dst.ip()));
        header.extend(rest);
        header
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if [TCP, UDP, SCTP].contains(&self.proto) {
            bytes.extend(self.src.port().to_be_bytes());
            bytes.extend(self.dst.port().to_be_bytes());
        }
        let at = match self.proto {
            TCP => {
                bytes.extend([0, 0, 0, 7, 0, 0, 0, 0]);
                bytes.extend([
                    ((5 + self.tcp_options.len() / 4) << 4) as u8,
                    self.flags,
                    0xff,
                    0xff,
                    0,
                    0,
                    0,
                    0,
                ]);
                bytes.extend(&self.tcp_options);
                16
            }
            UDP => {
                bytes.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                6
            }
            SCTP => {
                bytes.extend([0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 0, self.chunk, 0]);
                bytes.extend(((4 + self.payload.len()) as u16).to_be_bytes());
                bytes.extend(&self.payload);
                if !self.no_checksum {
                    let sum = crc32c(&bytes) ^ u32::from(self.wrong);
                    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
                }
                return bytes;
            }
            _ => {
                bytes.extend(&self.payload);
                return bytes;
            }
        };
        bytes.extend(&self.payload);
        if self.proto == UDP && self.no_checksum {
            return bytes;
        }
        let mut covered = octets(self.src.ip());
        covered.extend(octets(self.dst.ip()));
        covered.extend([0, self.proto]);
        covered.extend((bytes.len() as u16).to_be_bytes());
        covered.extend(&bytes);
        let mut sum = checksum(&covered);
        if self.proto == UDP && sum == 0 {
            sum = 0xffff;
        }
        bytes[at..at + 2].copy_from_slice(&off_by(sum, self.wrong).to_be_bytes());
        bytes
    }
}

/// A checksum that is wrong by `by`, in the arithmetic of checksums: a translation keeps the distance.
fn off_by(sum: u16, by: u16) -> u16 {
    let wide = u32::from(sum) + u32::from(by);
    ((wide & 0xffff) + (wide >> 16)) as u16
}

pub(crate) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The Internet checksum (RFC 1071), computed from scratch: independently of the code under test.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// CRC32c (RFC 9260, appendix A), bit by bit: independently of the code under test.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4.
    #[test]
    fn the_crc_is_that_of_known_bytes() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    /// Put together again, fragments are the datagram.
    #[test]
    fn fragments_hold_the_datagram() {
        let v4 = udp("10.0.0.1:1", "10.0.0.2:2").payload(&[7; 100]);
        let v6 = udp("[fd00::1]:1", "[fd00::2]:2").payload(&[7; 100]);
        for (build, header, fields) in [(v4, 34, [0x2000, 0x2005, 0x000a]), (v6, 62, [1, 41, 80])] {
            let frames = build.fragments(40);
            assert_eq!(frames.len(), 3);
            let whole = build.bytes();
            let transport = if header == 34 { 34 } else { 54 };
            let together: Vec<u8> = frames.iter().flat_map(|frame| frame[header..].to_vec()).collect();
            assert_eq!(together, whole[transport..]);
            let at = if header == 34 { 20 } else { 56 };
            let found = [0, 1, 2].map(|nth| u16::from_be_bytes([frames[nth][at], frames[nth][at + 1]]));
            assert_eq!(found, fields);
        }
    }

    #[test]
    fn the_checksum_is_that_of_a_known_header() {
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0, 0, 192, 168, 0, 1, 192, 168, 0,
            199,
        ];
        assert_eq!(checksum(&header), 0xb861);
    }

    /// What a receiver does: the sum over everything, checksum included, leaves nothing.
    #[test]
    fn receivers_find_the_checksums_right_until_told_otherwise() {
        const HEADERS: usize = 14;
        let fine = |build: &Build| {
            let frame = build.bytes();
            let transport = &frame[HEADERS + 20..];
            let mut covered = frame[HEADERS + 12..HEADERS + 20].to_vec();
            covered.extend([0, frame[HEADERS + 9]]);
            covered.extend((transport.len() as u16).to_be_bytes());
            covered.extend(transport);
            (
                checksum(&frame[HEADERS..HEADERS + 20]) == 0,
                checksum(&covered) == 0,
            )
        };
        for build in [syn("10.0.0.1:1", "10.0.0.2:2"), udp("10.0.0.1:1", "10.0.0.2:2")] {
            assert_eq!(fine(&build.clone().payload(b"odd")), (true, true));
            assert_eq!(fine(&build.clone().wrong_checksum(1)), (true, false));
            assert_eq!(fine(&build.wrong_ip_checksum(1)), (false, true));
        }
    }
}
