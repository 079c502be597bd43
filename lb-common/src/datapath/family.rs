//! IPv4 and IPv6: what differs between them, and nothing else.

use super::{Packet, RewriteError, Work, Works, extensions};
use crate::{
    abi::{Address, FlowKey, FrontendKind, Tuple, proto},
    flow::{sctp_flags, tcp as tcp_flag},
    packet::{Delta, Ipv4, Ipv6, Sctp, Tcp, Udp, ip, ipv6_ext, transport},
    verdict::Reason,
};

/// What the algorithm needs to know of a packet's headers.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Headers<A> {
    /// Addresses, ports and protocol ([`proto::TCP`], [`proto::UDP`] or [`proto::SCTP`]): the key of the packet's flow.
    /// A later fragment has no ports, and any protocol; in IPv6 it is not told.
    pub key: FlowKey<A>,
    /// The word of the IP header that holds the hops left, bytes as in the packet. IPv4: time to live, protocol, header
    /// checksum; IPv6: payload length, next header, hop limit.
    pub hop_word: u32,
    /// Offset of the transport header in the frame, in bytes.
    pub transport_offset: u32,
    /// Length of the transport header and what follows it in this packet, in bytes.
    pub transport_len: u32,
    /// What the fragments of one datagram have in common, in the machine's order. 0 if this is none.
    pub identification: u32,
    /// TCP flags; 0 for UDP; of SCTP those that its first chunk amounts to ([`sctp_flags`]).
    pub tcp_flags: u8,
    /// How much of a datagram the packet holds.
    pub part: Part,
}

/// How much of a datagram a packet holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// All of it.
    #[default]
    Whole = 0,
    /// The beginning, with the transport header.
    First = 1,
    /// What follows, without.
    Later = 2,
}

impl Part {
    /// The part that begins at `offset` and that `more` parts follow or not.
    #[inline(always)]
    pub const fn of(offset: u32, more: bool) -> Self {
        match (offset, more) {
            (0, false) => Self::Whole,
            (0, true) => Self::First,
            _ => Self::Later,
        }
    }
}

impl<A> Headers<A> {
    /// Whether the packet may start a connection: a SYN without ACK, an SCTP INIT, or any UDP datagram.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.key.proto() == proto::UDP || self.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN
    }
}

/// An IP version.
pub trait Family: Copy + 'static {
    /// Its addresses.
    type Addr: Address;

    /// Whether this is IPv6.
    const IS_V6: bool;

    /// Where a packet of this family is worked on.
    fn work(works: &mut Works) -> &mut Work<Self::Addr>;

    /// Reads the headers of a TCP, UDP or SCTP packet or a later fragment; anything else is passed for the reason
    /// returned.
    fn parse<P: Packet>(packet: &P, into: &mut Headers<Self::Addr>) -> Result<(), Reason>;

    /// How many hops the packet has left, this one included.
    fn hops(headers: &Headers<Self::Addr>) -> u8;

    /// Writes the addresses of `new`, one hop less if `count_hop`, and the header checksum where there is one.
    fn write_header<P: Packet>(
        packet: &mut P,
        headers: &Headers<Self::Addr>,
        new: &Tuple<Self::Addr>,
        count_hop: bool,
    ) -> Result<(), RewriteError>;

    /// The same, with the ports of a TCP or UDP header. They follow the addresses unless there are options, and each write
    /// has its price.
    fn write_tuple<P: Packet>(
        packet: &mut P,
        headers: &Headers<Self::Addr>,
        new: &Tuple<Self::Addr>,
        count_hop: bool,
    ) -> Result<(), RewriteError>;

    /// Whether an ICMP error may be sent to that address (RFC 1122, section 3.2.2; RFC 4443, section 2.4): not to a group, and
    /// not to nobody.
    fn may_be_answered(addr: Self::Addr) -> bool;

    /// The address that stands for all loopback addresses in the frontend map, if `addr` is one.
    fn loopback(addr: Self::Addr) -> Option<Self::Addr>;
}

/// IPv4.
#[derive(Clone, Copy, Debug)]
pub struct V4;

/// IPv6.
#[derive(Clone, Copy, Debug)]
pub struct V6;

