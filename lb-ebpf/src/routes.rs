//! The clock and the routing table, and how a packet is sent out by it.
//!
//! tc and XDP ask the same table by the same helper, but not for the same: tc lets the kernel find the neighbour when the
//! packet is sent, XDP needs its hardware address at once.

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
        bpf_fib_lookup as FibLookup, bpf_redir_neigh as RedirectNeighbour, xdp_md,
    },
    helpers::generated::{bpf_fib_lookup, bpf_ktime_get_coarse_ns, bpf_redirect, bpf_redirect_neigh},
    programs::{TcContext, XdpContext},
};
use lb_common::{
    abi::{XdpMode, proto},
    datapath::{Env, Ports, Route, RouteError, V4, V6},
    flow::State,
};

use crate::{globals, maps};

/// `AF_INET` of `linux/socket.h`.
const AF_INET: u8 = 2;
/// `AF_INET6`.
const AF_INET6: u8 = 10;

/// Asks the routing table for the packet at hand.
pub(crate) trait Ask {
    /// Fills in the answer to `query` for a packet of `len` bytes; an error if it cannot be sent there from here. If the way
    /// exists, `query` tells afterwards how large a packet it takes.
    fn ask(&self, query: &mut FibLookup, len: u16) -> Result<(), RouteError>;

    /// Tells the Ethernet addresses of an answer.
    fn ethernet(answer: &FibLookup, into: &mut [u32; 3]);
}

/// What surrounds the packet that a program was called for.
pub(crate) struct Surroundings<A>(A);

/// Asks for a socket buffer of tc.
pub(crate) struct AskForSkb(*mut __sk_buff);

/// Asks for a frame of XDP.
pub(crate) struct AskForFrame {
    ctx: *mut xdp_md,
    linear: bool,
}

impl Surroundings<AskForSkb> {
    #[inline(always)]
    pub(crate) fn new(ctx: &TcContext) -> Self {
        Self(AskForSkb(ctx.skb.skb))
    }
}

impl Surroundings<AskForFrame> {
    /// `linear` says whether the frame lies in one piece.
    #[inline(always)]
    pub(crate) fn of_frame(ctx: &XdpContext, linear: bool) -> Self {
        Self(AskForFrame { ctx: ctx.ctx, linear })
    }
}

impl Ask for AskForSkb {
    #[inline(always)]
    fn ask(&self, query: &mut FibLookup, len: u16) -> Result<(), RouteError> {
        let family = query.family;
        query.__bindgen_anon_1.tot_len = len;
        // SAFETY: the kernel hands a valid context to the program.
        query.ifindex = unsafe { (*self.0).ifindex };
        query.l4_protocol = proto::TCP;
        let size = size_of::<FibLookup>() as i32;
        // SAFETY: the helper reads and writes a structure of that size. With a length in it, it looks at the MTU of the
        // route and of the path as far as it is known, not at the device's alone, and tells it (Linux 5.12).
        let answer = unsafe { bpf_fib_lookup(self.0.cast(), query, size, 0) };
        match u32::try_from(answer) {
            // Without a neighbour yet: sending the packet will ask for it.
            // (A gateway of the other family, RFC 5549, is not supported.)
            Ok(BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH) if query.family == family => Ok(()),
            Ok(BPF_FIB_LKUP_RET_FRAG_NEEDED) => Err(RouteError::TooBig),
            _ => Err(RouteError::None),
        }
    }

    #[inline(always)]
    fn ethernet(_answer: &FibLookup, _into: &mut [u32; 3]) {}
}

impl Ask for AskForFrame {
    #[inline(always)]
    fn ask(&self, query: &mut FibLookup, len: u16) -> Result<(), RouteError> {
        // SAFETY: the kernel hands a valid context to the program.
        let came_by = unsafe { (*self.ctx).ingress_ifindex };
        query.ifindex = came_by;
        query.l4_protocol = proto::TCP;
        query.__bindgen_anon_1.tot_len = len;
        let size = size_of::<FibLookup>() as i32;
        // SAFETY: the helper reads and writes a structure of that size.
        let answer = unsafe { bpf_fib_lookup(self.ctx.cast(), query, size, 0) };
        if answer != i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
            return Err(RouteError::None);
        }
        if query.ifindex == came_by || takes_frames(came_by, query.ifindex, self.linear) {
            Ok(())
        } else {
            Err(RouteError::None)
        }
    }

    #[inline(always)]
    fn ethernet(answer: &FibLookup, into: &mut [u32; 3]) {
        let (to, from) = (answer.dmac, answer.smac);
        into[0] = u32::from_ne_bytes([to[0], to[1], to[2], to[3]]);
        into[1] = u32::from_ne_bytes([to[4], to[5], from[0], from[1]]);
        into[2] = u32::from_ne_bytes([from[2], from[3], from[4], from[5]]);
    }
}

