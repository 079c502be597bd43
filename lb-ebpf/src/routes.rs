//! The clock and the routing table, and how a packet is sent out by it.

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
        bpf_fib_lookup as FibLookup, bpf_redir_neigh as RedirectNeighbour,
    },
    helpers::generated::{bpf_fib_lookup, bpf_ktime_get_coarse_ns, bpf_redirect, bpf_redirect_neigh},
    programs::TcContext,
};
use lb_common::{
    abi::proto,
    datapath::{Env, Ports, Route, RouteError, V4, V6},
    flow::State,
};

use crate::{globals, maps};

/// `AF_INET` of `linux/socket.h`.
const AF_INET: u8 = 2;
/// `AF_INET6`.
const AF_INET6: u8 = 10;

/// What surrounds the packet that a tc program was called for.
pub(crate) struct Surroundings {
    skb: *mut __sk_buff,
}

impl Surroundings {
    #[inline(always)]
    pub(crate) fn new(ctx: &TcContext) -> Self {
        Self { skb: ctx.skb.skb }
    }

    /// Asks the routing table, as for a packet that came in by the same device. If the way exists, `query` tells
    /// afterwards how large a packet it takes.
    #[inline(always)]
    fn look_up(&self, query: &mut FibLookup, len: u16) -> Result<(), RouteError> {
        let family = query.family;
        query.__bindgen_anon_1.tot_len = len;
        // SAFETY: the kernel hands a valid context to the program.
        query.ifindex = unsafe { (*self.skb).ifindex };
        query.l4_protocol = proto::TCP;
        let size = size_of::<FibLookup>() as i32;
        // SAFETY: the helper reads and writes a structure of that size. With a length in it, it looks at the MTU of the
        // route and of the path as far as it is known, not at the device's alone, and tells it (Linux 5.12).
        let answer = unsafe { bpf_fib_lookup(self.skb.cast(), query, size, 0) };
        match u32::try_from(answer) {
            // Without a neighbour yet: sending the packet will ask for it.
            // (A gateway of the other family, RFC 5549, is not supported.)
            Ok(BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH) if query.family == family => Ok(()),
            Ok(BPF_FIB_LKUP_RET_FRAG_NEEDED) => Err(RouteError::TooBig),
            _ => Err(RouteError::None),
        }
    }
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

impl Env<V4> for Surroundings {
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
        let found = self.look_up(&mut query, len);
        into.mtu = mtu(&query);
        found?;
        *into = Route {
            // SAFETY: the helper has written the next hop, an address of the family that was asked for.
            next_hop: unsafe { query.__bindgen_anon_4.ipv4_dst },
            ifindex: query.ifindex,
            mtu: into.mtu,
        };
        Ok(())
    }
}

impl Env<V6> for Surroundings {
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
        let found = self.look_up(&mut query, len);
        into.mtu = mtu(&query);
        found?;
        *into = Route {
            // SAFETY: as for IPv4.
            next_hop: unsafe { query.__bindgen_anon_4.ipv6_dst },
            ifindex: query.ifindex,
            mtu: into.mtu,
        };
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