/// Offset of the transport header behind an IPv4 header without options.
const V4_TRANSPORT: usize = ip::OFFSET + Ipv4::LEN;
/// Offset of the transport header behind an IPv6 header without extensions.
const V6_TRANSPORT: usize = ip::OFFSET + Ipv6::LEN;

impl Family for V4 {
    type Addr = u32;

    const IS_V6: bool = false;

    #[inline(always)]
    fn work(works: &mut Works) -> &mut Work<u32> {
        &mut works.v4
    }

    #[inline(always)]
    fn parse<P: Packet>(packet: &P, into: &mut Headers<u32>) -> Result<(), Reason> {
        let header = Ipv4(
            packet
                .read::<{ ip::OFFSET }, { Ipv4::WORDS }>()
                .ok_or(Reason::Truncated)?,
        );
        let header_len = header.header_len();
        if header.version() != 4 || header_len < Ipv4::LEN {
            return Err(Reason::Malformed);
        }
        let in_frame = packet.frame_len().saturating_sub(ip::OFFSET);
        let total_len = match header.total_len() {
            // A packet above 64 KiB inside the kernel has no length (BIG TCP, kernel commit b1a78b9b9886).
            0 if in_frame > 0xffff => in_frame,
            total_len => total_len,
        };
        if total_len < header_len {
            return Err(Reason::Malformed);
        }
        if in_frame < total_len {
            return Err(Reason::Truncated);
        }
        let transport_offset = ip::OFFSET + header_len;
        let transport_len = total_len - header_len;
        into.key.tuple.src = header.src();
        into.key.tuple.dst = header.dst();
        into.key.protocol = header.protocol().into();
        into.hop_word = header.ttl_protocol_checksum();
        into.transport_offset = transport_offset as u32;
        into.transport_len = transport_len as u32;
        into.identification = header.identification();
        into.part = Part::of(header.fragment_offset(), header.more_fragments());
        if into.part == Part::Later {
            return no_transport(into);
        }
        let (protocol, part) = (header.protocol(), into.part);
        let transport = if header_len == Ipv4::LEN {
            transport_fixed::<P, V4_TRANSPORT>(packet, protocol, transport_len, part)?
        } else {
            transport_at(packet, transport_offset, protocol, transport_len, part)?
        };
        into.key.tuple.ports = transport.ports;
        into.tcp_flags = transport.tcp_flags;
        Ok(())
    }

    #[inline(always)]
    fn hops(headers: &Headers<u32>) -> u8 {
        headers.hop_word.to_ne_bytes()[0]
    }

    #[inline(always)]
    fn write_header<P: Packet>(
        packet: &mut P,
        headers: &Headers<u32>,
        new: &Tuple<u32>,
        count_hop: bool,
    ) -> Result<(), RewriteError> {
        let word = v4_hop_word(headers, new, count_hop);
        packet.write_at(ip::OFFSET + Ipv4::TTL_OFFSET, &[word, new.src, new.dst])
    }

    #[inline(always)]
    fn write_tuple<P: Packet>(
        packet: &mut P,
        headers: &Headers<u32>,
        new: &Tuple<u32>,
        count_hop: bool,
    ) -> Result<(), RewriteError> {
        if headers.transport_offset as usize != V4_TRANSPORT {
            Self::write_header(packet, headers, new, count_hop)?;
            return packet.write_at(headers.transport_offset as usize, &[new.ports]);
        }
        let word = v4_hop_word(headers, new, count_hop);
        packet.write_at(
            ip::OFFSET + Ipv4::TTL_OFFSET,
            &[word, new.src, new.dst, new.ports],
        )
    }

    #[inline(always)]
    fn may_be_answered(addr: u32) -> bool {
        let first = addr.to_ne_bytes()[0];
        first != 0 && first != 127 && first < 224
    }

    #[inline(always)]
    fn loopback(addr: u32) -> Option<u32> {
        (addr.to_ne_bytes()[0] == 127).then_some(u32::from_ne_bytes([127, 0, 0, 1]))
    }
}

impl Family for V6 {
    type Addr = [u32; 4];

    const IS_V6: bool = true;

    #[inline(always)]
    fn work(works: &mut Works) -> &mut Work<[u32; 4]> {
        &mut works.v6
    }

