//! The addresses of a Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};

use super::{NodeFacts, Options};
use crate::plan::{Family, FrontendAddr, FrontendKind, Protocol};

/// One port of a Service in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFrontends {
    /// Name of the port; empty if it has none.
    pub name: String,
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
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let cluster = cluster_ips(spec);
    let families: BTreeSet<Family> = cluster.iter().map(|ip| Family::of(*ip)).collect();
    let external = addresses(
        spec.external_ips
            .iter()
            .flatten()
            .filter(|_| options.external_ips),
    );
    let balancer = load_balancer_ips(service);
    // The node's own processes reach node ports there as well.
    let loopback = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = Protocol::from_name(port.protocol.as_deref()) else {
            continue;
        };
        let node_port = port.node_port.unwrap_or(0);
        let all = [
            (FrontendKind::ClusterIp, &cluster, port.port),
            (FrontendKind::Localhost, &loopback, node_port),
            (FrontendKind::NodePort, &facts.addresses, node_port),
            (FrontendKind::ExternalIp, &external, port.port),
            (FrontendKind::LoadBalancer, &balancer, port.port),
        ];
        for family in &families {
            let mut frontends = BTreeMap::new();
            for (kind, addresses, number) in all {
                let Some(number) = u16::try_from(number).ok().filter(|number| *number != 0) else {
                    continue;
                };
                for addr in addresses.iter().filter(|addr| Family::of(**addr) == *family) {
                    frontends
                        .entry(FrontendAddr {
                            addr: *addr,
                            port: number,
                            protocol,
                        })
                        .or_insert(kind);
                }
            }
            ports.push(PortFrontends {
                name: name(port),
                protocol,
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

fn name(port: &ServicePort) -> String {
    port.name.clone().unwrap_or_default()
}

fn addresses<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}

fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    if spec.type_.as_deref() == Some("ExternalName") || spec.cluster_ip.as_deref() == Some("None") {
        return Vec::new();
    }
    let mut found = addresses(spec.cluster_ips.iter().flatten());
    if found.is_empty() {
        found = addresses(spec.cluster_ip.iter());
    }
    found
}

/// The addresses that a load balancer leaves to the node. One of mode Proxy sends traffic to the node's own address
/// and wants to see its own traffic come back to it.
fn load_balancer_ips(service: &Service) -> Vec<IpAddr> {
    let balancer = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer
        .into_iter()
        .flat_map(|balancer| balancer.ingress.iter().flatten());
    let of_node = ingress.filter(|ingress| matches!(ingress.ip_mode.as_deref(), None | Some("VIP")));
    addresses(of_node.filter_map(|ingress| ingress.ip.as_ref()))
}
