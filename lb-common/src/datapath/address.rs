//! What is sent to an address of services but to no port that any of them has.

use super::{Family, Part, Role, Tables, Work};
use crate::{
    abi::{FrontendKey, FrontendKind, proto},
    flow::tcp,
    verdict::Reason,
};

/// Why a packet that no frontend takes ends here, or goes on.
///
/// A cluster IP belongs to the cluster alone, so its other ports are nobody's, whoever asks. External and load balancer
/// IPs may be addresses of real hosts as well, which pods reach directly; but what comes in by an uplink was sent to this
/// node for its services. (An address of the node itself has no entry, and its other ports are those of its processes.)
#[inline(always)]
pub(super) fn without_frontend<F: Family, T: Tables<F>>(
    tables: &T,
    work: &Work<F::Addr>,
    role: Role,
) -> Reason {
    let addr = work.headers.key.tuple.dst;
    match tables.frontend(&FrontendKey::of_address(addr)) {
        Some(entry) if is_cluster_ip(entry.kind) || matches!(role, Role::Uplink) => Reason::UnknownPort,
        Some(_) => Reason::NotService,
        None => of_nobody::<F, _>(tables, work),
    }
}

/// Why a packet ends here, or goes on, that was sent to an address which no service has. Not inlined: comparing networks
/// takes stack.
#[inline(never)]
pub(super) fn of_nobody<F: Family, T: Tables<F>>(tables: &T, work: &Work<F::Addr>) -> Reason {
    if tables.is_for_services(work.headers.key.tuple.dst) {
        Reason::UnallocatedAddress
    } else {
        Reason::NotService
    }
}

/// Whether the sender may be told that nobody listens. A reset asks for nothing and would only be answered by noise;
/// netfilter does not reject it either, because it begins no connection. Any other packet is answered: if it is of a
/// connection that is forgotten here, the error is one that its sender notes and outlives (RFC 5927, section 5.2). About a later fragment nothing is said
/// (RFC 1122, section 3.2.2): what it quotes would have no ports.
#[inline(always)]
pub(super) fn may_be_told<F: Family>(work: &Work<F::Addr>) -> bool {
    F::may_be_answered(work.headers.key.tuple.src)
        && work.headers.tcp_flags & tcp::RST == 0
        && work.headers.part != Part::Later
}

/// Why the call of a node's process ends here that no frontend takes, or goes on. Unlike packets, processes of the node
/// may use a load balancer's address for what they like.
///
/// A UDP socket may be connected to any address: resolvers do that to learn which source the routing table gives for it
/// (RFC 6724 in `getaddrinfo`), and send nothing.
#[inline(always)]
pub(super) fn of_socket<F: Family, T: Tables<F>>(
    tables: &T,
    addr: F::Addr,
    protocol: u8,
    connects: bool,
) -> Reason {
    let asks = protocol == proto::TCP || protocol == proto::UDP && !connects;
    if !asks {
        return Reason::SocketNotService;
    }
    match tables.frontend(&FrontendKey::of_address(addr)) {
        Some(entry) if is_cluster_ip(entry.kind) => Reason::SocketUnknownPort,
        Some(_) => Reason::SocketNotService,
        None if tables.is_for_services(addr) => Reason::UnallocatedAddress,
        None => Reason::SocketNotService,
    }
}

const fn is_cluster_ip(kind: u8) -> bool {
    kind == FrontendKind::ClusterIp as u8
}
