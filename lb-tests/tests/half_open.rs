//! A link to the API server that loses everything without a word: what works goes on, the agent tells that it is alone, and
//! takes up what it missed.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Host, Lab, Server, Wiring, api::Verb, http_get, output};
use lb_tests::{
    agent::eventually,
    cluster::{Cluster, answered_by, api_is, unanswered},
    kernel_view,
    manifests::Manifest,
    stage::{at, web},
    traffic::without_a_lost_request,
};

/// How long nothing comes through: more than a connection is kept that the other side does not acknowledge (20 s), and the
/// first attempts at a new one.
const SILENCE: Duration = Duration::from_secs(45);
/// How long it may take until the agent sees what TCP must tell it.
const NOTICED: Duration = Duration::from_secs(60);
/// How long it may take until it is back: kube waits up to half a minute between two attempts.
const BACK: Duration = Duration::from_secs(90);

/// A Service of the given number with an endpoint on each of these pods.
fn service(lab: &Lab, name: &str, number: u16, pods: &[(usize, usize)]) -> Manifest {
    let manifest = Manifest::new(name, number).port(80, 8080, None);
    pods.iter().fold(manifest, |manifest, (node, pod)| {
        manifest.endpoint(lab.pod(*node, *pod), &format!("node{node}"))
    })
}

/// The first address of a Service of that number.
fn address(number: u8) -> SocketAddr {
    at([10, 96, 0, number], 80)
}

/// Connections of a node to the API server that its kernel holds for established.
fn established(node: &Host) -> Result<usize> {
    let found = output(
        node.command("ss")
            .args(["-Htn", "state", "established", "dport", "=", ":6443"]),
    )?;
    Ok(found.lines().count())
}

#[test]
fn a_link_that_goes_silent_loses_no_request_is_told_and_what_was_missed_comes_after_it() {
    silent().unwrap();
}

fn silent() -> Result<()> {
    let cluster = Cluster::on(Lab::builder().wiring(Wiring::Routed).pods_per_node(3).build()?)?;
    let (lab, api) = (&cluster.lab, &cluster.api);
    let _servers = [(1, 2), (1, 3), (2, 1)]
        .map(|(node, pod)| Server::start(lab.pod(node, pod), 8080))
        .into_iter()
        .collect::<lb_testkit::Result<Vec<_>>>()?;
    let old = service(lab, "old", 11, &[(1, 2)]);
    let moved = service(lab, "moved", 12, &[(1, 2)]);
    for manifest in [&service(lab, "web", 10, &[(1, 2), (2, 1)]), &old, &moved] {
        cluster.apply(manifest)?;
    }
    let mut agents = cluster.agents(&[])?;
    let (node, client) = (lab.node(1), lab.pod(1, 1));
    eventually(BACK, || api_is(node, "reached"))?;
    eventually(BACK, || kernel_view::agrees(&cluster, 1))?;
    let everybody = [
        (client, web()[0]),
        (client, web()[1]),
        (node, web()[0]),
        (lab.pod(2, 2), web()[1]),
    ];
    without_a_lost_request(&everybody, || {
        ensure!(established(node)? > 0, "watches are open");
        lab.silence(lab.client())?;
        let begin = Instant::now();
        // None of this is heard of.
        cluster.delete(&old)?;
        cluster.apply(&service(lab, "moved", 12, &[(1, 3)]))?;
        cluster.apply(&service(lab, "new", 13, &[(2, 1)]))?;
        agents[0]
            .process()
            .wait_for("cannot reach the API server", NOTICED)?;
        eventually(NOTICED, || api_is(node, "away"))?;
        // Nothing has told the node's kernel, so it was its own patience that ended them.
        eventually(NOTICED, || {
            let open = established(node)?;
            ensure!(open == 0, "{open} connections are held for established");
            Ok(())
        })?;
        thread::sleep(SILENCE.saturating_sub(begin.elapsed()));
        ensure!(http_get(client, address(11))?.server == "n1-b");
        ensure!(http_get(client, address(12))?.server == "n1-b");
        api_is(node, "away")?;
        lab.end_silence(lab.client())?;
        eventually(BACK, || api_is(node, "reached"))?;
        for node in [1, 2] {
            eventually(BACK, || kernel_view::agrees(&cluster, node))?;
        }
        Ok(())
    })
    .with_context(|| agents[0].log())?;
    answered_by(&[client], &[address(12)], &[lab.pod(1, 3)])?;
    answered_by(&[client], &[address(13)], &[lab.pod(2, 1)])?;
    unanswered(&[client], &[address(11)])?;
    // It went on from where it was: what was missed came by watches, not by new lists.
    let lists = api.requests(Verb::List, "services");
    ensure!(lists == 2, "{lists} lists, one for each agent is enough");
    // That is told when all kinds are watched again, ServiceCIDRs and Nodes among them.
    agents[0]
        .process()
        .wait_for("the API server answers again", BACK)?;
    let log = agents[0].log();
    ensure!(log.contains("timed out"), "nothing timed out in {log}");
    Ok(())
}
