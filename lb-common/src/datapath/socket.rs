//! Services for the node's own processes: the socket is rewritten once instead of each of its packets.

use super::{
    Family, Tables, address,
    choose::{self, Choice, Failure},
};
use crate::{
    abi::{Address, Backend, FrontendKey, SocketKey, SocketPeer},
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

/// Where a socket that asks at the time `now` (ns) for `addr`:`port` (bytes as in the packet) is sent. `cookie` names
/// the socket: the same one is sent to the same endpoint again as long as the table says so. `connects` tells a socket that
/// is connected from one that sends.
#[inline(always)]
pub fn destination<F: Family, T: Tables<F>>(
    tables: &T,
    cookie: u64,
    addr: F::Addr,
    port: u16,
    proto: u8,
    connects: bool,
    now: u64,
) -> Destination<F::Addr> {
    let asked = F::loopback(addr).unwrap_or(addr);
    let Some(frontend) = tables.frontend(&FrontendKey::new(asked, port, proto)) else {
        return Destination::Unchanged(address::of_socket::<F, _>(tables, asked, proto, connects));
    };
    let choice = Choice {
        service: frontend.service,
        kind: frontend.kind,
        // The node's own processes belong to the cluster.
        from_outside: false,
        hash: maglev::socket_hash(cookie, port, proto),
        // They have no address yet; all of them are one client.
        client: F::Addr::UNSPECIFIED,
        now,
    };
    let mut backend = Backend::default();
    match choose::choose::<F, _>(tables, &choice, &mut backend) {
        Ok(_) => {}
        Err(Failure::NoLocalEndpoints) => return Destination::Unchanged(Reason::SocketNoLocalEndpoints),
        Err(Failure::NoEndpoints) => return Destination::Unchanged(Reason::SocketNoEndpoints),
        Err(Failure::BadTable) => return Destination::Unchanged(Reason::SocketBadTable),
    }
    let key = SocketKey::new(cookie, backend.addr, backend.port);
    let peer = SocketPeer::new(addr, port);
    if tables.socket(&key) != Some(peer) {
        tables.remember_socket(&key, &peer);
    }
    Destination::Endpoint {
        addr: backend.addr,
        port: backend.port,
    }
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
