//! Upstream's tests of pods that come and go (`test/e2e/network/pod_lifecycle.go` of Kubernetes), and of how long session
//! affinity lasts (`service.go`), as `conformance_service.rs` does it.

use std::{collections::BTreeSet, net::SocketAddr, thread, time::Duration};

use anyhow::{Result, bail};
use lb_testkit::Host;
use lb_tests::{
    agent::{at_once, eventually},
    cluster::{Over, Play, WITHIN, addresses, answered_by, answered_over, pod_of, stays_over},
    traffic::{requests, under_traffic},
};
use serde_json::json;

/// How long affinity lasts: longer than a busy machine may pause between two requests.
const AFFINITY: Duration = Duration::from_secs(2);
/// How often clients stay away until they meet another endpoint; the first one of four is met all the time once in 10^9
/// times.
const TRIES: usize = 15;

#[test]
fn blue_turns_green_without_a_lost_request() -> Result<()> {
    let play = Play::new()?;
    let (cluster, lab) = (&play.cluster, play.lab());
    let [blue, green] = play.servers();
    for host in [blue, green] {
        let pod = pod_of(host, "web").label("colour", &host.name);
        cluster.api.create_pod(pod.unready())?;
    }
    let web = play.web(&json!({"type": "NodePort"}))?;
    let inside = [lab.pod(1, 1), lab.node(1), lab.pod(2, 3), lab.node(2)];
    let only = |host: &Host| answered_by(&inside, &web.at(80), &[host]);
    let ready = |host: &Host, ready: bool| {
        cluster
            .api
            .set_ready(&format!("default/{}", host.name), ready)
            .map(drop)
    };
    ready(blue, true)?;
    only(blue)?;
    let outside = addresses(lab.node(1), web.node_ports[0]);
    answered_by(&[lab.client()], &outside, &[blue])?;
    let mut clients = Vec::from(outside.map(|addr| requests(lab.client(), addr)));
    for client in &inside[..2] {
        clients.extend(web.at(80).into_iter().map(|addr| requests(client, addr)));
    }
    under_traffic(clients, 50, |_| {
        // By readiness, there and back.
        for (from, to) in [(blue, green), (green, blue)] {
            ready(to, true)?;
            answered_by(&inside, &web.at(80), &[blue, green])?;
            ready(from, false)?;
            only(to)?;
        }
        // By the selector of the Service, there and back.
        ready(green, true)?;
        for to in [green, blue, green] {
            cluster.change("web", &json!({"selector": {"app": "web", "colour": to.name}}))?;
            only(to)?;
        }
        // What is left behind goes.
        cluster.api.terminate(&format!("default/{}", blue.name))?;
        cluster.delete_pod(blue)?;
        only(green)
    })
}

#[test]
fn a_terminating_pod_serves_while_it_is_needed_and_reaches_others() -> Result<()> {
    let play = Play::new()?;
    let cluster = &play.cluster;
    let [near, far] = play.servers();
    cluster.pod(near, "web")?;
    cluster.pod(far, "other")?;
    let web = play.web(&json!({}))?;
    let other = play.service("other", &json!({"selector": {"app": "other"}}))?;
    answered_over(&Over::ALL, &play.clients(), &web.at(80), &[near])?;
    for host in [near, far] {
        cluster.api.terminate(&format!("default/{}", host.name))?;
    }
    answered_over(&Over::ALL, &play.clients(), &web.at(80), &[near])?;
    answered_over(&Over::ALL, &[near], &other.at(80), &[far])
}

#[test]
fn affinity_ends_when_a_client_stays_away_for_its_timeout() -> Result<()> {
    let play = Play::new()?;
    let (cluster, lab) = (&play.cluster, play.lab());
    let hosts = [lab.pod(1, 2), lab.pod(1, 3), lab.pod(2, 1), lab.pod(2, 2)];
    hosts.iter().try_for_each(|host| cluster.pod(host, "web"))?;
    let web = play.web(&json!({
        "type": "NodePort", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": AFFINITY.as_secs()}},
    }))?;
    // A client's address has one endpoint for both kinds of addresses: whoever asks at one does not ask at the other.
    let node_ports = addresses(lab.node(1), web.node_ports[0]).to_vec();
    let clients = [
        (lab.pod(1, 1), web.at(80)),
        (lab.node(1), web.at(80)),
        (lab.pod(2, 3), node_ports.clone()),
        (lab.client(), node_ports),
    ];
    let questions = clients
        .into_iter()
        .flat_map(|(client, addrs)| addrs.into_iter().map(move |addr| (client, addr)));
    let met = at_once(questions, |(client, addr)| meets_another(client, addr));
    met.into_iter().collect()
}

/// Asks fifteen times in a row, which one server must answer, then stays away; until it is another server.
fn meets_another(client: &Host, addr: SocketAddr) -> Result<()> {
    let mut servers = BTreeSet::new();
    eventually(WITHIN, || stays_over(Over::Tcp, client, addr).map(drop))?;
    for _ in 0..TRIES {
        servers.insert(stays_over(Over::Tcp, client, addr)?);
        if servers.len() > 1 {
            return Ok(());
        }
        thread::sleep(AFFINITY + Duration::from_millis(500));
    }
    bail!("always {servers:?} for {} at {addr}", client.name)
}
