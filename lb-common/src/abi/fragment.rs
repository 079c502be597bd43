//! Fragments: where the rest of a datagram goes, which has no ports of its own.

/// What the fragments of one datagram have in common, as they arrive (RFC 791; RFC 8200, section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// Source address before translation.
    pub src: A,
    /// Destination address before translation.
    pub dst: A,
    /// Identification, in the machine's order.
    pub id: u32,
    /// IP protocol number (0 in IPv6, where it is no part of what tells datagrams apart), and whether the fragments leave
    /// the node ([`FragmentKey::LEAVING`]): a datagram that crosses the node meets both sides, and each does its own.
    pub scope: u32,
}

impl<A> FragmentKey<A> {
    /// The bit of `scope` that tells fragments on their way out of the node.
    pub const LEAVING: u32 = 1 << 8;
}

/// What was done with the first fragment of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Fragment<A> {
    /// Source address after translation.
    pub src: A,
    /// Destination address after translation.
    pub dst: A,
    /// The number of the flow's meter.
    pub meter: u16,
    /// The [`crate::abi::FlowKind`] and [`crate::abi::FlowFlags`] of the flow.
    pub flags: u8,
    /// Zero.
    pub pad: [u8; 5],
    /// When the first fragment came, in ns of the monotonic clock.
    pub seen_at: u64,
}
