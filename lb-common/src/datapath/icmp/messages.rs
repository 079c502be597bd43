//! What ICMP and ICMPv6 messages look like, and how their headers are changed.

use super::super::{Family, Headers, Packet, RewriteError, V4, V6};
use crate::{
    abi::{Tuple, proto},
    packet::{
        Delta, Ipv4, Ipv6,
        icmp::{self, Message},
        ip, transport,
    },
};

/// Hops that an answer may take.
const HOPS: u8 = 64;

/// What each IP version's messages look like.
pub(in super::super) trait Messages: Family {
    /// Type of an echo reply.
    const ECHO_REPLY: u8;

    /// What a message of that type is.
    fn message(kind: u8) -> Message;

    /// Reads the IP header of an ICMP packet: addresses, hops and where the message begins. Returns the offset of its end
    /// in the frame, or 0 if it is none or not whole.
    fn read_outer<P: Packet>(packet: &P, into: &mut Headers<Self::Addr>) -> usize;

    /// Reads the headers that an error quotes at `at`, up to `end` (offsets in the frame). What goes into `into` is turned
    /// around: the key is that of the other direction. False if they cannot be told, or belong to other protocols.
    fn read_quoted<P: Packet>(packet: &P, at: usize, end: usize, into: &mut Headers<Self::Addr>) -> bool;

    /// Writes the addresses of `new` into the IP header that is quoted at `at`, turned around, and its checksum.
    fn write_quoted<P: Packet>(
        packet: &mut P,
        at: usize,
        quoted: &Headers<Self::Addr>,
        new: &Tuple<Self::Addr>,
    ) -> Result<(), RewriteError>;

    /// Turns the IP header around, and gives it [`HOPS`].
    fn turn_around<P: Packet>(packet: &mut P, headers: &Headers<Self::Addr>) -> Result<(), RewriteError>;
}

/// Whether packets of that protocol may be those of a flow.
#[inline(always)]
const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, proto::TCP | proto::UDP | proto::SCTP)
}

impl Messages for V4 {
    const ECHO_REPLY: u8 = 0;

    #[inline(always)]
    fn message(kind: u8) -> Message {
        icmp::message(kind)
    }

    #[inline(always)]
    fn read_outer<P: Packet>(packet: &P, into: &mut Headers<u32>) -> usize {
        let Some(words) = packet.read::<{ ip::OFFSET }, { Ipv4::WORDS }>() else {
            return 0;
        };
        let header = Ipv4(words);
        let (header_len, end) = (header.header_len(), ip::OFFSET + header.total_len());
        let sound = header.version() == 4 && header_len >= Ipv4::LEN && !header.is_fragment();
        if !sound
            || header.protocol() != proto::ICMP
            || ip::OFFSET + header_len + icmp::LEN > end
            || packet.frame_len() < end
        {
            return 0;
        }
        into.key.tuple.src = header.src();
        into.key.tuple.dst = header.dst();
        into.key.tuple.ports = 0;
        into.key.protocol = proto::ICMP.into();
        into.hop_word = header.ttl_protocol_checksum();
        into.transport_offset = (ip::OFFSET + header_len) as u32;
        end
    }

    #[inline(always)]
    fn read_quoted<P: Packet>(packet: &P, at: usize, end: usize, into: &mut Headers<u32>) -> bool {
        let Some(words) = packet.read_at::<{ Ipv4::WORDS }>(at) else {
            return false;
        };
        let header = Ipv4(words);
        let transport = at + header.header_len();
        if header.version() != 4
            || header.header_len() < Ipv4::LEN
            || header.is_later_fragment()
            || !has_ports(header.protocol())
            || transport + icmp::QUOTED_LEN > end
        {
            return false;
        }
        let Some([ports]) = packet.read_at::<1>(transport) else {
            return false;
        };
        into.key.tuple.src = header.dst();
        into.key.tuple.dst = header.src();
        into.key.tuple.ports = ports.rotate_left(16);
        into.key.protocol = header.protocol().into();
        into.hop_word = header.ttl_protocol_checksum();
        into.transport_offset = transport as u32;
        true
    }

