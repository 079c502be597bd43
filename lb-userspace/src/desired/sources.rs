//! Who may use a Service by the addresses of its load balancer.
//!
//! `spec.loadBalancerSourceRanges`, as kube-proxy reads them (`newBaseServiceInfo` in `pkg/proxy/serviceport.go` of
//! Kubernetes): entries may be padded with spaces, and each family goes by its own entries. A family without any is open to
//! every source. The ranges hold for the load balancer's addresses alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::NodeFacts;
use crate::{
    objects::Service,
    plan::{Family, FrontendAddr, FrontendKind},
};

/// The sources that a service port allows at the addresses of its load balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Networks of the service port's family.
    pub ranges: BTreeSet<IpNet>,
    /// Whether they contain an address of the node, so that its own processes are allowed.
    pub node: bool,
}

/// Whether one of the frontends is a load balancer's.
pub(super) fn matter(frontends: &BTreeMap<FrontendAddr, FrontendKind>) -> bool {
    of_balancer(frontends).next().is_some()
}

/// The addresses of the load balancer.
fn of_balancer(frontends: &BTreeMap<FrontendAddr, FrontendKind>) -> impl Iterator<Item = IpAddr> {
    let those = frontends.iter();
    those
        .filter(|(_, kind)| **kind == FrontendKind::LoadBalancer)
        .map(|(frontend, _)| frontend.addr)
}

/// The sources that a Service allows in one family, where it has these frontends; none if it allows all, or has no load
/// balancer. Where the node is allowed, the load balancer's addresses are too, because a node that carries such an address
/// itself uses it as its source.
pub(super) fn of_service(
    service: &Service,
    family: Family,
    facts: &NodeFacts,
    frontends: &BTreeMap<FrontendAddr, FrontendKind>,
) -> Option<Sources> {
    if !matter(frontends) {
        return None;
    }
    let asked = service.source_ranges.iter().copied();
    let mut ranges: BTreeSet<IpNet> = asked.filter(|range| Family::of(range.addr()) == family).collect();
    if ranges.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0) {
        return None;
    }
    let node = facts
        .own
        .iter()
        .any(|addr| ranges.iter().any(|range| range.contains(addr)));
    if node {
        ranges.extend(of_balancer(frontends).map(IpNet::from));
    }
    Some(Sources { ranges, node })
}
