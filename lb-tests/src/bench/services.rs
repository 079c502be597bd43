//! The services that all proxies are given, as one model and as manifests.

use std::{fmt::Write as _, net::Ipv4Addr};

use lb_testkit::{Lab, addresses};

/// Where pods' addresses come from; what is not in it counts as outside of the cluster.
pub(crate) const CLUSTER_CIDR: &str = "10.244.0.0/16";
/// Where ClusterIPs come from.
pub(crate) const SERVICE_CIDR: &str = "10.96.0.0/16";
/// ClusterIP of the service whose one endpoint is on the first node.
pub(crate) const NEAR: Ipv4Addr = Ipv4Addr::new(10, 96, 255, 1);
/// ClusterIP of the service whose one endpoint is on the second node.
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(10, 96, 255, 2);
/// NodePort of the service whose one endpoint is on the second node.
pub(crate) const FAR_NODE_PORT: u16 = 31_522;
/// Ports of both: requests on connections that stay, and connections of one request.
pub(crate) const PORTS: [u16; 2] = [80, 81];
/// The endpoints' ports for these.
pub(crate) const TARGETS: [u16; 2] = [8080, 8081];
/// Endpoints of each of the services that only fill the tables.
const ENDPOINTS: usize = 3;

/// A port of a service.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    /// Name.
    pub(crate) name: &'static str,
    /// `tcp` or `udp`.
    pub(crate) protocol: &'static str,
    /// The service's port.
    pub(crate) port: u16,
    /// The endpoints' port.
    pub(crate) target: u16,
    /// The NodePort, if it has one.
    pub(crate) node_port: Option<u16>,
}

/// A service.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Name, in the namespace `default`.
    pub(crate) name: String,
    /// ClusterIP.
    pub(crate) cluster_ip: Ipv4Addr,
    /// Ports.
    pub(crate) ports: Vec<Port>,
    /// Endpoints with the node of each.
    pub(crate) endpoints: Vec<(Ipv4Addr, u8)>,
}

/// So many services. Those that are measured lie in the middle: iptables walks through them in order, and kube-proxy's
/// order is none.
pub(crate) fn services(lab: &Lab, count: usize) -> Vec<Service> {
    let fillers = count.saturating_sub(2);
    let mut all: Vec<Service> = (0..fillers).map(filler).collect();
    let measured = [
        measured("near", NEAR, (lab.pod(1, 2).v4, 1), None),
        measured("far", FAR, (lab.pod(2, 1).v4, 2), Some(FAR_NODE_PORT)),
    ];
    all.splice(fillers / 2..fillers / 2, measured);
    all
}

fn measured(name: &str, cluster_ip: Ipv4Addr, endpoint: (Ipv4Addr, u8), node_port: Option<u16>) -> Service {
    let port = |name, protocol, nth: usize, node_port| Port {
        name,
        protocol,
        port: PORTS[nth],
        target: TARGETS[nth],
        node_port,
    };
    Service {
        name: name.to_owned(),
        cluster_ip,
        ports: vec![
            port("stay", "tcp", 0, node_port),
            port("ask", "udp", 0, node_port),
            // Kubernetes gives each port of such a service a NodePort.
            port("once", "tcp", 1, node_port.map(|port| port + 1)),
        ],
        endpoints: vec![endpoint],
    }
}

/// A service that nobody asks: one port, three endpoints; each tenth has a NodePort.
fn filler(number: usize) -> Service {
    let endpoint = |nth: usize| {
        let nth = number * ENDPOINTS + nth;
        // Beside the lab's pods; addresses that nobody has.
        let node = 3 + nth as u32 / 250;
        let addr =
            Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 0, 0)) + (node << 8) + 1 + nth as u32 % 250);
        (addr, 2)
    };
    Service {
        name: format!("filler-{number}"),
        cluster_ip: Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + number as u32),
        ports: vec![Port {
            name: "http",
            protocol: "tcp",
            port: 80,
            target: 8080,
            node_port: number.is_multiple_of(10).then(|| 30_000 + (number / 10) as u16),
        }],
        endpoints: (0..ENDPOINTS).map(endpoint).collect(),
    }
}

/// The node's address that NodePorts are asked at.
pub(crate) fn node_address() -> Ipv4Addr {
    addresses::node4(1)
}

/// The services as manifests.
pub(crate) fn manifests(services: &[Service]) -> String {
    let mut text = String::new();
    for service in services {
        let kind = if service.ports.iter().any(|port| port.node_port.is_some()) {
            "NodePort"
        } else {
            "ClusterIP"
        };
        let Service { name, cluster_ip, .. } = service;
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  type: {kind}\n  clusterIP: \
             {cluster_ip}\n  clusterIPs: [{cluster_ip}]\n  ipFamilies: [IPv4]\n  ports:\n"
        );
        for port in &service.ports {
            let _ = writeln!(
                text,
                "  - {{name: {}, protocol: {}, port: {}, targetPort: {}{}}}",
                port.name,
                port.protocol.to_uppercase(),
                port.port,
                port.target,
                port.node_port
                    .map(|port| format!(", nodePort: {port}"))
                    .unwrap_or_default()
            );
        }
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  labels:\n    \
             kubernetes.io/service-name: {name}\naddressType: IPv4\nports:\n"
        );
        for port in &service.ports {
            let (name, protocol, target) = (port.name, port.protocol.to_uppercase(), port.target);
            let _ = writeln!(text, "- {{name: {name}, protocol: {protocol}, port: {target}}}");
        }
        text.push_str("endpoints:\n");
        for (addr, node) in &service.endpoints {
            let _ = writeln!(
                text,
                "- {{addresses: [{addr}], nodeName: node{node}, conditions: {{ready: true, serving: true, terminating: \
                 false}}}}"
            );
        }
    }
    text
}
