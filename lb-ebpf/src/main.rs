//! The kernel side of Fairlead: entry points, maps and packet access.
//!
//! Nothing is decided here. [`lb_common::datapath`] is the algorithm; this crate binds it to the kernel:
//!
//! - [`maps`]: the maps;
//! - [`tables`]: the algorithm's tables on those maps;
//! - [`routes`]: its clock and its routing table;
//! - [`skb`]: the algorithm's packets on socket buffers, for tc;
//! - [`xdp`]: the same on frames that have no socket buffer yet, for XDP;
//! - [`sockets`]: the calls of processes, for the cgroup hooks;
//! - below: the entry points.

#![no_std]
#![no_main]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the entry point macros hand the context over by value"
)]
#![expect(
    unsafe_code,
    reason = "kernel memory is reached by pointers and helpers that the verifier, not rustc, checks"
)]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the entry point macros make public items without documentation"
)]

#[cfg(feature = "bench")]
mod bench;
mod globals;
mod maps;
mod routes;
mod skb;
mod sockets;
mod tables;
mod words;
mod xdp;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        TC_ACT_SHOT,
        xdp_action::{XDP_DROP, XDP_PASS},
    },
    macros::{cgroup_sock_addr, classifier, xdp},
    programs::{SockAddrContext, TcContext, XdpContext},
};
use aya_log_ebpf::debug;
use lb_common::{
    datapath::{self, Hook, Role, Way},
    verdict::{Action, Reason},
};

use crate::{routes::Surroundings, skb::Skb, sockets::Call, tables::Kernel, xdp::Frame};

// The names of the programs begin with `fl_`: `bpftool prog` and `tc filter` show whose they are (within the 15 bytes
// that the kernel keeps of a name), and filters are recognised by it.

/// "No opinion": the next program, or the stack, goes on with the packet. `TCX_NEXT`, and `TC_ACT_UNSPEC` for clsact.
const NEXT: i32 = -1;

/// From a pod into the node.
#[classifier]
pub fn fl_ingress_workload(ctx: TcContext) -> i32 {
    packet(&ctx, Hook::Ingress(Role::Workload))
}

/// From the network into the node.
#[classifier]
pub fn fl_ingress_uplink(ctx: TcContext) -> i32 {
    packet(&ctx, Hook::Ingress(Role::Uplink))
}

/// Out of the node, to a pod or the network.
#[classifier]
pub fn fl_egress(ctx: TcContext) -> i32 {
    packet(&ctx, Hook::Egress)
}

#[inline(always)]
fn packet(ctx: &TcContext, hook: Hook) -> i32 {
    let Some(works) = maps::works() else {
        return NEXT;
    };
    let mut skb = Skb::new(ctx);
    works.frame_len = ctx.len().into();
    let verdict = datapath::process(&mut skb, &Kernel, &Surroundings::new(ctx), hook, works);
    let reason = verdict.reason;
    maps::count(reason, works.frame_len);
    match reason.action() {
        Action::Pass => NEXT,
        Action::Forward => {
            if matches!(reason, Reason::NewFlow | Reason::Rechosen) {
                debug!(
                    ctx,
                    "device {}: new flow by a packet of {} bytes: reason {}",
                    ifindex(ctx),
                    ctx.len(),
                    reason as u8
                );
            }
            match verdict.way {
                Way::Route if skb.is_ipv6() => routes::send6(&works.v6.route),
                Way::Route => routes::send4(&works.v4.route),
                Way::Stack | Way::Back | Way::Up => NEXT,
            }
        }
        Action::Reject if matches!(verdict.way, Way::Back) => routes::send_back(ifindex(ctx)),
        Action::Reject | Action::Drop => {
            debug!(
                ctx,
                "device {}: packet of {} bytes dropped: reason {}",
                ifindex(ctx),
                ctx.len(),
                reason as u8
            );
            TC_ACT_SHOT
        }
    }
}

/// From the network, before the stack, in native mode: frames may come in pieces (jumbo frames).
#[xdp(frags)]
pub fn fl_early(ctx: XdpContext) -> u32 {
    early::<true>(&ctx)
}

/// The same for generic mode, where the kernel puts the pieces together for a program that knows of none. (Generic XDP
/// with a program for frames in pieces loses the length of the Ethernet header of what goes up, seen on Linux 6.18:
/// tc then no longer knows IP packets as such.)
#[xdp]
pub fn fl_early_generic(ctx: XdpContext) -> u32 {
    early::<false>(&ctx)
}

#[inline(always)]
fn early<const PIECES: bool>(ctx: &XdpContext) -> u32 {
    let Some(works) = maps::early_works() else {
        return XDP_PASS;
    };
    let mut frame = Frame::<PIECES>::new(ctx);
    let len = frame.len();
    works.frame_len = len as u64;
    let surroundings = Surroundings::of_frame(ctx, frame.is_linear(len));
    let verdict = datapath::process(&mut frame, &Kernel, &surroundings, Hook::Early, works);
    if matches!(verdict.way, Way::Up) {
        return XDP_PASS;
    }
    let reason = verdict.reason;
    maps::count(reason, works.frame_len);
    match verdict.way {
        Way::Route if frame.is_ipv6() => frame.send(works.v6.route.ifindex, &works.v6.route.ethernet),
        Way::Route => frame.send(works.v4.route.ifindex, &works.v4.route.ethernet),
        Way::Back => frame.send_back(),
        Way::Stack | Way::Up => XDP_DROP,
    }
}

#[inline(always)]
fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel hands a valid context to the program; the field is read-only.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Declares cgroup entry points: a name, what kind of call it sees, and what it runs.
macro_rules! socket_hooks {
    ($($name:ident $hook:ident $run:ident;)+) => {
        $(
            #[doc = concat!("The cgroup hook `", stringify!($hook), "`.")]
            #[cgroup_sock_addr($hook)]
            pub fn $name(ctx: SockAddrContext) -> i32 {
                // First of all: sockets of other namespaces are none of ours, such as those of other nodes on the same
                // kernel.
                let Some(caller) = globals::caller(ctx.as_ptr()) else {
                    return sockets::ALLOW;
                };
                sockets::$run(&Call::new(&ctx, caller))
            }
        )+
    };
}

socket_hooks! {
    fl_connect4 connect4 connect4;
    fl_connect6 connect6 connect6;
    fl_sendmsg4 sendmsg4 send4;
    fl_sendmsg6 sendmsg6 send6;
    fl_recvmsg4 recvmsg4 show4;
    fl_recvmsg6 recvmsg6 show6;
    fl_getpeername4 getpeername4 show4;
    fl_getpeername6 getpeername6 show6;
}

/// Helpers such as `bpf_skb_load_bytes` do not ask for it, others of the kernel are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never called: nothing in the programs panics, and the verifier would refuse a loop.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
