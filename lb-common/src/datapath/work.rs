//! Where a packet is worked on.
//!
//! The kernel gives a program 512 bytes of stack for a whole chain of calls, and one IPv6 flow entry takes a fifth of it.
//! So what the steps of the algorithm find out and hand on lies in memory that the caller provides: a per-CPU map in
//! the kernel, a local variable elsewhere. It holds whatever the packet before left there; each step sets what it uses.

use super::Headers;
use crate::abi::{Address, Backend, Flow, FlowKey, Fragment, FragmentKey};

/// What is known of the packet at hand.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Work<A> {
    /// The packet as it came in.
    pub headers: Headers<A>,
    /// Of an ICMP error, the headers that it quotes, turned around: the key is that of packets which go where the error
    /// goes.
    pub quoted: Headers<A>,
    /// Of an ICMP error, where it ends in the frame.
    pub end: u32,
    /// The flow entry of the packet's direction.
    pub flow: Flow<A>,
    /// The key of the other direction's entry.
    pub other_key: FlowKey<A>,
    /// The other direction's entry.
    pub other: Flow<A>,
    /// An entry that stands in the way of one of these.
    pub there: Flow<A>,
    /// The key of its other direction.
    pub beyond_key: FlowKey<A>,
    /// The entry of its other direction.
    pub beyond: Flow<A>,
    /// The endpoint of a new flow.
    pub backend: Backend<A>,
    /// Its index.
    pub index: u32,
    /// The source that it is to see.
    pub source: A,
    /// [`crate::abi::FlowFlags`] of a new flow.
    pub flags: u32,
    /// Number of its meter.
    pub meter: u32,
    /// Where a packet goes that the node sends out itself.
    pub route: Route<A>,
    /// What the fragments of the packet's datagram have in common.
    pub fragment_key: FragmentKey<A>,
    /// What is done with them.
    pub fragment: Fragment<A>,
}

/// The way to an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Route<A> {
    /// The neighbour to hand the packet to: a gateway, or the destination itself.
    pub next_hop: A,
    /// The device that it is reached by.
    pub ifindex: u32,
    /// The largest packet that the way takes, in bytes; also where a packet was larger.
    pub mtu: u32,
    /// The Ethernet addresses to send it with, destination and source, bytes as in the frame. Only [`Hook::Early`] has
    /// them; otherwise the stack finds them.
    ///
    /// [`Hook::Early`]: super::Hook::Early
    pub ethernet: [u32; 3],
}

/// Room for a packet of either family.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Works {
    /// For IPv4.
    pub v4: Work<u32>,
    /// For IPv6.
    pub v6: Work<[u32; 4]>,
    /// Length of the frame as it came, in bytes.
    pub frame_len: u64,
}

/// What is done with a packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The reason, which is counted and says whether the packet goes on.
    pub reason: crate::verdict::Reason,
    /// Where it goes, if it is not dropped.
    pub way: Way,
}

/// Where a packet goes that is not dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// On to the stack, or out of it.
    Stack,
    /// Out by [`Work::route`].
    Route,
    /// Out of the device that it came in by.
    Back,
    /// Nothing was done: it is decided on later. Nothing is counted.
    Up,
}

impl Verdict {
    /// The packet was rewritten, or the kernel refused that; the node sends it out itself if `redirect`.
    #[inline(always)]
    pub(super) const fn rewritten(reason: crate::verdict::Reason, redirect: bool) -> Self {
        let way = if redirect && matches!(reason.action(), crate::verdict::Action::Forward) {
            Way::Route
        } else {
            Way::Stack
        };
        Self { reason, way }
    }

    /// The packet goes where the stack takes it, or nowhere.
    pub const fn plain(reason: crate::verdict::Reason) -> Self {
        Self {
            reason,
            way: Way::Stack,
        }
    }

    /// The packet is left to a later look, which will count it.
    pub const fn up(reason: crate::verdict::Reason) -> Self {
        Self { reason, way: Way::Up }
    }
}

impl<A: Address> Work<A> {
    /// The key of the packet's own direction.
    #[inline(always)]
    pub const fn key(&self) -> &FlowKey<A> {
        &self.headers.key
    }
}
