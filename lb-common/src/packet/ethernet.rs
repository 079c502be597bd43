//! Ethernet II framing.

/// Length of a header without tags, in bytes.
pub const LEN: usize = 14;
/// Offset of the EtherType, in bytes.
pub const TYPE_OFFSET: usize = 12;

/// The EtherType, from the word at [`TYPE_OFFSET`] (bytes as in the frame).
#[inline(always)]
pub const fn ether_type_of(word: u32) -> u16 {
    (u32::from_be(word) >> 16) as u16
}

/// The addresses of a frame that goes back: destination and source change places. Words as in the frame.
#[inline(always)]
pub const fn turned(addresses: [u32; 3]) -> [u32; 3] {
    let [a, b, c] = addresses;
    let (a, b, c) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes());
    [
        u32::from_ne_bytes([b[2], b[3], c[0], c[1]]),
        u32::from_ne_bytes([c[2], c[3], a[0], a[1]]),
        u32::from_ne_bytes([a[2], a[3], b[0], b[1]]),
    ]
}

/// EtherTypes (IEEE "EtherType" registry).
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// Customer VLAN tag (IEEE 802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// Service VLAN tag (IEEE 802.1ad).
    pub const QINQ: u16 = 0x88a8;
}
