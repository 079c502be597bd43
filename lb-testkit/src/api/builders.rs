//! What tests say in a line: nodes, pods and Services as they are made in clusters.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{clock, server::ApiServer};
use crate::error::Result;

/// A pod, ready and without ports until told otherwise.
#[derive(Clone, Debug)]
pub struct Pod(Value);

impl Pod {
    /// A pod of that name (`namespace/name`, or a name in `default`) with its addresses.
    #[must_use]
    pub fn new(name: &str, ips: &[IpAddr]) -> Self {
        let (namespace, name) = split(name);
        let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let now = clock::now();
        Self(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "labels": {}},
            "spec": {"containers": [{"name": "main", "image": "test", "ports": []}]},
            "status": {
                "phase": "Running",
                "podIP": ips.first().map(|one| &one["ip"]),
                "podIPs": ips,
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}],
            },
        }))
    }

    /// With a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = value.into();
        self
    }

    /// On a node.
    #[must_use]
    pub fn node(mut self, name: &str) -> Self {
        self.0["spec"]["nodeName"] = name.into();
        self
    }

    /// With the node's own network.
    #[must_use]
    pub fn host_network(mut self) -> Self {
        self.0["spec"]["hostNetwork"] = true.into();
        self
    }

    /// With a named port.
    ///
    /// # Panics
    ///
    /// Never: a pod has a container.
    #[must_use]
    pub fn port(mut self, name: &str, protocol: &str, number: u16) -> Self {
        let port = json!({"name": name, "protocol": protocol, "containerPort": number});
        self.0["spec"]["containers"][0]["ports"]
            .as_array_mut()
            .expect("a list of ports")
            .push(port);
        self
    }

    /// Not ready.
    #[must_use]
    pub fn unready(mut self) -> Self {
        self.0["status"]["conditions"][0]["status"] = "False".into();
        self
    }
}

fn split(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or(("default", name))
}

impl ApiServer {
    /// Stores a node with these addresses, in a zone if one is given.
    ///
    /// # Errors
    ///
    /// If there is one of that name.
    pub fn create_node(&self, name: &str, ips: &[IpAddr], zone: Option<&str>) -> Result<Value> {
        let mut addresses: Vec<Value> = ips
            .iter()
            .map(|ip| json!({"type": "InternalIP", "address": ip}))
            .collect();
        addresses.push(json!({"type": "Hostname", "address": name}));
        let mut labels = json!({"kubernetes.io/hostname": name});
        if let Some(zone) = zone {
            labels["topology.kubernetes.io/zone"] = zone.into();
        }
        self.create(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": labels},
            "spec": {},
            "status": {
                "addresses": addresses,
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": clock::now()}],
            },
        }))
    }

    /// Stores a pod; the slices of the Services that select it have it when this returns.
    ///
    /// # Errors
    ///
    /// If there is one of that name.
    pub fn create_pod(&self, pod: Pod) -> Result<Value> {
        self.create(pod.0)
    }

    /// Stores a Service (`namespace/name`, or a name in `default`) with that `spec`; what it leaves out is allocated and
    /// filled in.
    ///
    /// # Errors
    ///
    /// If there is one of that name, or an address or a port is taken.
    pub fn create_service(&self, name: &str, spec: &Value) -> Result<Value> {
        let (namespace, name) = split(name);
        self.create(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": namespace, "name": name}, "spec": spec,
        }))
    }

    /// A pod turns ready or unready.
    ///
    /// # Errors
    ///
    /// If there is none of that name.
    pub fn set_ready(&self, pod: &str, ready: bool) -> Result<Value> {
        let status = if ready { "True" } else { "False" };
        let condition = json!([{"type": "Ready", "status": status, "lastTransitionTime": clock::now()}]);
        self.patch("pods", pod, &json!({"status": {"conditions": condition}}))
    }

    /// A pod is asked to end: it goes on until it is deleted, being ready or not as before.
    ///
    /// # Errors
    ///
    /// If there is none of that name.
    pub fn terminate(&self, pod: &str) -> Result<Value> {
        let meta = json!({"deletionTimestamp": clock::now(), "deletionGracePeriodSeconds": 30});
        self.patch("pods", pod, &json!({"metadata": meta}))
    }

    /// A pod is evicted: it has failed, and stays as an object.
    ///
    /// # Errors
    ///
    /// If there is none of that name.
    pub fn evict(&self, pod: &str) -> Result<Value> {
        self.patch(
            "pods",
            pod,
            &json!({"status": {"phase": "Failed", "reason": "Evicted"}}),
        )
    }

    /// The slices of a Service (`namespace/name`), by name.
    pub fn slices(&self, service: &str) -> Vec<Value> {
        let (namespace, name) = split(service);
        let mut slices = self.list("endpointslices");
        slices.retain(|slice| {
            let meta = &slice["metadata"];
            meta["namespace"] == namespace && meta["labels"]["kubernetes.io/service-name"] == name
        });
        slices
    }

    /// Families of the cluster's Services, the first being the default: `["IPv4", "IPv6"]` at first.
    pub fn cluster_families(&self, families: &[&'static str]) {
        self.shared
            .change(|state| state.controllers.set_families(families));
    }

    /// Stores the Service `default/kubernetes` with its slice, whose endpoints are the server's IPv4 addresses, as the
    /// real server does for itself.
    ///
    /// # Errors
    ///
    /// If it is stored already.
    pub fn publish_itself(&self) -> Result<Value> {
        let addresses: Vec<_> = self
            .addresses()
            .into_iter()
            .filter(std::net::SocketAddr::is_ipv4)
            .collect();
        let endpoints: Vec<Value> = addresses
            .iter()
            .map(|addr| json!({"addresses": [addr.ip()], "conditions": {"ready": true}}))
            .collect();
        let port = addresses.first().map_or(6443, std::net::SocketAddr::port);
        self.create(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "namespace": "default", "name": "kubernetes",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "endpoints": endpoints,
            "ports": [{"name": "https", "protocol": "TCP", "port": port}],
        }))?;
        self.create_service(
            "kubernetes",
            &json!({
                "clusterIP": "10.96.0.1",
                "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
            }),
        )
    }
}
