//! What the algorithm needs from the world around it.

use super::{Counted, Family, Route, snat::Ports};
use crate::{
    abi::{
        Affinity, AffinityKey, Backend, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendKey, Service,
        SocketKey, SocketPeer,
    },
    flow::State,
    packet::Delta,
};

/// A packet could not be changed; it may be half changed and must be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RewriteError;

/// A change of a TCP or UDP checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumUpdate {
    /// Offset of the checksum in the frame, in bytes.
    pub offset: usize,
    /// What changed in the pseudo header.
    pub addresses: Delta,
    /// What changed in the header itself, if anything did.
    pub ports: Option<Delta>,
    /// Whether 0 means that there is no checksum.
    pub udp: bool,
    /// Whether the addresses are those of IPv6, which has no checksum of its own over them.
    pub ipv6: bool,
}

/// An Ethernet frame.
///
/// Offsets count from the first byte of the frame.
pub trait Packet {
    /// Length of the frame in bytes.
    fn frame_len(&self) -> usize;

    /// How many bytes of payload each segment gets, if the frame is to be cut into segments later (GSO); otherwise 0.
    fn segment_size(&self) -> u32 {
        0
    }

    /// How many packets a wire will carry for the frame: more than 1 if it is to be cut into segments later (GSO).
    fn segments(&self) -> u32 {
        1
    }

    /// Whether the frame carries a VLAN tag beside its bytes (the kernel takes the outer tag off on receipt).
    fn has_vlan_tag(&self) -> bool;

    /// Whether the frame's destination is another machine's hardware address.
    fn is_for_other_host(&self) -> bool;

    /// `WORDS` words of 4 bytes at the constant offset `OFFSET`, bytes as in the frame; none if the frame ends before.
    /// The fast way: prefer it.
    fn read<const OFFSET: usize, const WORDS: usize>(&self) -> Option<[u32; WORDS]>;

    /// `WORDS` words of 4 bytes at `offset`, bytes as in the frame; none if the frame ends before.
    fn read_at<const WORDS: usize>(&self, offset: usize) -> Option<[u32; WORDS]>;

    /// Overwrites `WORDS` words of 4 bytes at `offset`, bytes as in the frame.
    fn write_at<const WORDS: usize>(
        &mut self,
        offset: usize,
        words: &[u32; WORDS],
    ) -> Result<(), RewriteError>;

    /// The same where no checksum within the packet makes up for the change: where the kernel keeps a sum of the whole
    /// frame (CHECKSUM_COMPLETE), that must follow.
    fn write_alone_at<const WORDS: usize>(
        &mut self,
        offset: usize,
        words: &[u32; WORDS],
    ) -> Result<(), RewriteError> {
        self.write_at(offset, words)
    }

    /// Turns the frame around: hardware addresses change places, and `words` stand in the place of all that followed the
    /// Ethernet header.
    fn become_answer<const WORDS: usize>(&mut self, words: &[u32; WORDS]) -> Result<(), RewriteError>;

    /// Updates the TCP or UDP checksum. One that hardware is to finish covers only the pseudo header so far.
    fn update_checksum(&mut self, update: &ChecksumUpdate) -> Result<(), RewriteError>;
}

/// Why a flow entry could not be inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// There is one already.
    Exists,
    /// There is no room.
    Full,
}

