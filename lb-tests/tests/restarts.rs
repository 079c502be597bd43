//! Agents that are restarted and killed under traffic: no request fails and no stream breaks.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use lb_testkit::{Server, Wiring};
use lb_tests::{
    agent::Agent,
    cluster::Cluster,
    manifests::Manifest,
    stage::{NODE_PORT, at, web},
    traffic::{requests, stream, under_traffic},
};
use rustix::process::Signal;

/// Restarts as an operator or a rolling update does them.
const RESTARTS: u32 = 20;
/// And deaths without a word.
const KILLS: u32 = 10;

#[test]
fn twenty_restarts_and_ten_kills_under_traffic_lose_no_request_and_no_stream() {
    restarts().unwrap();
}

fn restarts() -> Result<()> {
    let cluster = Cluster::new(Wiring::Routed)?;
    let lab = &cluster.lab;
    let _servers = [
        Server::start(lab.pod(1, 2), 8080)?,
        Server::start(lab.pod(2, 1), 8080)?,
    ];
    let manifest = Manifest::new("web", 10)
        .port(80, 8080, Some(NODE_PORT))
        .endpoint(lab.pod(1, 2), "node1")
        .endpoint(lab.pod(2, 1), "node2");
    cluster.apply(&manifest)?;
    let mut agents = cluster.agents(&[])?;
    let clients = [
        (lab.pod(1, 1), web()[0]),
        (lab.pod(1, 1), web()[1]),
        (lab.node(1), web()[0]),
        (lab.node(1), web()[1]),
        (lab.client(), at(lab.node(1).v4, NODE_PORT)),
        (lab.client(), at(lab.node(1).v6, NODE_PORT)),
    ];
    let clients = clients
        .into_iter()
        .flat_map(|(host, addr)| [requests(host, addr), stream(host, addr)])
        .collect();
    under_traffic(clients, 50, |failed| mistreat(&cluster, &mut agents[0], failed))
}

/// Restarts and kills the agent of node 1, until `failed` says that there is no point in it any more.
fn mistreat(cluster: &Cluster, agent: &mut Agent, failed: impl Fn() -> bool) -> Result<()> {
    for restart in 0..RESTARTS {
        if failed() {
            return Ok(());
        }
        agent.stop().with_context(|| format!("restart {restart}"))?;
        *agent = cluster
            .agent(1, &[])
            .with_context(|| format!("restart {restart}"))?;
    }
    for kill in 0..KILLS {
        if failed() {
            return Ok(());
        }
        agent.process().signal(Signal::KILL)?;
        agent.process().wait(Duration::from_secs(10))?;
        // Every other one dies again while it starts: at another point each time.
        if kill % 2 == 1 {
            let mut unlucky = Agent::spawn_for(&cluster.lab, 1, cluster.kubeconfig(), &[])?;
            thread::sleep(Duration::from_millis(u64::from(kill) * 40));
            unlucky.process().signal(Signal::KILL)?;
            unlucky.process().wait(Duration::from_secs(10))?;
        }
        *agent = cluster.agent(1, &[]).with_context(|| format!("kill {kill}"))?;
    }
    Ok(())
}
