//! Telling the sender that nobody serves: ICMP port unreachable.
//!
//! The packet itself becomes the answer and goes back where it came from. It quotes the IP header and the first 8 bytes
//! behind it, which hold the ports (RFC 792; RFC 4443, section 3.1). Addresses and ports are those that the sender
//! used, so that its socket recognises them.

use super::{Headers, Packet, RewriteError};
use crate::{
    abi::proto,
    packet::{Ipv4, Ipv6, checksum, ip},
};

/// Words of an ICMP header.
const ICMP_WORDS: usize = 2;
/// Words that are quoted behind the IP header.
const QUOTED_WORDS: usize = 2;
/// Hops that the answer may take.
const HOPS: u8 = 64;

/// Type "destination unreachable" and code "port unreachable" of ICMP (RFC 792).
const UNREACHABLE: [u8; 2] = [3, 3];
/// The same of ICMPv6 (RFC 4443, section 3.1).
const UNREACHABLE_V6: [u8; 2] = [1, 4];

/// Makes an IPv4 packet the answer to itself. One with IP options is not answered: they are rare, and would have to be
/// quoted.
#[inline(always)]
pub(super) fn v4<P: Packet>(packet: &mut P, headers: &Headers<u32>) -> Result<(), RewriteError> {
    const QUOTE: usize = Ipv4::WORDS + QUOTED_WORDS;
    const ICMP: usize = Ipv4::WORDS;
    const ALL: usize = ICMP + ICMP_WORDS + QUOTE;
    if headers.transport_offset as usize != ip::OFFSET + Ipv4::LEN {
        return Err(RewriteError);
    }
    let quote = packet.read::<{ ip::OFFSET }, QUOTE>().ok_or(RewriteError)?;
    let mut words = [0; ALL];
    let [len_high, len_low] = ((4 * ALL) as u16).to_be_bytes();
    words[0] = u32::from_ne_bytes([0x45, 0, len_high, len_low]);
    words[2] = u32::from_ne_bytes([HOPS, proto::ICMP, 0, 0]);
    words[3] = headers.key.tuple.dst;
    words[4] = headers.key.tuple.src;
    let [first, second] = checksum::of(&words, 0..Ipv4::WORDS, 0).to_ne_bytes();
    words[2] = u32::from_ne_bytes([HOPS, proto::ICMP, first, second]);
    let mut nth = 0;
    while nth < QUOTE {
        words[ICMP + ICMP_WORDS + nth] = quote[nth];
        nth += 1;
    }
    words[ICMP] = u32::from_ne_bytes([UNREACHABLE[0], UNREACHABLE[1], 0, 0]);
    let [first, second] = checksum::of(&words, ICMP..ALL, 0).to_ne_bytes();
    words[ICMP] = u32::from_ne_bytes([UNREACHABLE[0], UNREACHABLE[1], first, second]);
    packet.become_answer(&words)
}

/// Makes an IPv6 packet the answer to itself.
#[inline(always)]
pub(super) fn v6<P: Packet>(packet: &mut P, headers: &Headers<[u32; 4]>) -> Result<(), RewriteError> {
    const QUOTE: usize = Ipv6::WORDS + QUOTED_WORDS;
    const ICMP: usize = Ipv6::WORDS;
    const ALL: usize = ICMP + ICMP_WORDS + QUOTE;
    const ICMP_LEN: u16 = (4 * (ALL - ICMP)) as u16;
    let quote = packet.read::<{ ip::OFFSET }, QUOTE>().ok_or(RewriteError)?;
    let mut words = [0; ALL];
    let [len_high, len_low] = ICMP_LEN.to_be_bytes();
    words[0] = u32::from_ne_bytes([0x60, 0, 0, 0]);
    words[1] = u32::from_ne_bytes([len_high, len_low, proto::ICMPV6, HOPS]);
    let (src, dst) = (headers.key.tuple.dst, headers.key.tuple.src);
    let mut nth = 0;
    while nth < 4 {
        words[2 + nth] = src[nth];
        words[6 + nth] = dst[nth];
        nth += 1;
    }
    let mut nth = 0;
    while nth < QUOTE {
        words[ICMP + ICMP_WORDS + nth] = quote[nth];
        nth += 1;
    }
    words[ICMP] = u32::from_ne_bytes([UNREACHABLE_V6[0], UNREACHABLE_V6[1], 0, 0]);
    // The pseudo header (RFC 8200, section 8.1): addresses, length, next header.
    let pseudo = ICMP_LEN.to_be() as u64 + (proto::ICMPV6 as u16).to_be() as u64;
    let [first, second] = checksum::of(&words, 2..ALL, pseudo).to_ne_bytes();
    words[ICMP] = u32::from_ne_bytes([UNREACHABLE_V6[0], UNREACHABLE_V6[1], first, second]);
    packet.become_answer(&words)
}