/// The maps of one address family. Values are copied out, larger ones to where the caller says; a reader may see a map
/// between two updates of the agent.
pub trait Tables<F: Family> {
    /// Whether the address may be one of a frontend or of an endpoint in use. If not, nobody need ask
    /// [`Self::frontend`] or [`Self::is_endpoint`] about it.
    fn may_be_known(&self, addr: F::Addr) -> bool;
    /// What serves that address and port.
    fn frontend(&self, key: &FrontendKey<F::Addr>) -> Option<Frontend>;
    /// Whether the address lies in a network that is for services alone, as far as the operator has told.
    fn is_for_services(&self, addr: F::Addr) -> bool;
    /// Whether the service with that identifier allows that client, where its frontend asks for source ranges.
    fn is_allowed(&self, service: u32, client: F::Addr) -> bool;
    /// The service with that identifier.
    fn service(&self, id: u32) -> Option<Service>;
    /// The backend index in a Maglev slot.
    fn slot(&self, slot: u32) -> Option<u32>;
    /// Copies the backend with that index, in use or not; false if there is no such index.
    fn backend(&self, index: u32, into: &mut Backend<F::Addr>) -> bool;
    /// Whether that address and port is one of a backend in use.
    fn is_endpoint(&self, key: &FrontendKey<F::Addr>) -> bool;
    /// Copies the flow entry of packets with that key; false if there is none.
    fn flow(&self, key: &FlowKey<F::Addr>, into: &mut Flow<F::Addr>) -> bool;
    /// Copies the endpoint that a client stays with; false if none is remembered.
    fn affinity(&self, key: &AffinityKey<F::Addr>, into: &mut Affinity) -> bool;
    /// Remembers the endpoint that a client stays with. Losing it costs no flow.
    fn remember_affinity(&self, key: &AffinityKey<F::Addr>, affinity: &Affinity);
    /// Copies what was done with the first fragment of a datagram; false if that is not known.
    fn fragment(&self, key: &FragmentKey<F::Addr>, into: &mut Fragment<F::Addr>) -> bool;
    /// Remembers what was done with the first fragment of a datagram. Losing it costs the datagram.
    fn remember_fragment(&self, key: &FragmentKey<F::Addr>, fragment: &Fragment<F::Addr>);
    /// The address that packets sent out of a device get as their source.
    fn source(&self, ifindex: u32) -> Option<F::Addr>;
    /// Adds a flow entry, never overwriting one.
    fn insert_flow(&self, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Result<(), InsertError>;
    /// Adds or overwrites a flow entry.
    fn replace_flow(&self, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Result<(), InsertError>;
    /// Adds `seen` to an entry's note and sets its `last_seen` (ns).
    fn note_flow(&self, key: &FlowKey<F::Addr>, seen: u8, now: u64);
    /// Removes a flow entry, if it is there.
    fn delete_flow(&self, key: &FlowKey<F::Addr>);
    /// Whether meters are to be read by anybody.
    fn has_meters(&self) -> bool;
    /// Adds to the meter of that number, if there is one.
    fn count(&self, meter: u16, counted: &Counted);
    /// The frontend that a socket's peer stands for.
    fn socket(&self, key: &SocketKey<F::Addr>) -> Option<SocketPeer<F::Addr>>;
    /// Remembers the frontend that a socket's peer stands for. Losing it shows the process the endpoint's address.
    fn remember_socket(&self, key: &SocketKey<F::Addr>, peer: &SocketPeer<F::Addr>);
}

/// Why the node cannot send a packet out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// There is no route, or it does not lead out of the node.
    None,
    /// The packet is larger than the route takes. What it takes is in [`Route::mtu`].
    TooBig,
}

/// What is neither packet nor table.
pub trait Env<F: Family> {
    /// The monotonic clock in ns. A few milliseconds of resolution are enough.
    fn now(&self) -> u64;
    /// Whether one more sender may be told what has become of its packet: answers are limited in number.
    fn may_answer(&self) -> bool;
    /// How long (ns) a flow in that state is kept without a packet.
    fn timeout(&self, state: State) -> u64;
    /// The ports that flows may be given in place of their own.
    fn snat_ports(&self) -> Ports;
    /// The way to `to` for a packet from `from` whose IP header and payload are `len` bytes long: those of one segment,
    /// where the packet is to be cut into several.
    fn route(
        &self,
        from: F::Addr,
        to: F::Addr,
        len: u16,
        into: &mut Route<F::Addr>,
    ) -> Result<(), RouteError>;
}
