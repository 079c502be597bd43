//! Who serves a service port.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use super::{
    NodeFacts,
    topology::{self, Hinted},
};
use crate::{
    objects::{self, Slice},
    plan::{Family, Protocol},
};

/// Address and port of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointAddr {
    /// Its address.
    pub addr: IpAddr,
    /// Its port, host order.
    pub port: u16,
}

impl fmt::Display for EndpointAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::net::SocketAddr::new(self.addr, self.port))
    }
}

/// An endpoint that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// It runs on this node.
    pub local: bool,
}

/// What is known of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Takes new connections.
    pub ready: bool,
    /// Would answer, whether or not it is to get new connections.
    pub serving: bool,
    /// Is being deleted.
    pub terminating: bool,
    /// Runs on this node.
    pub local: bool,
    /// Whom it is meant for.
    pub hinted: Hinted,
}

impl Known {
    fn of(endpoint: &objects::Endpoint, node: &NodeFacts) -> Self {
        Self {
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
            local: endpoint.node.as_deref() == Some(&*node.name),
            hinted: Hinted::of(endpoint.hints.as_deref(), node),
        }
    }

    /// Which of two descriptions of one address and port counts: the one that is not terminating (an address may
    /// be used again before its former pod is gone). The rest of the order only makes the choice the same each time.
    fn rank(&self) -> (bool, bool, bool, bool) {
        (!self.terminating, self.ready, self.serving, self.local)
    }
}

/// All endpoints of a service port. The port number comes from each slice, by name and protocol.
pub fn known<'a>(
    slices: impl Iterator<Item = &'a Slice>,
    port: &str,
    protocol: Protocol,
    family: Family,
    node: &NodeFacts,
) -> BTreeMap<EndpointAddr, Known> {
    let mut found: BTreeMap<EndpointAddr, Known> = BTreeMap::new();
    for slice in slices.filter(|slice| slice.family == Some(family)) {
        let Some(port) = port_of(slice, port, protocol) else {
            continue;
        };
        for endpoint in &*slice.endpoints {
            let known = Known::of(endpoint, node);
            let addr = EndpointAddr {
                addr: endpoint.addr,
                port,
            };
            let entry = found.entry(addr).or_insert(known);
            if known.rank() > entry.rank() {
                *entry = known;
            }
        }
    }
    found
}

/// Who serves under policy Cluster: the ready endpoints that topology allows; if there is none, those that are terminating
/// but still serve.
pub fn cluster_set(known: &BTreeMap<EndpointAddr, Known>) -> BTreeMap<EndpointAddr, Endpoint> {
    let those = |wanted: &dyn Fn(&Known) -> bool| -> BTreeMap<_, _> {
        let chosen = known.iter().filter(|(_, known)| wanted(known));
        chosen
            .map(|(addr, known)| (*addr, Endpoint { local: known.local }))
            .collect()
    };
    let hints: Vec<Hinted> = known
        .values()
        .filter(|known| known.ready)
        .map(|known| known.hinted)
        .collect();
    let near = topology::choose(&hints);
    let ready = those(&|known| known.ready && near.allows(known.hinted));
    if ready.is_empty() {
        those(&|known| known.serving && known.terminating)
    } else {
        ready
    }
}

/// Who serves under policy Local: the ready endpoints on this node; if there is none, those on it that are terminating
/// but still serve.
pub fn local_set(known: &BTreeMap<EndpointAddr, Known>) -> BTreeSet<EndpointAddr> {
    let those = |wanted: fn(&Known) -> bool| -> BTreeSet<EndpointAddr> {
        let chosen = known.iter().filter(|(_, known)| known.local && wanted(known));
        chosen.map(|(addr, _)| *addr).collect()
    };
    let ready = those(|known| known.ready);
    if ready.is_empty() {
        those(|known| known.serving && known.terminating)
    } else {
        ready
    }
}

/// Who serves without being in these two sets, and so keeps the flows that it has: kube-proxy lets those of UDP go only
/// where an endpoint does not serve (`CleanStaleEntries` in `pkg/proxy/conntrack/cleanup.go` of Kubernetes), whatever it is
/// that keeps new ones away.
pub fn kept_set(
    known: &BTreeMap<EndpointAddr, Known>,
    cluster: &BTreeMap<EndpointAddr, Endpoint>,
    local: &BTreeSet<EndpointAddr>,
) -> BTreeMap<EndpointAddr, Endpoint> {
    let others = known
        .iter()
        .filter(|(addr, known)| known.serving && !cluster.contains_key(addr) && !local.contains(addr));
    others
        .map(|(addr, known)| (*addr, Endpoint { local: known.local }))
        .collect()
}

/// The number that the slice gives a port: that of the first port with the name and protocol.
fn port_of(slice: &Slice, name: &str, protocol: Protocol) -> Option<u16> {
    let mut ports = slice.ports.iter();
    let port = ports.find(|port| &*port.name == name && port.protocol == protocol)?;
    Some(port.number?.get())
}
