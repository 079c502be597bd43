//! Flow entries: what was decided for a connection, once for each direction.

/// Addresses and ports of a packet, bytes as in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Tuple<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

impl<A: Copy> Tuple<A> {
    /// The tuple of packets that go the other way.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
        }
    }
}

/// Packets of one direction of a flow, as they arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct FlowKey<A> {
    /// Addresses and ports before translation.
    pub tuple: Tuple<A>,
    /// IP protocol number.
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 3],
}

impl<A> FlowKey<A> {
    /// The key of packets with that tuple and protocol.
    #[inline(always)]
    pub const fn new(tuple: Tuple<A>, proto: u8) -> Self {
        Self {
            tuple,
            proto,
            pad: [0; 3],
        }
    }
}

/// Which direction of a flow an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowKind {
    /// Client to service: translated at ingress.
    Forward = 1,
    /// Endpoint to client: restored at egress.
    Reply = 2,
}

/// The translation of one direction of a flow.
///
/// The two entries of a flow name each other: the reply's key is the forward's translated tuple reversed, and the
/// reply's translated tuple is the forward's key reversed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Flow<A> {
    /// Addresses and ports after translation.
    pub tuple: Tuple<A>,
    /// A [`FlowKind`] as its number.
    pub kind: u8,
    /// TCP flags seen in this direction ([`crate::flow::Seen`]).
    pub seen: u8,
    /// Zero.
    pub pad: [u8; 2],
    /// Index of the endpoint in BACKENDS.
    pub backend: u32,
    /// Generation of that slot when the endpoint was chosen.
    pub generation: u32,
    /// When a packet of this direction was last written down, in ns of the monotonic clock; at most
    /// [`crate::limits::FLOW_REFRESH_NS`] behind the truth.
    pub last_seen: u64,
}

impl<A> Flow<A> {
    /// Whether this entry is of that direction.
    #[inline(always)]
    pub const fn is(&self, kind: FlowKind) -> bool {
        self.kind == kind as u8
    }
}
