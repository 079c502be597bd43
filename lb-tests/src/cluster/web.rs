//! A cluster with one Service, whose endpoint moves from pod to pod.

use anyhow::{Result, ensure};
use lb_testkit::{Host, Lab, Server, Wiring, http_get};

use super::Cluster;
use crate::{manifests::Manifest, stage::web};

/// A cluster with the Service `web`, whose endpoint on node 1 is the pod of that number, 2 or 3.
///
/// # Errors
///
/// If it cannot be built.
pub fn with_web(pod: usize) -> Result<(Cluster, Vec<Server>)> {
    let cluster = Cluster::on(Lab::builder().wiring(Wiring::Routed).pods_per_node(3).build()?)?;
    let servers = vec![
        Server::start(cluster.lab.pod(1, 2), 8080)?,
        Server::start(cluster.lab.pod(1, 3), 8080)?,
    ];
    cluster.apply(&web_at(&cluster.lab, pod))?;
    Ok((cluster, servers))
}

/// The Service `web`, with its endpoint at that pod of node 1.
pub fn web_at(lab: &Lab, pod: usize) -> Manifest {
    Manifest::new("web", 10)
        .port(80, 8080, None)
        .endpoint(lab.pod(1, pod), "node1")
}

/// Asks `web` at each of its addresses: the server of that name answers.
///
/// # Errors
///
/// If another one does, or none.
pub fn web_served_by(client: &Host, server: &str) -> Result<()> {
    for addr in web() {
        let answer = http_get(client, addr)?;
        ensure!(
            answer.server == server,
            "{} answered at {addr}, not {server}",
            answer.server
        );
    }
    Ok(())
}