    #[inline(always)]
    fn parse<P: Packet>(packet: &P, into: &mut Headers<[u32; 4]>) -> Result<(), Reason> {
        let header = Ipv6(
            packet
                .read::<{ ip::OFFSET }, { Ipv6::WORDS }>()
                .ok_or(Reason::Truncated)?,
        );
        if header.version() != 6 {
            return Err(Reason::Malformed);
        }
        let in_frame = packet.frame_len().saturating_sub(V6_TRANSPORT);
        let payload_len = match header.payload_len() {
            // A packet above 64 KiB inside the kernel has none, and says so in an option (kernel commit 0fe79f28bfaf).
            0 if in_frame > 0xffff => in_frame,
            payload_len => payload_len,
        };
        if in_frame < payload_len {
            return Err(Reason::Truncated);
        }
        into.key.tuple.src = header.src();
        into.key.tuple.dst = header.dst();
        into.key.protocol = header.next_header().into();
        into.hop_word = header.hop_word();
        into.transport_offset = V6_TRANSPORT as u32;
        into.transport_len = payload_len as u32;
        into.identification = 0;
        into.part = Part::Whole;
        let transport = if ipv6_ext::is_extension_header(header.next_header()) {
            extensions::walk(packet, into)?;
            if into.part == Part::Later {
                return no_transport(into);
            }
            let (offset, len) = (into.transport_offset as usize, into.transport_len as usize);
            transport_at(packet, offset, into.key.proto(), len, into.part)?
        } else {
            transport_fixed::<P, V6_TRANSPORT>(packet, header.next_header(), payload_len, Part::Whole)?
        };
        into.key.tuple.ports = transport.ports;
        into.tcp_flags = transport.tcp_flags;
        Ok(())
    }

    #[inline(always)]
    fn hops(headers: &Headers<[u32; 4]>) -> u8 {
        headers.hop_word.to_ne_bytes()[3]
    }

    #[inline(always)]
    fn write_header<P: Packet>(
        packet: &mut P,
        headers: &Headers<[u32; 4]>,
        new: &Tuple<[u32; 4]>,
        count_hop: bool,
    ) -> Result<(), RewriteError> {
        let ([a, b, c, d], [e, f, g, h]) = (new.src, new.dst);
        let (offset, words) = (ip::OFFSET + Ipv6::ADDRESSES_OFFSET, [a, b, c, d, e, f, g, h]);
        if headers.part == Part::Later || headers.key.proto() == proto::SCTP {
            packet.write_alone_at(offset, &words)?;
        } else {
            packet.write_at(offset, &words)?;
        }
        v6_count_hop(packet, headers, count_hop)
    }

    #[inline(always)]
    fn write_tuple<P: Packet>(
        packet: &mut P,
        headers: &Headers<[u32; 4]>,
        new: &Tuple<[u32; 4]>,
        count_hop: bool,
    ) -> Result<(), RewriteError> {
        if headers.transport_offset as usize != V6_TRANSPORT {
            Self::write_header(packet, headers, new, count_hop)?;
            return packet.write_at(headers.transport_offset as usize, &[new.ports]);
        }
        let ([a, b, c, d], [e, f, g, h]) = (new.src, new.dst);
        packet.write_at(
            ip::OFFSET + Ipv6::ADDRESSES_OFFSET,
            &[a, b, c, d, e, f, g, h, new.ports],
        )?;
        v6_count_hop(packet, headers, count_hop)
    }

    #[inline(always)]
    fn may_be_answered(addr: [u32; 4]) -> bool {
        let [a, b, c, d] = addr;
        // Multicast, unspecified and loopback.
        addr[0].to_ne_bytes()[0] != 0xff && (a | b | c != 0 || u32::from_be(d) > 1)
    }

    #[inline(always)]
    fn loopback(addr: [u32; 4]) -> Option<[u32; 4]> {
        (addr == [0, 0, 0, 1u32.to_be()]).then_some(addr)
    }
}

/// The word of an IPv4 header with time to live, protocol and checksum, as it belongs to the addresses of `new`.
#[inline(always)]
fn v4_hop_word(headers: &Headers<u32>, new: &Tuple<u32>, count_hop: bool) -> u32 {
    let [ttl, protocol, ..] = headers.hop_word.to_ne_bytes();
    let (_, checksum) = transport::ports(headers.hop_word);
    let new_ttl = ttl.wrapping_sub(count_hop as u8);
    let (old_half, new_half) = (
        u16::from_ne_bytes([ttl, protocol]),
        u16::from_ne_bytes([new_ttl, protocol]),
    );
    let delta = Delta::addresses(&headers.key.tuple, new).and(Delta::word(old_half, new_half));
    transport::ports_word(new_half, delta.apply(checksum))
}

