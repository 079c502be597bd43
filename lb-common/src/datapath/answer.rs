//! Telling a sender what has become of its packet: ICMP errors of our own.
//!
//! The packet itself becomes the answer and goes back where it came from. It quotes the IP header and the first 8 bytes
//! behind it, which hold the ports (RFC 792; RFC 4443, section 3). Addresses and ports are those that the sender
//! used, so that its socket recognises them.
//!
//! Nobody serves: port unreachable. And for packets that the node sends out itself, which cross no stack that would say
//! it: time exceeded, and what size the way takes (path-MTU discovery, RFC 1191 and RFC 8201).

use super::{Env, Family, Headers, Packet, RewriteError, V4, V6, Verdict, Way, Work, address};
use crate::{
    abi::proto,
    packet::{
        Ipv4, Ipv6, checksum,
        icmp::{self, Kind},
        ip,
    },
    verdict::Reason,
};

/// Words of an ICMP header.
const ICMP_WORDS: usize = icmp::LEN / 4;
/// Words that are quoted behind the IP header.
const QUOTED_WORDS: usize = 2;
/// Hops that the answer may take.
const HOPS: u8 = 64;

/// Turns the packet in `work` into the ICMP error for `reason`, if its sender can be told and not too many were; otherwise
/// it is dropped.
#[inline(never)]
pub(super) fn error<F, P, E>(packet: &mut P, env: &E, work: &Work<F::Addr>, reason: Reason) -> Verdict
where
    F: Answers,
    P: Packet,
    E: Env<F>,
{
    if !address::may_be_told::<F>(work) {
        return Verdict::plain(reason);
    }
    if !env.may_answer() {
        return Verdict::plain(Reason::RejectLimited);
    }
    let kind = match reason {
        Reason::TtlExpired => F::TIME_EXCEEDED,
        Reason::TooBig => F::TOO_BIG,
        _ => F::PORT_UNREACHABLE,
    };
    let size = match reason {
        Reason::TooBig => work.route.mtu,
        _ => 0,
    };
    let way = match F::error(packet, &work.headers, kind, size) {
        Ok(()) => Way::Back,
        Err(RewriteError) => Way::Stack,
    };
    Verdict { reason, way }
}

/// How each IP version says it.
pub(super) trait Answers: Family {
    /// Nobody listens.
    const PORT_UNREACHABLE: Kind;
    /// Length of an answer's frame, in bytes.
    const FRAME_LEN: usize = crate::packet::ethernet::LEN
        + 2 * if Self::IS_V6 {
            4 * Ipv6::WORDS
        } else {
            4 * Ipv4::WORDS
        }
        + 4 * (ICMP_WORDS + QUOTED_WORDS);
    /// The packet's hops ended.
    const TIME_EXCEEDED: Kind;
    /// The packet is larger than the way takes; the answer says what it takes.
    const TOO_BIG: Kind;

    /// Makes a packet the answer to itself. `size` goes into the word behind the checksum (bytes; 0 for kinds that leave it
    /// unused).
    fn error<P: Packet>(
        packet: &mut P,
        headers: &Headers<Self::Addr>,
        kind: Kind,
        size: u32,
    ) -> Result<(), RewriteError>;
}

impl Answers for V4 {
    const PORT_UNREACHABLE: Kind = icmp::PORT_UNREACHABLE;
    const TIME_EXCEEDED: Kind = icmp::TIME_EXCEEDED;
    const TOO_BIG: Kind = icmp::FRAGMENTATION_NEEDED;

    /// A packet with IP options is not answered: they are rare, and would have to be quoted.
    #[inline(always)]
    fn error<P: Packet>(
        packet: &mut P,
        headers: &Headers<u32>,
        kind: Kind,
        size: u32,
    ) -> Result<(), RewriteError> {
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
        words[ICMP] = kind.word(0);
        // The upper half of the word is unused (RFC 1191, section 4).
        words[ICMP + 1] = (size & 0xffff).to_be();
        words[ICMP] = kind.word(checksum::of(&words, ICMP..ALL, 0));
        packet.become_answer(&words)
    }
}

impl Answers for V6 {
    const PORT_UNREACHABLE: Kind = icmp::PORT_UNREACHABLE_V6;
    const TIME_EXCEEDED: Kind = icmp::TIME_EXCEEDED_V6;
    const TOO_BIG: Kind = icmp::PACKET_TOO_BIG;

    /// A packet with extension headers is not answered: they would have to be quoted.
    #[inline(always)]
    fn error<P: Packet>(
        packet: &mut P,
        headers: &Headers<[u32; 4]>,
        kind: Kind,
        size: u32,
    ) -> Result<(), RewriteError> {
        const QUOTE: usize = Ipv6::WORDS + QUOTED_WORDS;
        const ICMP: usize = Ipv6::WORDS;
        const ALL: usize = ICMP + ICMP_WORDS + QUOTE;
        const ICMP_LEN: u16 = (4 * (ALL - ICMP)) as u16;
        if headers.transport_offset as usize != ip::OFFSET + Ipv6::LEN {
            return Err(RewriteError);
        }
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
        words[ICMP] = kind.word(0);
        words[ICMP + 1] = size.to_be();
        // The pseudo header (RFC 8200, section 8.1): addresses, length, next header.
        let pseudo = ICMP_LEN.to_be() as u64 + (proto::ICMPV6 as u16).to_be() as u64;
        words[ICMP] = kind.word(checksum::of(&words, 2..ALL, pseudo));
        packet.become_answer(&words)
    }
}
