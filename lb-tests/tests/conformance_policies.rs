//! Upstream's tests of traffic policies with pods of the host's network, and of health check ports
//! (`test/e2e/network/service.go` of Kubernetes), as `conformance_service.rs` does it.

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Host, Lab, http_get};
use lb_tests::{
    agent::eventually,
    cluster::{Over, Play, WITHIN, addresses, answered_over, health_checks, unanswered},
    http::get,
    stage::address,
};
use serde_json::json;

#[test]
fn internal_policy_local_reaches_the_node_s_pods_of_the_host_s_network() -> Result<()> {
    let mut play = Play::new()?;
    play.serve_at_nodes()?;
    let (cluster, lab) = (&play.cluster, play.lab());
    let web = play.web(&json!({"internalTrafficPolicy": "Local"}))?;
    let (here, there) = ([lab.pod(1, 1), lab.node(1)], [lab.pod(2, 1), lab.node(2)]);
    cluster.host_pod(lab.node(1), "web")?;
    answered_over(&Over::ALL, &here, &web.at(80), &[lab.node(1)])?;
    unanswered(&there, &web.at(80)).context("there is none on that node")?;
    cluster.host_pod(lab.node(2), "web")?;
    answered_over(&Over::ALL, &here, &web.at(80), &[lab.node(1)])?;
    answered_over(&Over::ALL, &there, &web.at(80), &[lab.node(2)])
}

#[test]
fn a_health_check_fails_with_only_terminating_endpoints_which_still_serve() -> Result<()> {
    let play = Play::new()?;
    let (cluster, lab, client) = (&play.cluster, play.lab(), play.lab().client());
    play.pods("web")?;
    let [near, far] = play.servers();
    let web = play.balanced(&json!({"externalTrafficPolicy": "Local"}))?;
    let port = cluster.health_check_port("web")?;
    let served = |node: usize, server: &Host| -> Result<()> {
        play.lead(node)?;
        let node_port = addresses(lab.node(node), web.node_ports[0]);
        answered_over(&Over::ALL, &play.strangers(node), &node_port, &[server])?;
        answered_over(&Over::ALL, &[client], &Play::balancer(80), &[server])
    };
    for (node, server) in [(1, near), (2, far)] {
        health_checks(lab, node, port, 1)?;
        served(node, server)?;
    }
    for (node, server) in [(1, near), (2, far)] {
        cluster.api.terminate(&format!("default/{}", server.name))?;
        health_checks(lab, node, port, 0).context("terminating")?;
        served(node, server).context("terminating")?;
    }
    let next = lab.pod(1, 3);
    cluster.pod(next, "web")?;
    health_checks(lab, 1, port, 1)?;
    served(1, next)?;
    cluster.delete_pod(near)?;
    served(1, next)
}

#[test]
fn node_ports_and_health_checks_follow_the_policy_on_three_nodes() -> Result<()> {
    let play = Play::on(Lab::builder().nodes(3).pods_per_node(2).build()?)?;
    let (cluster, lab, client) = (&play.cluster, play.lab(), play.lab().client());
    play.pods("web")?;
    let [near, far] = play.servers();
    let web = play.balanced(&json!({"externalTrafficPolicy": "Local"}))?;
    let node_port = |node: usize| addresses(lab.node(node), web.node_ports[0]);
    for _ in 0..2 {
        let port = cluster.health_check_port("web")?;
        for (node, server) in [(1, near), (2, far)] {
            health_checks(lab, node, port, 1)?;
            answered_over(&Over::ALL, &[client], &node_port(node), &[server])?;
            for addr in node_port(node) {
                let answer = http_get(client, addr)?;
                ensure!(answer.client.ip() == address(client, addr), "{answer:?}");
            }
        }
        health_checks(lab, 3, port, 0)?;
        unanswered(&[client], &node_port(3)).context("no endpoint is there")?;
        // The node's own pods and processes are not meant by the policy.
        answered_over(
            &Over::ALL,
            &[lab.pod(3, 1), lab.node(3)],
            &node_port(3),
            &[near, far],
        )?;

        cluster.change("web", &json!({"externalTrafficPolicy": "Cluster"}))?;
        for node in 1..=3 {
            for addr in addresses(lab.node(node), port) {
                eventually(WITHIN, || {
                    let answer = get(client, addr, "/");
                    ensure!(answer.is_err(), "{addr}: {answer:?}");
                    Ok(())
                })?;
            }
            answered_over(&Over::ALL, &[client], &node_port(node), &[near, far])?;
            play.lead(node)?;
            answered_over(&Over::ALL, &[client], &Play::balancer(80), &[near, far])?;
        }
        cluster.change("web", &json!({"externalTrafficPolicy": "Local"}))?;
    }
    Ok(())
}
