//! Flow entries: what was decided for a connection, once for each direction.

use crate::packet::transport;

/// Addresses and ports of a packet, bytes as in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Tuple<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port, then destination port: the first word of a TCP or UDP header.
    pub ports: u32,
}

impl<A: Copy> Tuple<A> {
    /// The tuple of these addresses and ports, bytes as in the packet.
    #[inline(always)]
    pub const fn new(src: A, dst: A, src_port: u16, dst_port: u16) -> Self {
        Self {
            src,
            dst,
            ports: transport::ports_word(src_port, dst_port),
        }
    }

    /// Source port.
    #[inline(always)]
    pub const fn src_port(&self) -> u16 {
        transport::ports(self.ports).0
    }

    /// Destination port.
    #[inline(always)]
    pub const fn dst_port(&self) -> u16 {
        transport::ports(self.ports).1
    }

    /// The tuple of packets that go the other way.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            ports: self.ports.rotate_left(16),
        }
    }
}

/// Packets of one direction of a flow, as they arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct FlowKey<A> {
    /// Addresses and ports before translation.
    pub tuple: Tuple<A>,
    /// IP protocol number, as wide as a word: keys are written and hashed word by word.
    pub protocol: u32,
}

impl<A> FlowKey<A> {
    /// The key of packets with that tuple and protocol.
    #[inline(always)]
    pub const fn new(tuple: Tuple<A>, proto: u8) -> Self {
        Self {
            tuple,
            protocol: proto as u32,
        }
    }

    /// IP protocol number.
    #[inline(always)]
    pub const fn proto(&self) -> u8 {
        self.protocol as u8
    }
}

/// Which direction of a flow an entry is: two bits of its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowKind {
    /// Client to service: translated at ingress.
    Forward = 1,
    /// Endpoint to client: restored at egress.
    Reply = 2,
}

/// Bits of [`Flow::flags`] beside the [`FlowKind`].
pub struct FlowFlags;

impl FlowFlags {
    /// The source address was changed to one of the node's. The stack would drop such packets as martians, or keep them
    /// for itself: both directions are translated where they come in and sent out by the routing table.
    pub const REDIRECT: u8 = 4;
    /// The client used the endpoint's own address. Its packets stay as they are unless the source port had to be changed.
    pub const DIRECT: u8 = 8;
    /// The bits that hold a [`FlowKind`].
    pub const KIND: u8 = 3;

    /// What an entry of that direction has in its flags if that of the other one has `other`, which may be no entry's.
    #[inline(always)]
    pub const fn of(kind: FlowKind, other: u8) -> u8 {
        kind as u8 | other & !Self::KIND
    }
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
    /// Number of the meter that its packets are counted by; [`Meter::NONE`] for none.
    ///
    /// [`Meter::NONE`]: super::Meter::NONE
    pub meter: u16,
    /// A [`FlowKind`] and [`FlowFlags`].
    pub flags: u8,
    /// TCP flags seen in this direction ([`crate::flow::Seen`]).
    pub seen: u8,
    /// Index of the endpoint in BACKENDS; means nothing in a direct flow.
    pub backend: u32,
    /// Generation of that slot when the endpoint was chosen; means nothing in a direct flow.
    pub generation: u32,
    /// When a packet of this direction was last written down, in ns of the monotonic clock; at most
    /// [`crate::limits::FLOW_REFRESH_NS`] behind the truth.
    pub last_seen: u64,
}

impl<A> Flow<A> {
    /// Whether this entry is of that direction.
    #[inline(always)]
    pub const fn is(&self, kind: FlowKind) -> bool {
        self.flags & FlowFlags::KIND == kind as u8
    }

    /// Whether packets are sent out by the routing table as soon as they are translated.
    #[inline(always)]
    pub const fn is_redirected(&self) -> bool {
        self.flags & FlowFlags::REDIRECT != 0
    }

    /// Whether the client used the endpoint's own address.
    #[inline(always)]
    pub const fn is_direct(&self) -> bool {
        self.flags & FlowFlags::DIRECT != 0
    }
}
