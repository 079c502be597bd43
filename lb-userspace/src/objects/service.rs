//! Services.

use std::{net::IpAddr, num::NonZeroU16, sync::Arc};

use ipnet::IpNet;
use k8s_openapi::{api::core::v1 as api, apimachinery::pkg::apis::meta::v1::Time};
use lb_common::abi::TableRef;

use super::{HEADLESS_LABEL, Name, Reader, label};
use crate::plan::Protocol;

/// Label of a Service that another proxy serves, whatever its value.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// Identifies it among Services that had the name before; empty in manifests.
    pub uid: Box<str>,
    /// When it was created; none in manifests.
    pub created: Option<Time>,
    /// Another proxy serves it.
    pub other_proxy: bool,
    /// It has no cluster IP by intent (`None`), or a label that says that proxies are to leave it alone.
    pub headless: bool,
    /// Its cluster IPs, at most one of each family; none if it is headless, or of type ExternalName.
    pub cluster_ips: Vec<IpAddr>,
    /// Addresses that others lead to the nodes.
    pub external_ips: Vec<IpAddr>,
    /// The addresses that its load balancer leaves to the nodes. One of mode Proxy sends traffic to a node's own address
    /// and wants to see its own traffic come back to it, so it is not among them.
    pub balancer_ips: Vec<IpAddr>,
    /// Who may use it by the addresses of its load balancer; everybody if there is nothing here.
    pub source_ranges: Vec<IpNet>,
    /// Those that are no networks.
    pub bad_source_ranges: Vec<Box<str>>,
    /// Its ports, in order.
    pub ports: Vec<ServicePort>,
    /// Traffic to cluster IPs only goes to endpoints on the node.
    pub internal_local: bool,
    /// Traffic to other addresses only goes to endpoints on the node.
    pub external_local: bool,
    /// How long (s) a client stays with its endpoint; 0 for no longer than a flow.
    pub affinity: u32,
    /// The port that tells load balancers whether this node has endpoints.
    pub health_check_port: Option<NonZeroU16>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty if it has none.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number at the Service's addresses.
    pub number: Option<NonZeroU16>,
    /// Its number at the nodes' addresses.
    pub node_port: Option<NonZeroU16>,
}

impl Reader {
    /// A Service of the API.
    pub fn service(&mut self, service: &api::Service) -> Service {
        let metadata = &service.metadata;
        let empty = api::ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&empty);
        let is_local = |policy: Option<&String>| policy.is_some_and(|policy| policy == "Local");
        let (source_ranges, bad_source_ranges) = source_ranges(spec);
        let external_local = is_local(spec.external_traffic_policy.as_ref());
        let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
        Service {
            name: self.name(metadata),
            uid: metadata.uid.as_deref().unwrap_or_default().into(),
            created: metadata.creation_timestamp.clone(),
            other_proxy: label(metadata, PROXY_NAME_LABEL).is_some(),
            headless: spec.cluster_ip.as_deref() == Some("None") || label(metadata, HEADLESS_LABEL).is_some(),
            cluster_ips: cluster_ips(spec),
            external_ips: addresses(spec.external_ips.iter().flatten()),
            balancer_ips: balancer_ips(service),
            source_ranges,
            bad_source_ranges,
            ports: spec
                .ports
                .iter()
                .flatten()
                .filter_map(|port| self.service_port(port))
                .collect(),
            internal_local: is_local(spec.internal_traffic_policy.as_ref()),
            external_local,
            affinity: affinity(spec),
            // As `apiservice.NeedsHealthCheck` of Kubernetes.
            health_check_port: spec
                .health_check_node_port
                .filter(|_| is_balanced && external_local)
                .and_then(port_number),
        }
    }

    fn service_port(&mut self, port: &api::ServicePort) -> Option<ServicePort> {
        Some(ServicePort {
            name: self.names.get(port.name.as_deref().unwrap_or_default()),
            protocol: Protocol::from_name(port.protocol.as_deref())?,
            number: port_number(port.port),
            node_port: port.node_port.and_then(port_number),
        })
    }
}

fn port_number(number: i32) -> Option<NonZeroU16> {
    u16::try_from(number).ok().and_then(NonZeroU16::new)
}

