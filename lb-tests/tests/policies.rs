//! Traffic policies, by the rules of Kubernetes: who is sent where, from pods, from the node and from outside.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use lb_testkit::{Host, Wiring, http_get};
use lb_tests::{
    agent::eventually,
    manifests::Manifest,
    stage::{NODE_PORT, Stage, address, ask_all, at, web},
};

const INTERNAL: &str = "internalTrafficPolicy: Local";
const EXTERNAL: &str = "externalTrafficPolicy: Local";
/// NodePort of the service whose only endpoint is on node 2.
const FAR_NODE_PORT: u16 = 31_700;
/// Its number in the cluster IPs.
const FAR: u16 = 40;

/// `web` with a policy, which has an endpoint on each node, and `far` with the same, whose endpoint is on node 2.
fn stage(wiring: Wiring, policy: &str) -> Result<Stage> {
    let stage = Stage::new(wiring)?;
    let far = Manifest::new("far", FAR)
        .port(80, 8080, Some(FAR_NODE_PORT))
        .endpoint(stage.lab.pod(2, 1), "node2")
        .with(policy);
    // A policy that is set while the service is in use.
    stage
        .folder
        .write("web.yaml", &stage.web.clone().with(policy).yaml())?;
    stage.folder.write("far.yaml", &far.yaml())?;
    let node2 = stage.lab.node(2);
    for addr in [at(node2.v4, FAR_NODE_PORT), at(node2.v6, FAR_NODE_PORT)] {
        eventually(Duration::from_secs(5), || {
            Ok(http_get(stage.lab.client(), addr).map(drop)?)
        })?;
    }
    // The other node's agent has read the same by then.
    std::thread::sleep(Duration::from_secs(1));
    Ok(stage)
}

fn far() -> [std::net::SocketAddr; 2] {
    [format!("10.96.0.{FAR}"), format!("fd00:10:96::{FAR:x}")]
        .map(|text| at(text.parse::<IpAddr>().expect("an address"), 80))
}

fn internal(wiring: Wiring) -> Result<()> {
    let stage = stage(wiring, INTERNAL)?;
    let lab = &stage.lab;
    let servers = [lab.pod(1, 2), lab.pod(2, 1)];
    for (server, pod, node) in [
        (servers[0], lab.pod(1, 1), lab.node(1)),
        (servers[1], lab.pod(2, 2), lab.node(2)),
    ] {
        for addr in web() {
            ask_all(pod, addr, &[server], |_| Ok(()))?;
            ask_all(node, addr, &[server], |_| Ok(()))?;
        }
    }
    for addr in far() {
        ask_all(lab.pod(2, 2), addr, &[servers[1]], |_| Ok(()))?;
        for host in [lab.pod(1, 1), lab.node(1)] {
            ensure!(
                http_get(host, addr).is_err(),
                "{addr} has no endpoint for {}",
                host.name
            );
        }
    }
    // Any other address is not meant by this policy.
    let node = lab.node(1);
    for addr in [at(node.v4, NODE_PORT), at(node.v6, NODE_PORT)] {
        ask_all(lab.client(), addr, &servers, |_| Ok(()))?;
    }
    Ok(())
}

#[test]
fn internal_policy_local_keeps_clients_on_their_node_with_routed_pods() {
    internal(Wiring::Routed).unwrap();
}

#[test]
fn internal_policy_local_keeps_clients_on_their_node_with_bridged_pods() {
    internal(Wiring::Bridged).unwrap();
}

fn external(wiring: Wiring) -> Result<()> {
    let stage = stage(wiring, EXTERNAL)?;
    let lab = &stage.lab;
    let servers = [lab.pod(1, 2), lab.pod(2, 1)];
    for (server, node) in [(servers[0], lab.node(1)), (servers[1], lab.node(2))] {
        for addr in [at(node.v4, NODE_PORT), at(node.v6, NODE_PORT)] {
            ask_all(lab.client(), addr, &[server], |answer| {
                ensure!(
                    answer.client.ip() == address(lab.client(), addr),
                    "the endpoint must see the client"
                );
                Ok(())
            })?;
        }
    }
    let node = lab.node(1);
    for addr in [at(node.v4, FAR_NODE_PORT), at(node.v6, FAR_NODE_PORT)] {
        ensure!(
            http_get(lab.client(), addr).is_err(),
            "{addr} has no endpoint for the outside"
        );
        // The node itself and its pods are inside of the cluster.
        for host in [lab.pod(1, 1), node] {
            ask_all(host, addr, &[servers[1]], |_| Ok(()))?;
        }
    }
    for addr in far() {
        ask_all(lab.pod(1, 1), addr, &[servers[1]], |_| Ok(()))?;
    }
    Ok(())
}

#[test]
fn external_policy_local_keeps_the_outside_on_the_node_that_it_asked_with_routed_pods() {
    external(Wiring::Routed).unwrap();
}

#[test]
fn external_policy_local_keeps_the_outside_on_the_node_that_it_asked_with_bridged_pods() {
    external(Wiring::Bridged).unwrap();
}

#[test]
fn terminating_endpoints_stand_in_on_a_node_without_ready_ones() {
    terminating().unwrap();
}

fn terminating() -> Result<()> {
    let stage = stage(Wiring::Routed, EXTERNAL)?;
    let lab = &stage.lab;
    let [here, there]: [&Host; 2] = [lab.pod(1, 2), lab.pod(2, 1)];
    let leaving = stage.web.clone().with(EXTERNAL).terminating(here);
    stage.folder.write("web.yaml", &leaving.yaml())?;
    // For the cluster it is gone at once.
    eventually(Duration::from_secs(5), || {
        for _ in 0..20 {
            let answer = http_get(lab.pod(1, 1), web()[0])?;
            ensure!(answer.server == there.name, "{} answered", answer.server);
        }
        Ok(())
    })?;
    let node = lab.node(1);
    for addr in [at(node.v4, NODE_PORT), at(node.v6, NODE_PORT)] {
        ask_all(lab.client(), addr, &[here], |_| Ok(()))?;
    }
    stage.folder.write("web.yaml", &leaving.without(here).yaml())?;
    let addr = at(node.v4, NODE_PORT);
    eventually(Duration::from_secs(15), || {
        ensure!(
            http_get(lab.client(), addr).is_err(),
            "nobody is left on this node"
        );
        Ok(())
    })
    .map(drop)
}
