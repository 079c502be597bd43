//! IPv4 and IPv6: what differs between them, and nothing else.

use super::{Packet, RewriteError, Work, Works};
use crate::{
    abi::{Address, FlowKey, FrontendKind, Tuple, proto},
    flow::tcp as tcp_flag,
    packet::{Delta, Ipv4, Ipv6, Tcp, Udp, ip, transport},
    verdict::Reason,
};

/// What the algorithm needs to know of a packet's headers.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Headers<A> {
    /// Addresses, ports and protocol ([`proto::TCP`] or [`proto::UDP`]): the key of the packet's flow.
    pub key: FlowKey<A>,
    /// The word of the IP header that holds the hops left, bytes as in the packet. IPv4: time to live, protocol, header
    /// checksum; IPv6: payload length, next header, hop limit.
    pub hop_word: u32,
    /// Offset of the TCP or UDP header in the frame, in bytes.
    pub transport_offset: u32,
    /// TCP flags; 0 for UDP.
    pub tcp_flags: u8,
}

impl<A> Headers<A> {
    /// Whether the packet may start a connection: a SYN without ACK, or any UDP datagram.
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

    /// Reads the headers of a TCP or UDP packet; anything else is passed for the reason returned.
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
        if header.is_fragment() {
            return Err(Reason::Fragment);
        }
        let transport_len = total_len - header_len;
        let transport = if header_len == Ipv4::LEN {
            transport_fixed::<P, V4_TRANSPORT>(packet, header.protocol(), transport_len)?
        } else {
            transport_at(packet, ip::OFFSET + header_len, header.protocol(), transport_len)?
        };
        *into = Headers {
            key: transport.key(header.src(), header.dst(), header.protocol()),
            hop_word: header.ttl_protocol_checksum(),
            transport_offset: (ip::OFFSET + header_len) as u32,
            tcp_flags: transport.tcp_flags,
        };
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
        // Time to live, protocol and checksum share a word.
        let [ttl, protocol, ..] = headers.hop_word.to_ne_bytes();
        let (_, checksum) = transport::ports(headers.hop_word);
        let new_ttl = ttl.wrapping_sub(count_hop as u8);
        let (old_half, new_half) = (
            u16::from_ne_bytes([ttl, protocol]),
            u16::from_ne_bytes([new_ttl, protocol]),
        );
        let delta = Delta::addresses(&headers.key.tuple, new).and(Delta::word(old_half, new_half));
        let word = transport::ports_word(new_half, delta.apply(checksum));
        packet.write_at(ip::OFFSET + Ipv4::TTL_OFFSET, &[word, new.src, new.dst])
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
        let transport_len = header.payload_len();
        if packet.frame_len().saturating_sub(V6_TRANSPORT) < transport_len {
            return Err(Reason::Truncated);
        }
        if ip::is_extension_header(header.next_header()) {
            return Err(match header.next_header() {
                44 => Reason::Fragment,
                _ => Reason::ExtensionHeader,
            });
        }
        let transport = transport_fixed::<P, V6_TRANSPORT>(packet, header.next_header(), transport_len)?;
        *into = Headers {
            key: transport.key(header.src(), header.dst(), header.next_header()),
            hop_word: header.hop_word(),
            transport_offset: V6_TRANSPORT as u32,
            tcp_flags: transport.tcp_flags,
        };
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
        packet.write_at(ip::OFFSET + Ipv6::ADDRESSES_OFFSET, &[a, b, c, d, e, f, g, h])?;
        if count_hop {
            let [x, y, next, limit] = headers.hop_word.to_ne_bytes();
            let word = u32::from_ne_bytes([x, y, next, limit.wrapping_sub(1)]);
            packet.write_at(ip::OFFSET + Ipv6::HOP_OFFSET, &[word])?;
        }
        Ok(())
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

/// Whether packets may be sent to a frontend of that kind: loopback frontends are for sockets only.
#[inline(always)]
pub(super) const fn takes_packets(kind: u8) -> bool {
    kind != FrontendKind::Localhost as u8
}

struct Transport {
    ports: u32,
    tcp_flags: u8,
}

impl Transport {
    #[inline(always)]
    const fn key<A: Copy>(&self, src: A, dst: A, protocol: u8) -> FlowKey<A> {
        let tuple = Tuple {
            src,
            dst,
            ports: self.ports,
        };
        FlowKey::new(tuple, protocol)
    }
}

/// The transport header at a constant offset.
#[inline(always)]
fn transport_fixed<P: Packet, const OFFSET: usize>(
    packet: &P,
    protocol: u8,
    len: usize,
) -> Result<Transport, Reason> {
    match protocol {
        proto::TCP => tcp(packet.read::<OFFSET, { Tcp::WORDS }>(), len),
        proto::UDP => udp(packet.read::<OFFSET, { Udp::WORDS }>(), len),
        _ => Err(Reason::OtherProtocol),
    }
}

/// The transport header at an offset that depends on the packet.
#[inline(always)]
fn transport_at<P: Packet>(packet: &P, offset: usize, protocol: u8, len: usize) -> Result<Transport, Reason> {
    match protocol {
        proto::TCP => tcp(packet.read_at::<{ Tcp::WORDS }>(offset), len),
        proto::UDP => udp(packet.read_at::<{ Udp::WORDS }>(offset), len),
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
fn udp(words: Option<[u32; Udp::WORDS]>, len: usize) -> Result<Transport, Reason> {
    if len < Udp::LEN {
        return Err(Reason::Malformed);
    }
    let header = Udp(words.ok_or(Reason::Truncated)?);
    if header.length() < Udp::LEN || header.length() > len {
        return Err(Reason::Malformed);
    }
    Ok(Transport {
        ports: header.0[0],
        tcp_flags: 0,
    })
}
