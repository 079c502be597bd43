//! Who may use a Service by the addresses of its load balancer.
//!
//! `spec.loadBalancerSourceRanges`, as kube-proxy reads them (`newBaseServiceInfo` in `pkg/proxy/serviceport.go` of
//! Kubernetes): entries may be padded with spaces, and each family goes by its own entries. A family without any is open to
//! every source. The ranges hold for the load balancer's addresses alone.

use std::{collections::BTreeSet, net::IpAddr};

use super::NodeFacts;
use crate::{objects::Service, plan::Family};
use ipnet::IpNet;

/// The sources that a service port allows at the addresses of its load balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Networks of the service port's family.
    pub ranges: BTreeSet<IpNet>,
    /// Whether they contain an address of the node, so that its own processes are allowed.
    pub node: bool,
}

/// The sources that a Service allows in one family; none if it allows all. `balancer` are the addresses of its load
/// balancer in that family: where the node is allowed, they are too, because a node that carries such an address itself
/// uses it as its source.
pub(super) fn of_service(
    service: &Service,
    family: Family,
    facts: &NodeFacts,
    balancer: impl Iterator<Item = IpAddr>,
) -> Option<Sources> {
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
        ranges.extend(balancer.map(IpNet::from));
    }
    Some(Sources { ranges, node })
}
