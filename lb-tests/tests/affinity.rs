//! Session affinity, from pods, from the node and from outside.

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Result, ensure};
use lb_testkit::{Host, Wiring};
use lb_tests::{
    agent::eventually,
    cluster::stays,
    manifests::Manifest,
    stage::{ASKS, NODE_PORT, Stage, at, web},
};

fn stage(timeout: Option<u32>) -> Result<Stage> {
    let stage = Stage::new(Wiring::Routed)?;
    let mut sticky = stage.web.clone().with("sessionAffinity: ClientIP");
    if let Some(timeout) = timeout {
        sticky = sticky.with(&format!(
            "sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {timeout}}}}}"
        ));
    }
    stage.folder.write("web.yaml", &sticky.yaml())?;
    let lab = &stage.lab;
    for (pod, node) in [(lab.pod(1, 1), lab.node(1)), (lab.pod(2, 2), lab.node(2))] {
        for addr in web() {
            eventually(Duration::from_secs(5), || stays(pod, addr).map(drop))?;
            eventually(Duration::from_secs(5), || stays(node, addr).map(drop))?;
        }
    }
    Ok(stage)
}

#[test]
fn a_client_stays_with_its_endpoint_at_every_frontend() {
    at_every_frontend().unwrap();
}

fn at_every_frontend() -> Result<()> {
    let stage = stage(None)?;
    let lab = &stage.lab;
    let node = lab.node(1);
    let ports = [at(node.v4, NODE_PORT), at(node.v6, NODE_PORT)];
    for host in [lab.pod(1, 1), lab.pod(1, 3), lab.node(1)] {
        for (cluster_ip, node_port) in web().into_iter().zip(ports) {
            let server = stays(host, cluster_ip)?;
            ensure!(
                stays(host, node_port)? == server,
                "the frontends of a port share it"
            );
        }
    }
    for addr in ports {
        stays(lab.client(), addr)?;
        for (name, ask) in &ASKS[1..] {
            let first = ask(lab.client(), addr)?.server;
            for _ in 0..10 {
                ensure!(ask(lab.client(), addr)?.server == first, "{name} to {addr}");
            }
        }
    }
    Ok(())
}

#[test]
fn affinity_can_be_switched_off_and_on_while_it_is_used() {
    switched().unwrap();
}

fn switched() -> Result<()> {
    let stage = stage(None)?;
    let client = stage.lab.pod(1, 1);
    stage.folder.write("web.yaml", &stage.web.yaml())?;
    eventually(Duration::from_secs(5), || {
        ensure!(
            stays(client, web()[0]).is_err(),
            "two endpoints must answer in turn"
        );
        Ok(())
    })?;
    stage.folder.write(
        "web.yaml",
        &stage.web.clone().with("sessionAffinity: ClientIP").yaml(),
    )?;
    eventually(Duration::from_secs(5), || stays(client, web()[0]).map(drop)).map(drop)
}

#[test]
fn a_client_that_stays_away_for_longer_than_the_timeout_may_meet_another_endpoint() {
    timeout().unwrap();
}

fn timeout() -> Result<()> {
    let stage = stage(Some(1))?;
    let client = stage.lab.pod(1, 1);
    let mut servers = BTreeSet::new();
    // Each time the chance of the other one is a half.
    for _ in 0..20 {
        servers.insert(stays(client, web()[0])?);
        if servers.len() > 1 {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1_200));
    }
    ensure!(false, "always {servers:?}");
    Ok(())
}

#[test]
fn a_client_leaves_an_endpoint_that_is_gone() {
    leaves(Manifest::without).unwrap();
}

#[test]
fn a_client_leaves_an_endpoint_that_terminates() {
    leaves(Manifest::terminating).unwrap();
}

/// `change` is what becomes of the client's endpoint.
fn leaves(change: fn(Manifest, &Host) -> Manifest) -> Result<()> {
    let stage = stage(None)?;
    let lab = &stage.lab;
    let client = lab.pod(1, 1);
    let server = stays(client, web()[0])?;
    let [here, there] = [lab.pod(1, 2), lab.pod(2, 1)];
    let (gone, other) = if server == here.name {
        (here, there)
    } else {
        (there, here)
    };
    let left = change(stage.web.clone().with("sessionAffinity: ClientIP"), gone);
    stage.folder.write("web.yaml", &left.yaml())?;
    eventually(Duration::from_secs(5), || {
        ensure!(stays(client, web()[0])? == other.name);
        Ok(())
    })
    .map(drop)
}