fn addresses<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}

fn cluster_ips(spec: &api::ServiceSpec) -> Vec<IpAddr> {
    if spec.type_.as_deref() == Some("ExternalName") || spec.cluster_ip.as_deref() == Some("None") {
        return Vec::new();
    }
    let mut found = addresses(spec.cluster_ips.iter().flatten());
    if found.is_empty() {
        found = addresses(spec.cluster_ip.iter());
    }
    found
}

fn balancer_ips(service: &api::Service) -> Vec<IpAddr> {
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

/// The source ranges, and those that are none. They may be padded with spaces (`newBaseServiceInfo` in
/// `pkg/proxy/serviceport.go` of Kubernetes).
fn source_ranges(spec: &api::ServiceSpec) -> (Vec<IpNet>, Vec<Box<str>>) {
    let (mut nets, mut bad) = (Vec::new(), Vec::new());
    for text in spec.load_balancer_source_ranges.iter().flatten() {
        match text.trim().parse::<IpNet>() {
            Ok(net) => nets.push(net.trunc()),
            Err(_) => bad.push(text.as_str().into()),
        }
    }
    (nets, bad)
}

/// How long (s) a client stays with its endpoint; 0 for no longer than a flow.
fn affinity(spec: &api::ServiceSpec) -> u32 {
    /// `DefaultClientIPServiceAffinitySeconds` of Kubernetes.
    const DEFAULT: i32 = 10_800;
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return 0;
    }
    let config = spec.session_affinity_config.as_ref();
    let client_ip = config.and_then(|config| config.client_ip.as_ref());
    let seconds = client_ip
        .and_then(|config| config.timeout_seconds)
        .unwrap_or(DEFAULT);
    u32::try_from(seconds).unwrap_or(0).min(TableRef::MAX_AFFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(spec: &str) -> Service {
        let text = format!("metadata: {{name: a, namespace: ns}}\nspec: {spec}");
        let service: api::Service = serde_yaml_ng::from_str(&text).expect("a Service");
        Reader::default().service(&service)
    }

    #[test]
    fn external_names_and_headless_services_have_no_cluster_ip() {
        assert!(
            read("{type: ExternalName, externalName: a.example, clusterIP: 10.0.0.1}")
                .cluster_ips
                .is_empty()
        );
        let headless = read("{clusterIP: None}");
        assert!(headless.headless && headless.cluster_ips.is_empty());
        let labelled =
            "metadata: {name: a, labels: {service.kubernetes.io/headless: ''}}\nspec: {clusterIP: 10.0.0.1}";
        let labelled: api::Service = serde_yaml_ng::from_str(labelled).expect("a Service");
        assert!(Reader::default().service(&labelled).headless, "by its label");
        assert_eq!(read("{clusterIP: 10.0.0.1}").cluster_ips.len(), 1);
        assert_eq!(
            read("{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1']}")
                .cluster_ips
                .len(),
            2
        );
    }

    #[test]
    fn source_ranges_are_trimmed_and_those_that_are_none_are_kept_apart() {
        let service = read("{loadBalancerSourceRanges: [' 192.0.2.7/24', '2001:db8::/32 ', 192.0.2.1, x]}");
        let ranges: Vec<String> = service.source_ranges.iter().map(ToString::to_string).collect();
        assert_eq!(ranges, ["192.0.2.0/24", "2001:db8::/32"]);
        let bad: Vec<&str> = service.bad_source_ranges.iter().map(|text| &**text).collect();
        assert_eq!(bad, ["192.0.2.1", "x"]);
    }

    #[test]
    fn only_load_balancers_of_policy_local_have_a_health_check_port() {
        let port = |spec: &str| read(spec).health_check_port.map(NonZeroU16::get);
        assert_eq!(
            port("{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 31000}"),
            Some(31_000)
        );
        for other in [
            "{type: LoadBalancer, externalTrafficPolicy: Cluster, healthCheckNodePort: 31000}",
            "{type: NodePort, externalTrafficPolicy: Local, healthCheckNodePort: 31000}",
            "{type: LoadBalancer, externalTrafficPolicy: Local}",
        ] {
            assert_eq!(port(other), None, "{other}");
        }
    }
}