    #[inline(always)]
    fn write_quoted<P: Packet>(
        packet: &mut P,
        at: usize,
        quoted: &Headers<u32>,
        new: &Tuple<u32>,
    ) -> Result<(), RewriteError> {
        let (ttl_protocol, checksum) = transport::ports(quoted.hop_word);
        let checksum = Delta::addresses(&quoted.key.tuple, new).apply(checksum);
        let word = transport::ports_word(ttl_protocol, checksum);
        packet.write_at(at + Ipv4::TTL_OFFSET, &[word, new.dst, new.src])
    }

    #[inline(always)]
    fn turn_around<P: Packet>(packet: &mut P, headers: &Headers<u32>) -> Result<(), RewriteError> {
        let (old, checksum) = transport::ports(headers.hop_word);
        let [_, protocol] = old.to_ne_bytes();
        let new = u16::from_ne_bytes([HOPS, protocol]);
        let word = transport::ports_word(new, Delta::word(old, new).apply(checksum));
        let tuple = &headers.key.tuple;
        packet.write_at(ip::OFFSET + Ipv4::TTL_OFFSET, &[word, tuple.dst, tuple.src])
    }
}

impl Messages for V6 {
    const ECHO_REPLY: u8 = 129;

    #[inline(always)]
    fn message(kind: u8) -> Message {
        icmp::message_v6(kind)
    }

    /// Messages behind extension headers are left alone.
    #[inline(always)]
    fn read_outer<P: Packet>(packet: &P, into: &mut Headers<[u32; 4]>) -> usize {
        const MESSAGE: usize = ip::OFFSET + Ipv6::LEN;
        let Some(words) = packet.read::<{ ip::OFFSET }, { Ipv6::WORDS }>() else {
            return 0;
        };
        let header = Ipv6(words);
        let end = MESSAGE + header.payload_len();
        if header.version() != 6
            || header.next_header() != proto::ICMPV6
            || MESSAGE + icmp::LEN > end
            || packet.frame_len() < end
        {
            return 0;
        }
        into.key.tuple.src = header.src();
        into.key.tuple.dst = header.dst();
        into.key.tuple.ports = 0;
        into.key.protocol = proto::ICMPV6.into();
        into.hop_word = header.hop_word();
        into.transport_offset = MESSAGE as u32;
        end
    }

    #[inline(always)]
    fn read_quoted<P: Packet>(packet: &P, at: usize, end: usize, into: &mut Headers<[u32; 4]>) -> bool {
        let Some(words) = packet.read_at::<{ Ipv6::WORDS }>(at) else {
            return false;
        };
        let header = Ipv6(words);
        let transport = at + Ipv6::LEN;
        if header.version() != 6 || !has_ports(header.next_header()) || transport + icmp::QUOTED_LEN > end {
            return false;
        }
        let Some([ports]) = packet.read_at::<1>(transport) else {
            return false;
        };
        into.key.tuple.src = header.dst();
        into.key.tuple.dst = header.src();
        into.key.tuple.ports = ports.rotate_left(16);
        into.key.protocol = header.next_header().into();
        into.hop_word = header.hop_word();
        into.transport_offset = transport as u32;
        true
    }

    #[inline(always)]
    fn write_quoted<P: Packet>(
        packet: &mut P,
        at: usize,
        _quoted: &Headers<[u32; 4]>,
        new: &Tuple<[u32; 4]>,
    ) -> Result<(), RewriteError> {
        let ([a, b, c, d], [e, f, g, h]) = (new.dst, new.src);
        packet.write_at(at + Ipv6::ADDRESSES_OFFSET, &[a, b, c, d, e, f, g, h])
    }

    #[inline(always)]
    fn turn_around<P: Packet>(packet: &mut P, headers: &Headers<[u32; 4]>) -> Result<(), RewriteError> {
        let tuple = &headers.key.tuple;
        let ([a, b, c, d], [e, f, g, h]) = (tuple.dst, tuple.src);
        let [x, y, next, _] = headers.hop_word.to_ne_bytes();
        let word = u32::from_ne_bytes([x, y, next, HOPS]);
        packet.write_at(ip::OFFSET + Ipv6::HOP_OFFSET, &[word, a, b, c, d, e, f, g, h])
    }
}
