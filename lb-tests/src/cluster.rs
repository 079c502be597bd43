//! A lab with an API server: two nodes, and what a cluster knows of them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{
    Host, Lab, Wiring,
    api::{ADMIN, ApiServer, Pod},
    http_get_within, output,
};
use serde_json::{Value, json};

use crate::{
    agent::{Agent, eventually},
    manifests::Manifest,
};

/// How long Kubernetes' own tests wait for a change of endpoints (`KubeProxyEndpointLagTimeout`).
const WITHIN: Duration = Duration::from_secs(30);

/// Port of the API server.
const PORT: u16 = 6443;

/// A lab with an API server on the host outside. Node 1 is in zone `a`, node 2 in zone `b`.
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
        for (node, zone) in [(1, "a"), (2, "b")] {
            let host = lab.node(node);
            api.create_node(&host.name, &[host.v4.into(), host.v6.into()], Some(zone))?;
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

    /// Starts the agents of both nodes.
    ///
    /// # Errors
    ///
    /// If one does not come to serve.
    pub fn agents(&self, more: &[&str]) -> Result<Vec<Agent>> {
        [1, 2].into_iter().map(|node| self.agent(node, more)).collect()
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

    /// Creates a Service (dual-stack unless `spec` says otherwise) and returns what was allocated for it.
    ///
    /// # Errors
    ///
    /// If the API server refuses it.
    pub fn service(&self, name: &str, spec: &Value) -> Result<Allocated> {
        let mut whole = json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"]});
        for (field, value) in spec.as_object().into_iter().flatten() {
            whole[field] = value.clone();
        }
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

/// A pod of its host's name; the host's second word is its number on the node that the first one names.
fn pod_of(host: &Host, app: &str) -> Pod {
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

/// Who answers at an address, asked often enough that each of a few endpoints does.
///
/// # Errors
///
/// If a request is not answered.
pub fn who(client: &Host, addr: SocketAddr) -> Result<BTreeSet<String>> {
    (0..24)
        .map(|_| {
            let answer = http_get_within(client, addr, Duration::from_secs(2))
                .with_context(|| format!("{} asks {addr}", client.name))?;
            Ok(answer.server)
        })
        .collect()
}

/// Waits until just these answer, to each of the clients at each of the addresses.
///
/// # Errors
///
/// If it does not come to that within half a minute, which is what Kubernetes' own tests allow for endpoints.
pub fn answered_by(clients: &[&Host], addrs: &[SocketAddr], servers: &[&Host]) -> Result<()> {
    let wanted: BTreeSet<String> = servers.iter().map(|host| host.name.clone()).collect();
    for client in clients {
        for addr in addrs {
            eventually(WITHIN, || {
                let found = who(client, *addr)?;
                ensure!(
                    found == wanted,
                    "{} asks {addr}: {found:?} answer, not {wanted:?}",
                    client.name
                );
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Waits until the clients are refused, at each of the addresses.
///
/// # Errors
///
/// If it does not come to that within half a minute.
pub fn refused(clients: &[&Host], addrs: &[SocketAddr]) -> Result<()> {
    for client in clients {
        for addr in addrs {
            eventually(WITHIN, || {
                let refusal = match http_get_within(client, *addr, Duration::from_secs(2)) {
                    Ok(answer) => anyhow::bail!("{} asks {addr}: {} answers", client.name, answer.server),
                    Err(refusal) => format!("{refusal:?}"),
                };
                ensure!(
                    refusal.contains("ConnectionRefused"),
                    "{} asks {addr}: {refusal}",
                    client.name
                );
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Waits until nothing answers the clients, at each of the addresses, whatever they hear instead.
///
/// # Errors
///
/// If it does not come to that within half a minute.
pub fn unanswered(clients: &[&Host], addrs: &[SocketAddr]) -> Result<()> {
    for client in clients {
        for addr in addrs {
            eventually(WITHIN, || {
                let answer = http_get_within(client, *addr, Duration::from_millis(300));
                ensure!(answer.is_err(), "{} asks {addr}: {answer:?}", client.name);
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// What curl gets from a host: status and body, in that order, apart by a space.
///
/// # Errors
///
/// If there is no answer.
pub fn curl(host: &Host, url: &str) -> Result<(u16, String)> {
    let text = output(
        host.command("curl")
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                "10",
                "--globoff",
                "--write-out",
                "\n%{http_code}",
            ])
            .arg(url),
    )?;
    let (body, status) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    Ok((
        status.parse().with_context(|| format!("{url}: {text}"))?,
        body.to_owned(),
    ))
}
