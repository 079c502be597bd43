//! IPv4 and IPv6: what differs between them, and nothing else.

use super::{Packet, RewriteError};
use crate::{
    abi::{Address, FrontendKind, Tuple, proto},
    packet::{Delta, Ipv4, Ipv6, Tcp, Udp, ip, transport},
    verdict::Reason,
};

/// What the algorithm needs to know of a packet's headers.
#[derive(Clone, Copy, Debug)]
pub struct Headers<A> {
    /// Addresses and ports.
    pub tuple: Tuple<A>,
    /// [`proto::TCP`] or [`proto::UDP`].
    pub proto: u8,
    /// TCP flags; 0 for UDP.
    pub tcp_flags: u8,
    /// IPv4 time to live, protocol and header checksum, bytes as in the packet; 0 for IPv6.
    pub ttl_protocol_checksum: u32,
    /// Offset of the TCP or UDP header in the frame, in bytes.
    pub transport_offset: usize,
}

/// An IP version.
pub trait Family: Copy + 'static {
    /// Its addresses.
    type Addr: Address;

    /// Whether this is IPv6.
    const IS_V6: bool;

    /// Reads the headers of a TCP or UDP packet; anything else is passed for the reason returned.
    fn parse<P: Packet>(packet: &P) -> Result<Headers<Self::Addr>, Reason>;

    /// Writes the addresses of `new`, and the header checksum where there is one.
    fn write_addresses<P: Packet>(
        packet: &mut P,
        headers: &Headers<Self::Addr>,
        new: &Tuple<Self::Addr>,
    ) -> Result<(), RewriteError>;

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
    fn parse<P: Packet>(packet: &P) -> Result<Headers<u32>, Reason> {
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
        Ok(Headers {
            tuple: Tuple {
                src: header.src(),
                dst: header.dst(),
                src_port: transport.src_port,
                dst_port: transport.dst_port,
            },
            proto: header.protocol(),
            tcp_flags: transport.tcp_flags,
            ttl_protocol_checksum: header.ttl_protocol_checksum(),
            transport_offset: ip::OFFSET + header_len,
        })
    }

    #[inline(always)]
    fn write_addresses<P: Packet>(
        packet: &mut P,
        headers: &Headers<u32>,
        new: &Tuple<u32>,
    ) -> Result<(), RewriteError> {
        // TTL and protocol share a word with the checksum; they stay as they are.
        let (ttl_protocol, checksum) = transport::ports(headers.ttl_protocol_checksum);
        let checksum = Delta::addresses(&headers.tuple, new).apply(checksum);
        let word = transport::ports_word(ttl_protocol, checksum);
        packet.write_at(ip::OFFSET + Ipv4::TTL_OFFSET, &[word, new.src, new.dst])
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
    fn parse<P: Packet>(packet: &P) -> Result<Headers<[u32; 4]>, Reason> {
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
        Ok(Headers {
            tuple: Tuple {
                src: header.src(),
                dst: header.dst(),
                src_port: transport.src_port,
                dst_port: transport.dst_port,
            },
            proto: header.next_header(),
            tcp_flags: transport.tcp_flags,
            ttl_protocol_checksum: 0,
            transport_offset: V6_TRANSPORT,
        })
    }

    #[inline(always)]
    fn write_addresses<P: Packet>(
        packet: &mut P,
        _headers: &Headers<[u32; 4]>,
        new: &Tuple<[u32; 4]>,
    ) -> Result<(), RewriteError> {
        let ([a, b, c, d], [e, f, g, h]) = (new.src, new.dst);
        packet.write_at(ip::OFFSET + Ipv6::ADDRESSES_OFFSET, &[a, b, c, d, e, f, g, h])
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
    src_port: u16,
    dst_port: u16,
    tcp_flags: u8,
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
    let (src_port, dst_port) = transport::ports(header.0[0]);
    Ok(Transport {
        src_port,
        dst_port,
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
    let (src_port, dst_port) = transport::ports(header.0[0]);
    Ok(Transport {
        src_port,
        dst_port,
        tcp_flags: 0,
    })
}
