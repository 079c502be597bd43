//! A lab with an API server: its nodes, and what a cluster knows of them.

mod observe;
mod play;
mod web;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use lb_testkit::{
    Host, Lab, Wiring,
    api::{ADMIN, ApiServer, Pod},
    output,
};
use serde_json::{Value, json};

pub use self::{
    observe::{
        Over, WITHIN, answered_by, answered_over, api_is, curl, health_checks, refused, refused_over, stays,
        stays_over, unanswered,
    },
    play::Play,
    web::{web_at, web_served_by, with_web},
};
use crate::{
    agent::{Agent, at_once},
    manifests::Manifest,
};

/// Port of the API server.
const PORT: u16 = 6443;

/// A lab with an API server on the host outside. Node 1 is in zone `a`, node 2 in zone `b`, and so on.
pub struct Cluster {
    /// The API server.
    pub api: ApiServer,
    /// The lab.
    pub lab: Lab,
    kubeconfig: PathBuf,
}

impl Cluster {
    /// A cluster without Services.
    ///
    /// # Errors
    ///
    /// If the lab cannot be built.
    pub fn new(wiring: Wiring) -> Result<Self> {
        Self::on(Lab::builder().wiring(wiring).build()?)
    }

    /// The same in a given lab.
    ///
    /// # Errors
    ///
    /// If the API server cannot listen.
    pub fn on(lab: Lab) -> Result<Self> {
        let api = ApiServer::start(lab.client(), SocketAddr::new(lab.client().v4.into(), PORT))?;
        let kubeconfig = lab.folder().join("kubeconfig");
        api.kubeconfig(&kubeconfig, ADMIN, &api.urls())?;
        for (host, zone) in lab.nodes().iter().zip('a'..) {
            let ips = [host.v4.into(), host.v6.into()];
            api.create_node(&host.name, &ips, Some(&zone.to_string()))?;
        }
        api.create(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": ["10.96.0.0/16", "fd00:10:96::/112"]},
        }))?;
        Ok(Self { api, lab, kubeconfig })
    }

    /// The kubeconfig of a user who may do everything.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Starts the agent of a node (counted from 1) and waits until it serves.
    ///
    /// # Errors
    ///
    /// If it does not come to that, with its log.
    pub fn agent(&self, node: usize, more: &[&str]) -> Result<Agent> {
        Agent::start_for(&self.lab, node, &self.kubeconfig, more)
    }

    /// Starts the agents of all nodes.
    ///
    /// # Errors
    ///
    /// If one does not come to serve.
    pub fn agents(&self, more: &[&str]) -> Result<Vec<Agent>> {
        let (lab, kubeconfig) = (&self.lab, &self.kubeconfig);
        let started = at_once(1..=lab.nodes().len(), |node| {
            Agent::start_for(lab, node, kubeconfig, more)
        });
        started.into_iter().collect()
    }

    /// Creates or replaces a Service and its slices.
    ///
    /// # Errors
    ///
    /// If the API server refuses them.
    pub fn apply(&self, manifest: &Manifest) -> Result<()> {
        for object in manifest.objects() {
            self.apply_object(object)?;
        }
        Ok(())
    }

    /// Creates or replaces an object of the namespace `default`.
    ///
    /// # Errors
    ///
    /// If the API server refuses it.
    pub fn apply_object(&self, object: Value) -> Result<()> {
        let (resource, name) = place(&object);
        if self.api.get(resource, &name).is_some() {
            self.api.update(object)?;
        } else {
            self.api.create(object)?;
        }
        Ok(())
    }

    /// Removes a Service and its slices.
    ///
    /// # Errors
    ///
    /// If it is not there.
    pub fn delete(&self, manifest: &Manifest) -> Result<()> {
        for object in manifest.objects() {
            let (resource, name) = place(&object);
            self.api.delete(resource, &name)?;
        }
        Ok(())
    }
}

impl Cluster {
    /// Creates a pod of its host's name, labelled `app: <app>`, as an API server would have it after kubelet has started it.
    ///
    /// # Errors
    ///
    /// If there is one of that name.
    pub fn pod(&self, host: &Host, app: &str) -> Result<()> {
        self.api.create_pod(pod_of(host, app))?;
        Ok(())
    }

    /// Creates a pod with a node's own network, `on-<node>`, labelled `app: <app>`.
    ///
    /// # Errors
    ///
    /// If there is one of that name.
    pub fn host_pod(&self, node: &Host, app: &str) -> Result<()> {
        let pod = Pod::new(&format!("on-{}", node.name), &[node.v4.into(), node.v6.into()]);
        self.api
            .create_pod(pod.label("app", app).node(&node.name).host_network())?;
        Ok(())
    }

