//! The addresses of a Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::{NodeFacts, Options};
use crate::{
    objects::Service,
    plan::{Family, FrontendAddr, FrontendKind, Protocol},
};

/// One port of a Service in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFrontends {
    /// Name of the port; empty if it has none.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The family.
    pub family: Family,
    /// The addresses of that family.
    pub frontends: BTreeMap<FrontendAddr, FrontendKind>,
}

/// The ports of a Service, in each family that it has a cluster IP of. None for what no proxy serves: headless
/// Services, ExternalName, and Services without cluster IP.
pub fn of_service(service: &Service, facts: &NodeFacts, options: Options) -> Vec<PortFrontends> {
    let families: BTreeSet<Family> = service.cluster_ips.iter().map(|ip| Family::of(*ip)).collect();
    let external = if options.external_ips {
        &service.external_ips[..]
    } else {
        &[]
    };
    // The node's own processes reach node ports there as well.
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let mut ports = Vec::new();
    for port in &service.ports {
        let all = [
            (FrontendKind::ClusterIp, &service.cluster_ips[..], port.number),
            (FrontendKind::Localhost, &loopback, port.node_port),
            (FrontendKind::NodePort, &facts.addresses, port.node_port),
            // Before external IPs: one that is the load balancer's as well goes by the source ranges.
            (FrontendKind::LoadBalancer, &service.balancer_ips, port.number),
            (FrontendKind::ExternalIp, external, port.number),
        ];
        for family in &families {
            let mut frontends = BTreeMap::new();
            for (kind, addresses, number) in all {
                let Some(number) = number else { continue };
                for addr in addresses.iter().filter(|addr| Family::of(**addr) == *family) {
                    frontends
                        .entry(FrontendAddr {
                            addr: *addr,
                            port: number.get(),
                            protocol: port.protocol,
                        })
                        .or_insert(kind);
                }
            }
            ports.push(PortFrontends {
                name: port.name.clone(),
                protocol: port.protocol,
                family: *family,
                frontends,
            });
        }
    }
    ports
}

/// The addresses of frontends that belong to services as a whole, so that other ports of them are nobody's. A node
/// port's address is the node's, and so is any other address that the node has itself: its other ports are those of the
/// node's own processes.
pub(super) fn addresses_of(
    frontends: &BTreeMap<FrontendAddr, FrontendKind>,
    facts: &NodeFacts,
) -> BTreeMap<IpAddr, FrontendKind> {
    let of_services = frontends.iter().filter(|(frontend, kind)| match kind {
        FrontendKind::ClusterIp | FrontendKind::ExternalIp | FrontendKind::LoadBalancer => {
            !facts.own.contains(&frontend.addr)
        }
        FrontendKind::NodePort | FrontendKind::Localhost => false,
    });
    of_services
        .map(|(frontend, kind)| (frontend.addr, *kind))
        .collect()
}
