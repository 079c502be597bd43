//! Writes the manifests that tests need.

use std::{fmt::Write as _, net::IpAddr};

use lb_testkit::Host;
use serde::Deserialize as _;
use serde_json::Value;

/// A Service with its EndpointSlices.
#[derive(Clone, Debug)]
pub struct Manifest {
    name: String,
    cluster_ips: Vec<String>,
    spec: Vec<String>,
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
    balancer: Vec<String>,
}

#[derive(Clone, Debug)]
struct Port {
    name: String,
    protocol: &'static str,
    port: u16,
    target: u16,
    node_port: Option<u16>,
}

#[derive(Clone, Debug)]
struct Endpoint {
    addresses: [IpAddr; 2],
    node: String,
    ready: bool,
    terminating: bool,
}

impl Manifest {
    /// A dual-stack Service with the addresses `10.96.0.<number>` and `fd00:10:96::<number>`.
    pub fn new(name: &str, number: u16) -> Self {
        Self {
            name: name.to_owned(),
            cluster_ips: vec![
                format!("10.96.{}.{}", number >> 8, number & 255),
                format!("fd00:10:96::{number:x}"),
            ],
            spec: Vec::new(),
            ports: Vec::new(),
            endpoints: Vec::new(),
            balancer: Vec::new(),
        }
    }

    /// A port for TCP and one for UDP, to the same target port.
    #[must_use]
    pub fn port(mut self, port: u16, target: u16, node_port: Option<u16>) -> Self {
        for protocol in ["TCP", "UDP"] {
            let name = format!("p{port}-{}", protocol.to_lowercase());
            self.ports.push(Port {
                name,
                protocol,
                port,
                target,
                node_port,
            });
        }
        self
    }

    /// A port for SCTP.
    #[must_use]
    pub fn sctp(mut self, port: u16, target: u16, node_port: Option<u16>) -> Self {
        self.ports.push(Port {
            name: format!("p{port}-sctp"),
            protocol: "SCTP",
            port,
            target,
            node_port,
        });
        self
    }

    /// A ready endpoint on a pod; `node` is the name of the pod's node.
    #[must_use]
    pub fn endpoint(mut self, pod: &Host, node: &str) -> Self {
        self.endpoints.push(Endpoint {
            addresses: [pod.v4.into(), pod.v6.into()],
            node: node.to_owned(),
            ready: true,
            terminating: false,
        });
        self
    }

    /// The manifest without the endpoint on a pod.
    #[must_use]
    pub fn without(mut self, pod: &Host) -> Self {
        self.endpoints
            .retain(|endpoint| endpoint.addresses[0] != IpAddr::from(pod.v4));
        self
    }

    /// The manifest with the endpoint on a pod not ready.
    #[must_use]
    pub fn unready(mut self, pod: &Host) -> Self {
        for endpoint in &mut self.endpoints {
            endpoint.ready &= endpoint.addresses[0] != IpAddr::from(pod.v4);
        }
        self
    }

    /// The manifest with the endpoint on a pod on its way out: not ready, but it still serves.
    #[must_use]
    pub fn terminating(mut self, pod: &Host) -> Self {
        self = self.unready(pod);
        for endpoint in &mut self.endpoints {
            endpoint.terminating |= endpoint.addresses[0] == IpAddr::from(pod.v4);
        }
        self
    }

    /// The manifest of a Service of type LoadBalancer that a load balancer gave these addresses.
    #[must_use]
    pub fn balancer(mut self, addresses: &[&str]) -> Self {
        self.balancer = addresses.iter().map(|&addr| addr.to_owned()).collect();
        self
    }

    /// A further line of the Service's spec.
    #[must_use]
    pub fn with(mut self, line: &str) -> Self {
        self.spec.push(line.to_owned());
        self
    }

    /// The same as objects of the namespace `default`, as an API server has them.
    ///
    /// # Panics
    ///
    /// If what was made up here is no YAML.
    pub fn objects(&self) -> Vec<Value> {
        let yaml = self.yaml();
        let documents = serde_yaml_ng::Deserializer::from_str(&yaml).map(|document| {
            let mut object = Value::deserialize(document).expect("the YAML above");
            object["metadata"]["namespace"] = "default".into();
            object
        });
        documents.collect()
    }

    /// The YAML: the Service and a slice for each family.
    pub fn yaml(&self) -> String {
        let mut text = String::new();
        let kind = if !self.balancer.is_empty() {
            "LoadBalancer"
        } else if self.ports.iter().any(|port| port.node_port.is_some()) {
            "NodePort"
        } else {
            "ClusterIP"
        };
        let _ = write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {}\nspec:\n  type: {kind}\n  clusterIP: {:?}\n  \
             clusterIPs: {:?}\n  ipFamilies: [IPv4, IPv6]\n  ipFamilyPolicy: RequireDualStack\n",
            self.name, self.cluster_ips[0], self.cluster_ips
        );
        for line in &self.spec {
            let _ = writeln!(text, "  {line}");
        }
        text.push_str("  ports:\n");
        for Port {
            name,
            protocol,
            port,
            target,
            node_port,
        } in &self.ports
        {
            let _ = writeln!(
                text,
                "  - {{name: {name}, protocol: {protocol}, port: {port}, targetPort: {target}{}}}",
                node_port
                    .map(|port| format!(", nodePort: {port}"))
                    .unwrap_or_default()
            );
        }
        if !self.balancer.is_empty() {
            text.push_str("status:\n  loadBalancer:\n    ingress:\n");
        }
        for addr in &self.balancer {
            let _ = writeln!(text, "    - ip: {addr:?}");
        }
        for (nth, family) in ["IPv4", "IPv6"].iter().enumerate() {
            let _ = write!(
                text,
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {0}-{1}\n  labels:\n    \
                 kubernetes.io/service-name: {0}\naddressType: {family}\nports:\n",
                self.name,
                family.to_lowercase()
            );
            for Port {
                name,
                protocol,
                target,
                ..
            } in &self.ports
            {
                let _ = writeln!(text, "- {{name: {name}, protocol: {protocol}, port: {target}}}");
            }
            let _ = writeln!(
                text,
                "endpoints:{}",
                if self.endpoints.is_empty() { " []" } else { "" }
            );
            for Endpoint {
                addresses,
                node,
                ready,
                terminating,
            } in &self.endpoints
            {
                let serving = *ready || *terminating;
                let _ = writeln!(
                    text,
                    "- {{addresses: [\"{}\"], nodeName: {node}, conditions: {{ready: {ready}, serving: {serving}, \
                     terminating: {terminating}}}}}",
                    addresses[nth]
                );
            }
        }
        text
    }
}
