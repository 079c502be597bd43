//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers.

use super::ethernet;

/// Offset of the network header in a frame without tags, in bytes.
pub const OFFSET: usize = ethernet::LEN;

/// The fixed part of an IPv4 header, as words whose bytes stand as in the packet.
#[derive(Clone, Copy)]
pub struct Ipv4(pub [u32; Self::WORDS]);

impl Ipv4 {
    /// Length of the header without options, in bytes.
    pub const LEN: usize = 20;
    /// Length of the header without options, in words of 4 bytes.
    pub const WORDS: usize = Self::LEN / 4;
    /// Offset of the time to live in the header. Protocol, header checksum and the two addresses follow it.
    pub const TTL_OFFSET: usize = 8;

    /// 4 in a sound header.
    #[inline(always)]
    pub const fn version(&self) -> u32 {
        u32::from_be(self.0[0]) >> 28
    }

    /// Length of the header with options, in bytes; below 20 in a malformed one.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        ((u32::from_be(self.0[0]) >> 24 & 0x0f) << 2) as usize
    }

    /// Length of header and payload, in bytes. 0 for a packet of more than 65,535 bytes that exists only inside a
    /// kernel (BIG TCP).
    #[inline(always)]
    pub const fn total_len(&self) -> usize {
        (u32::from_be(self.0[0]) & 0xffff) as usize
    }

    /// Whether this is any fragment of a datagram, the first one included.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.0[1] & 0x3fff_u32.to_be() != 0
    }

    /// Where the packet's part of a datagram begins, in units of 8 bytes.
    #[inline(always)]
    pub const fn fragment_offset(&self) -> u32 {
        u32::from_be(self.0[1]) & 0x1fff
    }

    /// Whether more parts of the datagram follow.
    #[inline(always)]
    pub const fn more_fragments(&self) -> bool {
        u32::from_be(self.0[1]) & 0x2000 != 0
    }

    /// What the parts of one datagram have in common, in 16 bits.
    #[inline(always)]
    pub const fn identification(&self) -> u32 {
        u32::from_be(self.0[1]) >> 16
    }

    /// Whether this is a fragment other than the first: what follows it is no transport header.
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        self.0[1] & 0x1fff_u32.to_be() != 0
    }

    /// Time to live in hops, protocol, and header checksum, bytes as in the packet.
    #[inline(always)]
    pub const fn ttl_protocol_checksum(&self) -> u32 {
        self.0[2]
    }

    /// Protocol of the payload.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        (u32::from_be(self.0[2]) >> 16) as u8
    }

    /// Source address, bytes as in the packet.
    #[inline(always)]
    pub const fn src(&self) -> u32 {
        self.0[3]
    }

    /// Destination address, bytes as in the packet.
    #[inline(always)]
    pub const fn dst(&self) -> u32 {
        self.0[4]
    }
}

/// An IPv6 header without extensions, as words whose bytes stand as in the packet.
#[derive(Clone, Copy)]
pub struct Ipv6(pub [u32; Self::WORDS]);

impl Ipv6 {
    /// Length of the header, in bytes.
    pub const LEN: usize = 40;
    /// Length of the header, in words of 4 bytes.
    pub const WORDS: usize = Self::LEN / 4;
    /// Offset of payload length, next header and hop limit in the header.
    pub const HOP_OFFSET: usize = 4;
    /// Offset of the source address in the header. The destination address follows it.
    pub const ADDRESSES_OFFSET: usize = 8;

    /// 6 in a sound header.
    #[inline(always)]
    pub const fn version(&self) -> u32 {
        u32::from_be(self.0[0]) >> 28
    }

    /// Length of what follows the header, in bytes.
    #[inline(always)]
    pub const fn payload_len(&self) -> usize {
        (u32::from_be(self.0[1]) >> 16) as usize
    }

    /// Payload length, next header and hop limit, bytes as in the packet.
    #[inline(always)]
    pub const fn hop_word(&self) -> u32 {
        self.0[1]
    }

    /// Protocol of the payload, or the kind of the first extension header.
    #[inline(always)]
    pub const fn next_header(&self) -> u8 {
        (u32::from_be(self.0[1]) >> 8) as u8
    }

    /// Source address, bytes as in the packet.
    #[inline(always)]
    pub const fn src(&self) -> [u32; 4] {
        [self.0[2], self.0[3], self.0[4], self.0[5]]
    }

    /// Destination address, bytes as in the packet.
    #[inline(always)]
    pub const fn dst(&self) -> [u32; 4] {
        [self.0[6], self.0[7], self.0[8], self.0[9]]
    }
}