/// Writes the hop limit of an IPv6 header, one less if `count_hop`.
#[inline(always)]
fn v6_count_hop<P: Packet>(
    packet: &mut P,
    headers: &Headers<[u32; 4]>,
    count_hop: bool,
) -> Result<(), RewriteError> {
    if !count_hop {
        return Ok(());
    }
    let [x, y, next, limit] = headers.hop_word.to_ne_bytes();
    let word = u32::from_ne_bytes([x, y, next, limit.wrapping_sub(1)]);
    packet.write_alone_at(ip::OFFSET + Ipv6::HOP_OFFSET, &[word])
}

/// Whether packets may be sent to a frontend of that kind: loopback frontends are for sockets only.
#[inline(always)]
pub(super) const fn takes_packets(kind: u8) -> bool {
    kind != FrontendKind::Localhost as u8
}

struct Transport {
    ports: u32,
    tcp_flags: u8,
}

/// Finishes the headers of a later fragment.
#[inline(always)]
fn no_transport<A>(into: &mut Headers<A>) -> Result<(), Reason> {
    into.key.tuple.ports = 0;
    into.tcp_flags = 0;
    Ok(())
}

/// The transport header at a constant offset.
#[inline(always)]
fn transport_fixed<P: Packet, const OFFSET: usize>(
    packet: &P,
    protocol: u8,
    len: usize,
    part: Part,
) -> Result<Transport, Reason> {
    match protocol {
        proto::TCP => tcp(packet.read::<OFFSET, { Tcp::WORDS }>(), len),
        proto::UDP => udp(packet.read::<OFFSET, { Udp::WORDS }>(), len, part),
        proto::SCTP => sctp(packet.read::<OFFSET, { Sctp::WORDS }>(), len),
        _ => Err(Reason::OtherProtocol),
    }
}

/// The transport header at an offset that depends on the packet.
#[inline(always)]
fn transport_at<P: Packet>(
    packet: &P,
    offset: usize,
    protocol: u8,
    len: usize,
    part: Part,
) -> Result<Transport, Reason> {
    match protocol {
        proto::TCP => tcp(packet.read_at::<{ Tcp::WORDS }>(offset), len),
        proto::UDP => udp(packet.read_at::<{ Udp::WORDS }>(offset), len, part),
        proto::SCTP => sctp(packet.read_at::<{ Sctp::WORDS }>(offset), len),
        _ => Err(Reason::OtherProtocol),
    }
}

#[inline(always)]
fn tcp(words: Option<[u32; Tcp::WORDS]>, len: usize) -> Result<Transport, Reason> {
    if len < Tcp::LEN {
        return Err(Reason::Malformed);
    }
    let header = Tcp(words.ok_or(Reason::Truncated)?);
    if header.header_len() < Tcp::LEN || header.header_len() > len {
        return Err(Reason::Malformed);
    }
    Ok(Transport {
        ports: header.0[0],
        tcp_flags: header.flags(),
    })
}

#[inline(always)]
fn udp(words: Option<[u32; Udp::WORDS]>, len: usize, part: Part) -> Result<Transport, Reason> {
    if len < Udp::LEN {
        return Err(Reason::Malformed);
    }
    let header = Udp(words.ok_or(Reason::Truncated)?);
    // A first fragment tells the length of the datagram.
    if header.length() < Udp::LEN || (header.length() > len && part == Part::Whole) {
        return Err(Reason::Malformed);
    }
    Ok(Transport {
        ports: header.0[0],
        tcp_flags: 0,
    })
}

#[inline(always)]
fn sctp(words: Option<[u32; Sctp::WORDS]>, len: usize) -> Result<Transport, Reason> {
    if len < Sctp::LEN {
        return Err(Reason::Malformed);
    }
    let header = Sctp(words.ok_or(Reason::Truncated)?);
    Ok(Transport {
        ports: header.0[0],
        tcp_flags: sctp_flags(header.chunk()),
    })
}
