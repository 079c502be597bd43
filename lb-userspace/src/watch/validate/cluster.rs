//! Rules for Nodes and ServiceCIDRs, which belong to no namespace.

use std::collections::BTreeSet;

use ipnet::IpNet;
use k8s_openapi::api::{core::v1::Node, networking::v1::ServiceCIDR};

use super::{Fault, Faults, SUBDOMAIN_RULE, is_subdomain};
use crate::plan::Family;

/// Checks a Node.
pub(in crate::watch) fn node(node: &mut Node) -> Vec<Fault> {
    let mut faults = Faults::default();
    faults.name(&node.metadata, is_subdomain, SUBDOMAIN_RULE);
    faults.0
}

/// Checks a ServiceCIDR.
pub(in crate::watch) fn service_cidr(cidr: &mut ServiceCIDR) -> Vec<Fault> {
    let mut faults = Faults::default();
    faults.name(&cidr.metadata, is_subdomain, SUBDOMAIN_RULE);
    let texts = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    let texts: Vec<&String> = texts.collect();
    if texts.is_empty() {
        faults.add("spec.cidrs", "missing; a ServiceCIDR needs a network");
    }
    let mut families = BTreeSet::new();
    for (i, text) in texts.into_iter().enumerate() {
        let field = format!("spec.cidrs[{i}]");
        match text.parse::<IpNet>() {
            Err(_) => faults.add(
                field,
                format!("{text:?} is no CIDR; write one like 10.96.0.0/16 or fd00:10:96::/112"),
            ),
            Ok(net) if net.prefix_len() == 0 => faults.add(
                field,
                format!("{text} holds every address; write the network that cluster IPs are given from"),
            ),
            Ok(net) if !families.insert(Family::of(net.addr())) => faults.add(
                field,
                format!("{text} is a second network of its IP version; write another ServiceCIDR for it"),
            ),
            Ok(_) => {}
        }
    }
    faults.0
}
