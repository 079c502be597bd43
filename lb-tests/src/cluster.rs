//! A lab with an API server: two nodes, and what a cluster knows of them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use lb_testkit::{
    Host, Lab, Wiring,
    api::{ADMIN, ApiServer},
    output,
};
use serde_json::{Value, json};

use crate::{agent::Agent, manifests::Manifest};

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
            api.create(json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": host.name, "labels": {"topology.kubernetes.io/zone": zone}},
                "status": {"addresses": [
                    {"type": "InternalIP", "address": host.v4},
                    {"type": "InternalIP", "address": host.v6},
                ]},
            }))?;
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
        let resource = if object["kind"] == "Service" {
            "services"
        } else {
            "endpointslices"
        };
        let name = format!(
            "default/{}",
            object["metadata"]["name"].as_str().unwrap_or_default()
        );
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
            let resource = if object["kind"] == "Service" {
                "services"
            } else {
                "endpointslices"
            };
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            self.api.delete(resource, &format!("default/{name}"))?;
        }
        Ok(())
    }
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
