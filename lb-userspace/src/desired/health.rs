//! The health check that a load balancer asks a Service's nodes for.
//!
//! Only a Service of type LoadBalancer whose external traffic stays on the node has one: for every other Service all nodes
//! are equal. What counts is the addresses of endpoints
//! that are ready and on this node, whatever their ports (`LocalReadyEndpoints` in `pkg/proxy/endpointslicecache.go`); one
//! that terminates still serves, but no longer asks for connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU16,
};

use super::endpoints::{EndpointAddr, Known};
use crate::{health::HealthCheck, objects::Service, plan::Family};

/// The health checks of a Service, from the addresses that count in each of its families; none if it is asked for none.
pub(super) fn checks(
    service: &Service,
    counted: &BTreeMap<Family, BTreeSet<IpAddr>>,
) -> BTreeMap<Family, HealthCheck> {
    let Some(port) = service.health_check_port.map(NonZeroU16::get) else {
        return BTreeMap::new();
    };
    let check = |addresses: &BTreeSet<IpAddr>| HealthCheck {
        uid: service.uid.clone(),
        port,
        endpoints: addresses.len(),
    };
    counted
        .iter()
        .map(|(family, addresses)| (*family, check(addresses)))
        .collect()
}

/// The addresses of a service port's endpoints that count.
pub(super) fn local_ready(known: &BTreeMap<EndpointAddr, Known>) -> BTreeSet<IpAddr> {
    let counted = known.iter().filter(|(_, known)| known.local && known.ready);
    counted.map(|(endpoint, _)| endpoint.addr).collect()
}
