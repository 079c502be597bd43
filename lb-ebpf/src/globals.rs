//! Knobs that the agent sets before loading. The verifier knows their values and removes what is switched off.

use core::ffi::c_void;

use aya_ebpf::{Global, helpers::bpf_get_netns_cookie};
use lb_common::{
    datapath::{Ports, socket::Caller},
    flow::State,
    limits,
};

use crate::maps;

/// Cookie of the agent's network namespace (`SO_NETNS_COOKIE`). 0, which no namespace has, until it is set.
#[unsafe(no_mangle)]
static NETNS_COOKIE: Global<u64> = Global::new(0);

/// 1 if pods are served by their sockets as well, else 0.
#[unsafe(no_mangle)]
static SOCKETS_OF_PODS: Global<u8> = Global::new(0);

/// 1 if service ports are counted, else 0.
#[unsafe(no_mangle)]
static SERVICE_STATS: Global<u8> = Global::new(1);

/// `BPF_F_IPV6` where the kernel knows that flag of `bpf_l4_csum_replace` (6.16, kernel commit ead7f9b8de65), else 0.
#[unsafe(no_mangle)]
static CSUM_IPV6_FLAG: Global<u64> = Global::new(0);

/// 1 where the kernel has `bpf_set_retval` (5.18, kernel commit b44123b4a3dc), else 0.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: Global<u8> = Global::new(0);

/// The first port that flows may be given, in host order.
#[unsafe(no_mangle)]
static SNAT_FIRST: Global<u16> = Global::new(0);

/// How many ports there are; 0 until it is set, and then flows find none.
#[unsafe(no_mangle)]
static SNAT_COUNT: Global<u16> = Global::new(0);

/// Timeout (ns) of flows in the state `Syn`.
#[unsafe(no_mangle)]
static TIMEOUT_SYN: Global<u64> = Global::new(limits::TCP_SYN_TIMEOUT_NS);

/// Timeout (ns) of flows in the state `Established`.
#[unsafe(no_mangle)]
static TIMEOUT_ESTABLISHED: Global<u64> = Global::new(limits::TCP_ESTABLISHED_TIMEOUT_NS);

/// Timeout (ns) of flows in the state `Closing`.
#[unsafe(no_mangle)]
static TIMEOUT_CLOSING: Global<u64> = Global::new(limits::TCP_CLOSING_TIMEOUT_NS);

/// Timeout (ns) of flows in the state `Closed`.
#[unsafe(no_mangle)]
static TIMEOUT_CLOSED: Global<u64> = Global::new(limits::TCP_CLOSED_TIMEOUT_NS);

/// Timeout (ns) of flows in the state `Udp`.
#[unsafe(no_mangle)]
static TIMEOUT_UDP: Global<u64> = Global::new(limits::UDP_TIMEOUT_NS);

/// Timeout (ns) of flows in the state `UdpStream`.
#[unsafe(no_mangle)]
static TIMEOUT_UDP_STREAM: Global<u64> = Global::new(limits::UDP_STREAM_TIMEOUT_NS);

/// Whether service ports are counted.
#[inline(always)]
pub(crate) fn service_stats() -> bool {
    SERVICE_STATS.load() != 0
}

/// How long (ns) a flow in that state is kept without a packet.
#[inline(always)]
pub(crate) fn timeout(state: State) -> u64 {
    match state {
        State::Syn => TIMEOUT_SYN.load(),
        State::Established => TIMEOUT_ESTABLISHED.load(),
        State::Closing => TIMEOUT_CLOSING.load(),
        State::Closed => TIMEOUT_CLOSED.load(),
        State::Udp => TIMEOUT_UDP.load(),
        State::UdpStream => TIMEOUT_UDP_STREAM.load(),
        State::SctpEstablished => limits::SCTP_ESTABLISHED_TIMEOUT_NS,
        State::SctpOpening | State::SctpClosing => limits::SCTP_CLOSED_TIMEOUT_NS,
    }
}

/// The ports that flows may be given in place of their own.
#[inline(always)]
pub(crate) fn snat_ports() -> Ports {
    Ports {
        first: SNAT_FIRST.load(),
        count: SNAT_COUNT.load(),
    }
}

/// Whose call a cgroup hook sees; none if it is nobody's of this node: its network namespace is neither the agent's nor,
/// where pods are served by their sockets, that of one of them.
#[inline(always)]
pub(crate) fn caller(ctx: *mut c_void) -> Option<Caller> {
    // SAFETY: the kernel hands a valid context to the program.
    let cookie = unsafe { bpf_get_netns_cookie(ctx) };
    if cookie == NETNS_COOKIE.load() {
        Some(Caller::Node)
    } else if SOCKETS_OF_PODS.load() != 0 && maps::is_pod(cookie) {
        Some(Caller::Pod)
    } else {
        None
    }
}

/// The flag that tells `bpf_l4_csum_replace` that the addresses are those of IPv6, where it exists.
#[inline(always)]
pub(crate) fn csum_ipv6_flag() -> u64 {
    CSUM_IPV6_FLAG.load()
}

/// Whether a hook can choose the error that the process sees.
#[inline(always)]
pub(crate) fn has_set_retval() -> bool {
    HAS_SET_RETVAL.load() != 0
}
