//! ICMP messages for packet tables, computed from scratch.

use std::net::IpAddr;

use crate::packet::{self, Build, checksum, octets};

/// The protocol number of ICMP.
const ICMP: u8 = 1;
/// The protocol number of ICMPv6.
const ICMPV6: u8 = 58;

/// Type and code of an error, and the word behind its checksum.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// What it is called.
    pub name: &'static str,
    /// Type and code.
    pub bytes: [u8; 2],
    /// The word behind the checksum: the size that fits, or a pointer.
    pub word: u32,
}

const fn kind(name: &'static str, bytes: [u8; 2], word: u32) -> Kind {
    Kind { name, bytes, word }
}

/// The errors of ICMP (RFC 792, RFC 1191).
pub const KINDS: [Kind; 5] = [
    kind("port_unreachable", [3, 3], 0),
    kind("host_unreachable", [3, 1], 0),
    kind("fragmentation_needed", [3, 4], 1400),
    kind("time_exceeded", [11, 0], 0),
    kind("parameter_problem", [12, 0], 0x0800_0000),
];

/// The errors of ICMPv6 (RFC 4443).
pub const KINDS_V6: [Kind; 5] = [
    kind("port_unreachable", [1, 4], 0),
    kind("no_route", [1, 0], 0),
    kind("packet_too_big", [2, 0], 1400),
    kind("time_exceeded", [3, 0], 0),
    kind("parameter_problem", [4, 1], 6),
];

/// An error from `from` to `to` about the first `len` bytes of the IP packet `quoted`.
pub fn error(from: IpAddr, to: IpAddr, kind: Kind, quoted: &Build, len: usize) -> Build {
    let frame = quoted.bytes();
    let quote = &frame[14..];
    message(from, to, kind.bytes, kind.word, &quote[..len.min(quote.len())])
}

/// Any message: type and code, the word behind the checksum, and what follows.
pub fn message(from: IpAddr, to: IpAddr, kind: [u8; 2], word: u32, rest: &[u8]) -> Build {
    let mut message = kind.to_vec();
    message.extend([0; 2]);
    message.extend(word.to_be_bytes());
    message.extend(rest);
    let mut covered = Vec::new();
    if from.is_ipv6() {
        covered.extend(octets(from));
        covered.extend(octets(to));
        covered.extend((message.len() as u32).to_be_bytes());
        covered.extend([0, 0, 0, ICMPV6]);
    }
    covered.extend(&message);
    message[2..4].copy_from_slice(&checksum(&covered).to_be_bytes());
    let proto = if from.is_ipv4() { ICMP } else { ICMPV6 };
    packet::ip(&from.to_string(), &to.to_string(), proto).payload(&message)
}
