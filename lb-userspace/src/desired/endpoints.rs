//! Who serves a service port.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};

use crate::plan::{Family, Protocol};

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
}

impl Known {
    fn of(endpoint: &SliceEndpoint, node: &str) -> Self {
        let conditions = endpoint.conditions.as_ref();
        Self {
            ready: conditions.and_then(|c| c.ready).unwrap_or(true),
            serving: conditions.and_then(|c| c.serving).unwrap_or(true),
            terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
            local: endpoint.node_name.as_deref() == Some(node),
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
    slices: impl Iterator<Item = &'a EndpointSlice>,
    port: &str,
    protocol: Protocol,
    family: Family,
    node: &str,
) -> BTreeMap<EndpointAddr, Known> {
    let mut found: BTreeMap<EndpointAddr, Known> = BTreeMap::new();
    for slice in slices.filter(|slice| family_of(slice) == Some(family)) {
        let Some(port) = port_of(slice, port, protocol) else {
            continue;
        };
        for endpoint in &slice.endpoints {
            let addr = endpoint.addresses.first().and_then(|text| text.parse().ok());
            let Some(addr) = addr.filter(|addr| Family::of(*addr) == family) else {
                continue;
            };
            let known = Known::of(endpoint, node);
            let entry = found.entry(EndpointAddr { addr, port }).or_insert(known);
            if known.rank() > entry.rank() {
                *entry = known;
            }
        }
    }
    found
}

/// Who serves under policy Cluster: the ready endpoints; if there is none, those that are terminating but still serve.
pub fn cluster_set(known: &BTreeMap<EndpointAddr, Known>) -> BTreeMap<EndpointAddr, Endpoint> {
    let those = |wanted: fn(&Known) -> bool| -> BTreeMap<_, _> {
        let chosen = known.iter().filter(|(_, known)| wanted(known));
        chosen
            .map(|(addr, known)| (*addr, Endpoint { local: known.local }))
            .collect()
    };
    let ready = those(|known| known.ready);
    if ready.is_empty() {
        those(|known| known.serving && known.terminating)
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

fn family_of(slice: &EndpointSlice) -> Option<Family> {
    match slice.address_type.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    }
}

/// The number that the slice gives a port: that of the first port with the name and protocol.
fn port_of(slice: &EndpointSlice, name: &str, protocol: Protocol) -> Option<u16> {
    let mut ports = slice.ports.iter().flatten();
    let port = ports.find(|port| {
        port.name.as_deref().unwrap_or_default() == name
            && Protocol::from_name(port.protocol.as_deref()) == Some(protocol)
    })?;
    port.port
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0)
}
