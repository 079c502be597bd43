//! Rules for Services.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Fault, Faults, LABEL_RULE, is_label};
use crate::plan::{Family, Protocol};

/// The node ports that a manifest may ask for. Kubernetes' own range (30000–32767) can be changed in a cluster, so it
/// is no rule here; but below 1024 the node's own services live, and taking port 22 would lock an operator out.
const NODE_PORTS: std::ops::RangeInclusive<i32> = 1024..=65535;

/// Checks a Service, and fills in what can be filled in without an API server.
pub(in crate::watch) fn service(service: &mut Service) -> Vec<Fault> {
    let mut faults = Faults::default();
    faults.metadata(&mut service.metadata, is_label, LABEL_RULE);
    let Some(spec) = &mut service.spec else {
        faults.add("spec", "missing; a Service needs a spec with clusterIP and ports");
        return faults.0;
    };
    let types = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    faults.one_of("spec.type", spec.type_.as_deref(), &types);
    faults.one_of(
        "spec.sessionAffinity",
        spec.session_affinity.as_deref(),
        &["None", "ClientIP"],
    );
    faults.one_of(
        "spec.internalTrafficPolicy",
        spec.internal_traffic_policy.as_deref(),
        &["Cluster", "Local"],
    );
    faults.one_of(
        "spec.externalTrafficPolicy",
        spec.external_traffic_policy.as_deref(),
        &["Cluster", "Local"],
    );
    let external_name = spec.type_.as_deref() == Some("ExternalName");
    if !external_name {
        let headless = cluster_ips(&mut faults, spec);
        ports(&mut faults, spec, headless);
    }
    for (i, text) in spec.external_ips.iter().flatten().enumerate() {
        faults.address(format_args!("spec.externalIPs[{i}]"), text);
    }
    source_ranges(&mut faults, spec);
    let ingress = service
        .status
        .iter()
        .filter_map(|s| s.load_balancer.as_ref())
        .flat_map(|l| l.ingress.iter().flatten());
    for (i, ingress) in ingress.enumerate() {
        let path = format!("status.loadBalancer.ingress[{i}]");
        if let Some(text) = &ingress.ip {
            faults.address(format_args!("{path}.ip"), text);
        }
        faults.one_of(
            format!("{path}.ipMode"),
            ingress.ip_mode.as_deref(),
            &["VIP", "Proxy"],
        );
    }
    faults.0
}

/// Checks the source ranges. Spaces around them are allowed, for history's sake (`ValidateService` of Kubernetes).
fn source_ranges(faults: &mut Faults, spec: &ServiceSpec) {
    const FIELD: &str = "spec.loadBalancerSourceRanges";
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if !ranges.is_empty() && spec.type_.as_deref() != Some("LoadBalancer") {
        faults.add(
            FIELD,
            "holds for load balancers alone; write type: LoadBalancer or leave it out",
        );
    }
    for (i, text) in ranges.iter().enumerate() {
        if text.trim().parse::<IpNet>().is_err() {
            faults.add(
                format!("{FIELD}[{i}]"),
                format!("{text:?} is no CIDR; write one like 192.0.2.0/24 or 2001:db8::/32"),
            );
        }
    }
}

/// Checks the cluster IPs. Without an API server nobody allocates one, whatever the Service's type is: a Service that
/// Kubernetes would hand to a proxy always has one, so one without is not served half (by its node ports alone) but
/// refused. Returns whether the Service is headless.
fn cluster_ips(faults: &mut Faults, spec: &mut ServiceSpec) -> bool {
    let all: Vec<String> = spec
        .cluster_ips
        .iter()
        .flatten()
        .filter(|ip| !ip.is_empty())
        .cloned()
        .collect();
    let first = spec
        .cluster_ip
        .take()
        .filter(|ip| !ip.is_empty())
        .or_else(|| all.first().cloned());
    spec.cluster_ip.clone_from(&first);
    let Some(first) = first else {
        faults.add(
            "spec.clusterIP",
            "missing; no API server allocates one here: write a free address of your service range, or None for a \
             headless Service",
        );
        return false;
    };
    if all.first().is_some_and(|ip| *ip != first) {
        faults.add(
            "spec.clusterIPs[0]",
            format!("is {}, but spec.clusterIP is {first}; write the same", all[0]),
        );
    }
    if first == "None" {
        return true;
    }
    if all.is_empty() {
        faults.address("spec.clusterIP", &first);
        return false;
    }
    let parsed: Vec<Option<IpAddr>> = all
        .iter()
        .enumerate()
        .map(|(i, text)| faults.address(format_args!("spec.clusterIPs[{i}]"), text))
        .collect();
    let families: BTreeSet<_> = parsed.iter().flatten().map(|ip| Family::of(*ip)).collect();
    if parsed.len() > 2 || (parsed.iter().all(Option::is_some) && families.len() != parsed.len()) {
        faults.add(
            "spec.clusterIPs",
            "a Service has at most one address of each family; leave the others out",
        );
    }
    false
}

fn ports(faults: &mut Faults, spec: &ServiceSpec, headless: bool) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !headless {
        faults.add("spec.ports", "missing; a Service needs a port");
    }
    faults.port_names("spec.ports", ports.iter().map(|port| port.name.as_deref()));
    if ports.len() > 1 {
        for (i, _) in ports
            .iter()
            .enumerate()
            .filter(|(_, port)| port.name.as_deref().unwrap_or("").is_empty())
        {
            faults.add(
                format!("spec.ports[{i}].name"),
                "missing; where there are several ports each needs a name",
            );
        }
    }
    let mut taken: BTreeSet<(i32, Protocol)> = BTreeSet::new();
    let mut node_ports: BTreeSet<(i32, Protocol)> = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        faults.port(format_args!("{path}.port"), port.port);
        if let Some(IntOrString::Int(number)) = port.target_port {
            faults.port(format_args!("{path}.targetPort"), number);
        }
        let protocol = faults.protocol(format_args!("{path}.protocol"), port.protocol.as_deref());
        node_port(faults, &path, spec, port);
        let Some(protocol) = protocol else { continue };
        if !taken.insert((port.port, protocol)) {
            faults.add(
                format!("{path}.port"),
                format!("{}/{protocol} stands twice; leave one out", port.port),
            );
        }
        if let Some(number) = port.node_port.filter(|number| *number != 0)
            && !node_ports.insert((number, protocol))
        {
            faults.add(
                format!("{path}.nodePort"),
                format!("{number}/{protocol} stands twice; choose another"),
            );
        }
    }
}

fn node_port(faults: &mut Faults, path: &str, spec: &ServiceSpec, port: &ServicePort) {
    let number = port.node_port.unwrap_or(0);
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    if number == 0 {
        if kind == "NodePort" {
            faults.add(
                format!("{path}.nodePort"),
                "missing; no API server allocates one here: write one, usually of 30000 to 32767",
            );
        }
    } else if kind == "ClusterIP" {
        faults.add(
            format!("{path}.nodePort"),
            "a Service of type ClusterIP has none; write type: NodePort",
        );
    } else if !NODE_PORTS.contains(&number) {
        let (least, most) = NODE_PORTS.into_inner();
        faults.add(
            format!("{path}.nodePort"),
            format!("{number} cannot be a node port; write {least} to {most}, usually of 30000 to 32767"),
        );
    }
}
