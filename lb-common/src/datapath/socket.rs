//! Services for processes of the node, and of its pods where that is asked for: the socket is rewritten once instead of
//! each of its packets.

use super::{
    Counted, Family, Tables, address,
    choose::{self, Choice, Failure},
};
use crate::{
    abi::{
        Address, Backend, Frontend, FrontendFlags, FrontendKey, FrontendKind, Meter, SocketKey, SocketPeer,
        proto,
    },
    maglev,
    verdict::Reason,
};

/// What becomes of a socket's destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination<A> {
    /// It stays, for that reason; if the reason drops, the call fails.
    Unchanged(Reason),
    /// The endpoint `addr`:`port`, bytes as in the packet.
    Endpoint {
        /// The endpoint's address.
        addr: A,
        /// The endpoint's port.
        port: u16,
    },
}

/// Whose call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A process in the node's own network namespace. Its packets enter by no device, so its calls are all there is.
    Node,
    /// A process of a pod. The packet path serves it as well.
    Pod,
}

/// A call that names a socket's peer. Addresses and ports have their bytes as in the packet.
#[derive(Clone, Copy, Debug)]
pub struct Ask<A> {
    /// Whose call it is.
    pub caller: Caller,
    /// Whether it is `connect()`, and not a datagram to be sent.
    pub connects: bool,
    /// Whether the socket is connected already: it takes answers from that peer only.
    pub connected: bool,
    /// The socket (`bpf_get_socket_cookie`).
    pub cookie: u64,
    /// The address that is asked for.
    pub addr: A,
    /// The port.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
    /// The time, in ns.
    pub now: u64,
}

/// Where a socket is sent. The same one is sent to the same endpoint again as long as the table says so.
#[inline(always)]
pub fn destination<F: Family, T: Tables<F>>(tables: &T, ask: &Ask<F::Addr>) -> Destination<F::Addr> {
    let asked = match (F::loopback(ask.addr), ask.caller) {
        // The loopback addresses of a pod are its own.
        (Some(_), Caller::Pod) => return Destination::Unchanged(Reason::SocketNotService),
        (loopback, _) => loopback.unwrap_or(ask.addr),
    };
    let Some(frontend) = tables.frontend(&FrontendKey::new(asked, ask.port, ask.proto)) else {
        return Destination::Unchanged(address::of_socket::<F, _>(tables, asked, ask.proto, ask.connects));
    };
    if matches!(ask.caller, Caller::Pod) && packets_know_better::<F, _>(tables, ask, &frontend) {
        return Destination::Unchanged(Reason::SocketLeftToPackets);
    }
    if frontend.flags & FrontendFlags::NODE_REFUSED != 0 {
        return Destination::Unchanged(Reason::SocketSourceNotAllowed);
    }
    let choice = Choice {
        service: frontend.service,
        kind: frontend.kind,
        // The node's own processes and pods belong to the cluster.
        from_outside: false,
        hash: maglev::socket_hash(ask.cookie, ask.port, ask.proto),
        // They have no address yet; all of the node's are one client.
        client: F::Addr::UNSPECIFIED,
        now: ask.now,
    };
    let mut backend = Backend::default();
    let index = match choose::choose::<F, _>(tables, &choice, &mut backend) {
        Ok(index) => index,
        Err(Failure::NoLocalEndpoints) => return Destination::Unchanged(Reason::SocketNoLocalEndpoints),
        Err(Failure::NoEndpoints) => return Destination::Unchanged(Reason::SocketNoEndpoints),
        Err(Failure::BadTable) => return Destination::Unchanged(Reason::SocketBadTable),
    };
    let key = SocketKey::new(ask.cookie, backend.addr, backend.port);
    let peer = SocketPeer {
        addr: ask.addr,
        port: ask.port,
        pad: 0,
        backend: index,
        generation: backend.generation,
    };
    if tables.socket(&key) != Some(peer) {
        tables.remember_socket(&key, &peer);
        if tables.has_meters() && frontend.meter != Meter::NONE {
            tables.count(frontend.meter, &Counted::Socket);
        }
    }
    Destination::Endpoint {
        addr: backend.addr,
        port: backend.port,
    }
}

/// Whether a pod's call is left to the packet path, which decides better on it: on each datagram of a connected UDP
/// socket, whose endpoint may leave; by the client's address, which a socket may not have yet, for session affinity and
/// for source ranges of load balancers.
#[inline(always)]
fn packets_know_better<F: Family, T: Tables<F>>(tables: &T, ask: &Ask<F::Addr>, frontend: &Frontend) -> bool {
    if (ask.connects || ask.connected) && ask.proto == proto::UDP
        || frontend.kind == FrontendKind::LoadBalancer as u8
    {
        return true;
    }
    tables
        .service(frontend.service)
        .is_some_and(|service| service.table.policies().affinity != 0)
}

/// The frontend that a process believes to be the peer `addr`:`port` (bytes as in the packet) of its socket.
#[inline(always)]
pub fn shown_peer<F: Family, T: Tables<F>>(
    tables: &T,
    cookie: u64,
    addr: F::Addr,
    port: u16,
) -> Option<SocketPeer<F::Addr>> {
    tables.socket(&SocketKey::new(cookie, addr, port))
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
