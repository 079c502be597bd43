//! Agents that are restarted and killed under traffic: no request fails and no stream breaks.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Connection, Host, Server, Wiring, http_get};
use lb_tests::{
    agent::Agent,
    cluster::Cluster,
    manifests::Manifest,
    stage::{NODE_PORT, at, web},
};
use rustix::process::Signal;

/// Restarts as an operator or a rolling update does them.
const RESTARTS: u32 = 20;
/// And deaths without a word.
const KILLS: u32 = 10;

/// Traffic of one client: new connections, and one that stays open.
struct Traffic<'a> {
    client: &'a Host,
    addr: SocketAddr,
    stop: &'a AtomicBool,
    asked: AtomicU64,
}

impl Traffic<'_> {
    fn requests(&self) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            http_get(self.client, self.addr)
                .with_context(|| format!("a new connection from {} to {}", self.client.name, self.addr))?;
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn stream(&self) -> Result<()> {
        let what = || format!("the stream from {} to {}", self.client.name, self.addr);
        let mut stream = Connection::open(self.client, self.addr).with_context(what)?;
        let first = stream.ask().with_context(what)?;
        while !self.stop.load(Ordering::Relaxed) {
            let answer = stream.ask().with_context(what)?;
            ensure!(answer.server == first.server, "{} changed its endpoint", what());
            self.asked.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

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
    let stop = AtomicBool::new(false);
    let traffic = [
        (lab.pod(1, 1), web()[0]),
        (lab.pod(1, 1), web()[1]),
        (lab.node(1), web()[0]),
        (lab.client(), at(lab.node(1).v4, NODE_PORT)),
    ]
    .map(|(client, addr)| Traffic {
        client,
        addr,
        stop: &stop,
        asked: AtomicU64::new(0),
    });
    thread::scope(|scope| {
        let clients: Vec<_> = traffic
            .iter()
            .flat_map(|traffic| {
                [
                    scope.spawn(|| traffic.requests()),
                    scope.spawn(|| traffic.stream()),
                ]
            })
            .collect();
        let done = mistreat(&cluster, &mut agents[0], || {
            clients.iter().any(thread::ScopedJoinHandle::is_finished)
        });
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        done
    })?;
    for traffic in &traffic {
        let asked = traffic.asked.load(Ordering::Relaxed);
        ensure!(asked > 100, "{} asked {asked} times only", traffic.client.name);
    }
    Ok(())
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