/// Whether a frame that came by one device can be sent out of another one. Drivers take frames of others only in native
/// mode, most of them only if they run an XDP program themselves, and not every one in pieces.
#[inline(always)]
fn takes_frames(came_by: u32, goes_by: u32, linear: bool) -> bool {
    let (Some(here), Some(there)) = (maps::uplink(came_by), maps::uplink(goes_by)) else {
        return false;
    };
    here.has(XdpMode::Generic) || (there.has(XdpMode::Native) && linear)
}

/// A query about nothing.
#[inline(always)]
fn query(family: u8) -> FibLookup {
    // SAFETY: integers and unions of integers, for which zero is a value.
    let mut query: FibLookup = unsafe { core::mem::zeroed() };
    query.family = family;
    query
}

/// How large a packet the way takes, after a lookup that found one.
#[inline(always)]
fn mtu(query: &FibLookup) -> u32 {
    // SAFETY: both members of the union are integers of one size.
    unsafe { query.__bindgen_anon_1.mtu_result.into() }
}

impl<A: Ask> Env<V4> for Surroundings<A> {
    #[inline(always)]
    fn now(&self) -> u64 {
        now()
    }

    #[inline(always)]
    fn may_answer(&self) -> bool {
        maps::may_answer(now())
    }

    #[inline(always)]
    fn timeout(&self, state: State) -> u64 {
        globals::timeout(state)
    }

    #[inline(always)]
    fn snat_ports(&self) -> Ports {
        globals::snat_ports()
    }

    #[inline(always)]
    fn route(&self, from: u32, to: u32, len: u16, into: &mut Route<u32>) -> Result<(), RouteError> {
        let mut query = query(AF_INET);
        query.__bindgen_anon_3.ipv4_src = from;
        query.__bindgen_anon_4.ipv4_dst = to;
        let found = self.0.ask(&mut query, len);
        into.mtu = mtu(&query);
        found?;
        // SAFETY: the helper has written the next hop, an address of the family that was asked for.
        into.next_hop = unsafe { query.__bindgen_anon_4.ipv4_dst };
        into.ifindex = query.ifindex;
        A::ethernet(&query, &mut into.ethernet);
        Ok(())
    }
}

impl<A: Ask> Env<V6> for Surroundings<A> {
    #[inline(always)]
    fn now(&self) -> u64 {
        now()
    }

    #[inline(always)]
    fn may_answer(&self) -> bool {
        maps::may_answer(now())
    }

    #[inline(always)]
    fn timeout(&self, state: State) -> u64 {
        globals::timeout(state)
    }

    #[inline(always)]
    fn snat_ports(&self) -> Ports {
        globals::snat_ports()
    }

    #[inline(always)]
    fn route(
        &self,
        from: [u32; 4],
        to: [u32; 4],
        len: u16,
        into: &mut Route<[u32; 4]>,
    ) -> Result<(), RouteError> {
        let mut query = query(AF_INET6);
        query.__bindgen_anon_3.ipv6_src = from;
        query.__bindgen_anon_4.ipv6_dst = to;
        let found = self.0.ask(&mut query, len);
        into.mtu = mtu(&query);
        found?;
        // SAFETY: as for IPv4.
        into.next_hop = unsafe { query.__bindgen_anon_4.ipv6_dst };
        into.ifindex = query.ifindex;
        A::ethernet(&query, &mut into.ethernet);
        Ok(())
    }
}

#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: takes no arguments. The resolution is that of the timer tick, 1 to 10 ms.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Sends the packet out by an IPv4 route; returns what the program is to return.
#[inline(always)]
pub(crate) fn send4(route: &Route<u32>) -> i32 {
    // SAFETY: zero is a value, as in `query`.
    let mut neighbour: RedirectNeighbour = unsafe { core::mem::zeroed() };
    neighbour.nh_family = AF_INET.into();
    neighbour.__bindgen_anon_1.ipv4_nh = route.next_hop;
    send(route.ifindex, &mut neighbour)
}

/// Sends the packet out by an IPv6 route.
#[inline(always)]
pub(crate) fn send6(route: &Route<[u32; 4]>) -> i32 {
    // SAFETY: as in `send4`.
    let mut neighbour: RedirectNeighbour = unsafe { core::mem::zeroed() };
    neighbour.nh_family = AF_INET6.into();
    neighbour.__bindgen_anon_1.ipv6_nh = route.next_hop;
    send(route.ifindex, &mut neighbour)
}

/// Sends the packet out of the device that it came in by; returns what the program is to return.
#[inline(always)]
pub(crate) fn send_back(ifindex: u32) -> i32 {
    // SAFETY: takes numbers only.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

/// The kernel finds the neighbour's hardware address itself, and asks for it if need be.
#[inline(always)]
fn send(ifindex: u32, neighbour: &mut RedirectNeighbour) -> i32 {
    // SAFETY: the helper reads a structure of that size.
    unsafe { bpf_redirect_neigh(ifindex, neighbour, size_of::<RedirectNeighbour>() as i32, 0) as i32 }
}