    /// Removes a pod of its host's name.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn delete_pod(&self, host: &Host) -> Result<()> {
        self.api.delete("pods", &format!("default/{}", host.name))?;
        Ok(())
    }

    /// Creates a Service (dual-stack unless `spec` says otherwise) and returns what was allocated for it.
    ///
    /// # Errors
    ///
    /// If the API server refuses it.
    pub fn service(&self, name: &str, spec: &Value) -> Result<Allocated> {
        let mut whole = json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"]});
        put(&mut whole, spec);
        self.api.create_service(name, &whole)?;
        self.allocated(name)
    }

    /// What a Service has been given.
    ///
    /// # Errors
    ///
    /// If there is none of that name.
    pub fn allocated(&self, name: &str) -> Result<Allocated> {
        let service = self
            .api
            .get("services", &format!("default/{name}"))
            .with_context(|| format!("there is no Service {name}"))?;
        let spec = &service["spec"];
        let ips = spec["clusterIPs"].as_array().into_iter().flatten();
        let ports = spec["ports"].as_array().into_iter().flatten();
        Ok(Allocated {
            ips: ips
                .filter_map(Value::as_str)
                .filter_map(|ip| ip.parse().ok())
                .collect(),
            node_ports: ports
                .filter_map(|port| port["nodePort"].as_u64())
                .filter_map(|port| u16::try_from(port).ok())
                .collect(),
        })
    }

    /// The port at which a Service of policy Local has its health checked.
    ///
    /// # Errors
    ///
    /// If it has none.
    pub fn health_check_port(&self, name: &str) -> Result<u16> {
        let service = self.api.get("services", &format!("default/{name}"));
        let port = service.and_then(|service| service["spec"]["healthCheckNodePort"].as_u64());
        Ok(port
            .with_context(|| format!("{name} has no health check port"))?
            .try_into()?)
    }

    /// Changes fields of a Service's spec.
    ///
    /// # Errors
    ///
    /// If there is none of that name, or the API server refuses the change.
    pub fn change(&self, name: &str, spec: &Value) -> Result<()> {
        let name = format!("default/{name}");
        self.api.patch("services", &name, &json!({"spec": spec}))?;
        Ok(())
    }

    /// Gives a Service addresses outside, or takes them back if there are none, as a load balancer's controller does.
    ///
    /// # Errors
    ///
    /// If there is none of that name.
    pub fn balance(&self, name: &str, ips: &[IpAddr]) -> Result<()> {
        let ingress: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
        let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        self.api.patch("services", &format!("default/{name}"), &status)?;
        Ok(())
    }

    /// From now on the client outside reaches an address by way of a node, counted from 1.
    ///
    /// # Errors
    ///
    /// If there cannot be such a route.
    pub fn route(&self, ip: IpAddr, node: usize) -> Result<()> {
        let node = self.lab.node(node);
        let via = if ip.is_ipv4() {
            node.v4.to_string()
        } else {
            node.v6.to_string()
        };
        let mut command = self.lab.client().command("ip");
        output(command.args(["route", "replace", &ip.to_string(), "via", &via]))?;
        Ok(())
    }

    /// A port at every address of every node.
    pub fn at_nodes(&self, port: u16) -> Vec<SocketAddr> {
        let nodes = self.lab.nodes().iter();
        nodes.flat_map(|node| addresses(node, port)).collect()
    }
}

/// A port at both addresses of a host.
pub fn addresses(host: &Host, port: u16) -> [SocketAddr; 2] {
    [(host.v4, port).into(), (host.v6, port).into()]
}

/// Puts the fields of an object in the place of those of another.
fn put(of: &mut Value, fields: &Value) {
    for (field, value) in fields.as_object().into_iter().flatten() {
        of[field] = value.clone();
    }
}

/// Resource and name of a Service or slice of the namespace `default`.
fn place(object: &Value) -> (&'static str, String) {
    let resource = if object["kind"] == "Service" {
        "services"
    } else {
        "endpointslices"
    };
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    (resource, format!("default/{name}"))
}

/// A pod of its host's name, labelled `app: <app>`; the host's second word is its number on the node that the first one
/// names.
pub fn pod_of(host: &Host, app: &str) -> Pod {
    let node = host.name.replacen('n', "node", 1);
    let node = node.split('-').next().unwrap_or(&node);
    Pod::new(&host.name, &[host.v4.into(), host.v6.into()])
        .label("app", app)
        .node(node)
}

/// What the API server has given a Service.
#[derive(Clone, Debug)]
pub struct Allocated {
    /// Its cluster IPs.
    pub ips: Vec<IpAddr>,
    /// Its node ports, in the order of its ports.
    pub node_ports: Vec<u16>,
}

impl Allocated {
    /// A port at its cluster IPs.
    pub fn at(&self, port: u16) -> Vec<SocketAddr> {
        self.ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect()
    }
}
