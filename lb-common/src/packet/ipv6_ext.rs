//! IPv6 extension headers (RFC 8200, section 4).

/// Hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Routing header.
pub const ROUTING: u8 = 43;
/// Fragment header.
pub const FRAGMENT: u8 = 44;
/// Destination options.
pub const DESTINATION: u8 = 60;

/// Whether a next-header value is an extension header (IANA "IPv6 Extension Header Types").
#[inline(always)]
pub const fn is_extension_header(next_header: u8) -> bool {
    matches!(
        next_header,
        HOP_BY_HOP | ROUTING | FRAGMENT | 50 | 51 | DESTINATION | 135 | 139 | 140 | 253 | 254
    )
}

/// The first 8 bytes of an extension header, as words whose bytes stand as in the packet; none is shorter.
#[derive(Clone, Copy)]
pub struct Extension(pub [u32; Self::WORDS]);

impl Extension {
    /// Length of the shortest header, in bytes.
    pub const LEN: usize = 8;
    /// The same in words of 4 bytes.
    pub const WORDS: usize = Self::LEN / 4;

    /// What follows the header.
    #[inline(always)]
    pub const fn next_header(&self) -> u8 {
        (u32::from_be(self.0[0]) >> 24) as u8
    }

    /// Length of a header of options or of routing, in bytes: a multiple of 8, at most 2,048.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        ((u32::from_be(self.0[0]) >> 16 & 0xff) as usize + 1) * 8
    }

    /// How many stations of a routing header are still to be visited. While there are some, the destination of the IPv6
    /// header is not the one that transport checksums cover (RFC 8200, section 8.1).
    #[inline(always)]
    pub const fn segments_left(&self) -> u8 {
        u32::from_be(self.0[0]) as u8
    }

    /// Of a fragment header: where its part of the datagram begins, in units of 8 bytes.
    #[inline(always)]
    pub const fn fragment_offset(&self) -> u32 {
        u32::from_be(self.0[0]) >> 3 & 0x1fff
    }

    /// Of a fragment header: whether more parts follow.
    #[inline(always)]
    pub const fn more_fragments(&self) -> bool {
        u32::from_be(self.0[0]) & 1 != 0
    }

    /// Of a fragment header: what the parts of one datagram have in common.
    #[inline(always)]
    pub const fn identification(&self) -> u32 {
        u32::from_be(self.0[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn words(bytes: [u8; 8]) -> Extension {
        let [a, b, c, d, e, f, g, h] = bytes;
        Extension([u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])])
    }

    #[test]
    fn lengths_count_from_8_bytes_in_units_of_8() {
        for (field, len) in [(0, 8), (1, 16), (255, 2_048)] {
            assert_eq!(words([17, field, 0, 0, 0, 0, 0, 0]).header_len(), len);
        }
    }

    /// RFC 8200, section 4.5: 13 bits of offset, 2 reserved, 1 flag, and the identification.
    #[test]
    fn a_fragment_header_is_read_by_its_fields() {
        let header = words([6, 0xff, 0xab, 0xcd, 1, 2, 3, 4]);
        assert_eq!(header.next_header(), 6);
        assert_eq!(header.fragment_offset(), 0xabcd >> 3);
        assert!(header.more_fragments());
        assert_eq!(header.identification(), 0x0102_0304);
        assert!(!words([6, 0, 0xab, 0xce, 0, 0, 0, 0]).more_fragments());
    }

    #[test]
    fn a_routing_header_tells_how_many_stations_are_left() {
        assert_eq!(words([6, 2, 4, 3, 0, 0, 0, 0]).segments_left(), 3);
    }
}
