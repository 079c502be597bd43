//! What there is in the flow tables: counted on a walk.

use std::{collections::HashMap, fmt, hash::Hash, net::SocketAddr};

use lb_common::{
    abi::{Either, Flow, FlowKey, FlowKind, port_from_wire, to_ip},
    flow::{State, state_and_last},
};

use crate::plan::Protocol;

/// Addresses of a family, as flow tables hold them.
pub(super) trait Addr: Copy + Eq + Hash + Default + Send + 'static {
    /// The address with its family.
    fn either(self) -> Either;
}

impl Addr for u32 {
    fn either(self) -> Either {
        Either::V4(self)
    }
}

impl Addr for [u32; 4] {
    fn either(self) -> Either {
        Either::V6(self)
    }
}

/// Whether `other` is the other direction of the entry `flow` under `key`: the two name each other.
pub(super) fn is_pair<A: Copy + Eq>(key: &FlowKey<A>, other: &Flow<A>) -> bool {
    other.tuple.reversed() == key.tuple
}

/// The key of the other direction of an entry.
pub(super) fn other_key<A: Copy>(key: &FlowKey<A>, flow: &Flow<A>) -> FlowKey<A> {
    FlowKey {
        tuple: flow.tuple.reversed(),
        protocol: key.protocol,
    }
}

/// Who takes a source port: source address, endpoint's address, its port, protocol.
type PortUse<A> = (A, A, u16, u8);

/// What was counted of one table.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey<A> {
    entries: u64,
    states: HashMap<State, u64>,
    ports: HashMap<PortUse<A>, u64>,
}

impl<A: Addr> Survey<A> {
    /// Counts an entry, of either direction.
    pub(super) fn add_entry(&mut self) {
        self.entries += 1;
    }

    /// Counts a flow by its forward entry, or by its reply entry if that is all there is.
    pub(super) fn add_flow(&mut self, key: &FlowKey<A>, flow: &Flow<A>, other: Option<&Flow<A>>) {
        let (state, _) = state_and_last(key.proto(), flow, other);
        *self.states.entry(state).or_default() += 1;
        let (asked, sent) = (key.tuple, flow.tuple);
        let moved = flow.is_redirected() || asked.src_port() != sent.src_port();
        if flow.is(FlowKind::Forward) && moved {
            let port_use = (sent.src, sent.dst, sent.dst_port(), key.proto());
            *self.ports.entry(port_use).or_default() += 1;
        }
    }

    /// Entries of both directions.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// Flows in a state.
    pub(super) fn in_state(&self, state: State) -> u64 {
        self.states.get(&state).copied().unwrap_or(0)
    }

    /// Flows that have a source port of the node's range.
    pub(super) fn with_ports(&self) -> u64 {
        self.ports.values().sum()
    }

    /// The endpoint towards which most ports are taken.
    pub(super) fn fullest(&self) -> Option<Fullest> {
        let ((source, endpoint, port, protocol), flows) =
            self.ports.iter().max_by_key(|(_, flows)| **flows)?;
        Some(Fullest {
            source: to_ip(source.either()),
            endpoint: SocketAddr::new(to_ip(endpoint.either()), port_from_wire(*port)),
            protocol: Protocol::from_number(*protocol),
            flows: *flows,
        })
    }
}

/// The endpoint towards which most source ports of an address are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fullest {
    /// The address that the ports are of.
    pub source: std::net::IpAddr,
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// Its protocol.
    pub protocol: Option<Protocol>,
    /// How many ports are taken.
    pub flows: u64,
}

impl fmt::Display for Fullest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.endpoint)?;
        if let Some(protocol) = self.protocol {
            write!(f, "/{protocol}")?;
        }
        write!(f, " from {}", self.source)
    }
}
