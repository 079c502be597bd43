//! Upstream's tests of which endpoints a Service has (`test/e2e/network/service.go`, `endpointslice.go` and
//! `traffic_distribution.go` of Kubernetes), as `conformance_service.rs` does it.

use anyhow::{Context as _, Result, ensure};
use lb_testkit::http_get;
use lb_tests::{
    agent::eventually,
    cluster::{Play, WITHIN, answered_by, pod_of, refused, stays},
    stage::at,
};
use serde_json::json;

#[test]
fn named_target_ports_may_have_another_number_in_each_pod() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients) = (&play.cluster, play.clients());
    for (host, number) in play.servers().into_iter().zip([8080, 8081]) {
        let pod = pod_of(host, "web").port("http", "TCP", number);
        cluster.api.create_pod(pod)?;
    }
    let ports = json!([{"port": 80, "targetPort": "http"}]);
    let web = play.web(&json!({"ports": ports}))?;
    ensure!(
        cluster.api.slices("web").len() == 4,
        "two numbers in two families take four slices"
    );
    answered_by(&clients, &web.at(80), &play.servers())
}

#[test]
fn unready_pods_serve_where_their_service_publishes_them() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients) = (&play.cluster, play.clients());
    let [near, _] = play.servers();
    cluster.pod(near, "web")?;
    let web = play.web(&json!({}))?;
    answered_by(&clients, &web.at(80), &[near])?;
    cluster.api.set_ready("default/n1-b", false)?;
    refused(&clients, &web.at(80))?;
    cluster.change("web", &json!({"publishNotReadyAddresses": true}))?;
    answered_by(&clients, &web.at(80), &[near])?;
    cluster.change("web", &json!({"publishNotReadyAddresses": false}))?;
    refused(&clients, &web.at(80))?;
    // Terminating and unready: the same.
    cluster.api.terminate("default/n1-b")?;
    refused(&clients, &web.at(80))?;
    cluster.change("web", &json!({"publishNotReadyAddresses": true}))?;
    answered_by(&clients, &web.at(80), &[near])
}

#[test]
fn evicted_pods_leave_a_service_that_refuses() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients) = (&play.cluster, play.clients());
    let [near, _] = play.servers();
    cluster.pod(near, "web")?;
    let web = play.web(&json!({}))?;
    answered_by(&clients, &web.at(80), &[near])?;
    cluster.api.evict("default/n1-b")?;
    refused(&clients, &web.at(80))
}

#[test]
fn affinity_keeps_a_client_with_its_endpoint_and_can_be_switched() -> Result<()> {
    let play = Play::new()?;
    let (cluster, lab) = (&play.cluster, play.lab());
    let hosts = [lab.pod(1, 2), lab.pod(1, 3), lab.pod(2, 1), lab.pod(2, 2)];
    hosts.iter().try_for_each(|host| cluster.pod(host, "web"))?;
    let web = play.web(&json!({"type": "NodePort"}))?;
    let pod = lab.pod(1, 1);
    let mut addrs = web.at(80);
    addrs.push(at(lab.node(2).v4, web.node_ports[0]));
    // The answers mean something only when all four endpoints are there.
    answered_by(&[pod], &addrs, &hosts)?;
    for _ in 0..2 {
        cluster.change("web", &json!({"sessionAffinity": "ClientIP"}))?;
        for addr in &addrs {
            eventually(WITHIN, || stays(pod, *addr).map(drop))?;
        }
        cluster.change("web", &json!({"sessionAffinity": "None"}))?;
        answered_by(&[pod], &addrs, &hosts)?;
    }
    Ok(())
}

#[test]
fn policy_local_keeps_traffic_on_the_node_and_the_client_s_address() -> Result<()> {
    let play = Play::new()?;
    let lab = play.lab();
    play.pods("web")?;
    let [near, far] = play.servers();
    let inner = play.service("inner", &json!({"internalTrafficPolicy": "Local"}))?;
    answered_by(&[lab.pod(1, 1), lab.node(1)], &inner.at(80), &[near])?;
    answered_by(&[lab.pod(2, 3), lab.node(2)], &inner.at(80), &[far])?;
    let outer = play.service(
        "outer",
        &json!({"type": "NodePort", "externalTrafficPolicy": "Local"}),
    )?;
    for (node, server) in [(1, near), (2, far)] {
        let addr = at(lab.node(node).v4, outer.node_ports[0]);
        answered_by(&[lab.client()], &[addr], &[server])?;
        let answer = http_get(lab.client(), addr)?;
        ensure!(
            answer.client.ip() == lab.client().v4,
            "{answer:?}: the client's address is kept"
        );
    }
    Ok(())
}

#[test]
fn terminating_endpoints_stand_in_when_no_other_is_ready() -> Result<()> {
    let play = Play::new()?;
    let (cluster, lab) = (&play.cluster, play.lab());
    play.pods("web")?;
    let [near, far] = play.servers();
    let spec = |internal: &str, external: &str| {
        json!({
            "type": "NodePort", "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
        })
    };
    let all = play.service("all", &spec("Cluster", "Cluster"))?;
    let local = play.service("local", &spec("Local", "Local"))?;
    let clients = play.clients();
    answered_by(&clients, &all.at(80), &[near, far])?;
    cluster.api.terminate("default/n1-b")?;
    answered_by(&clients, &all.at(80), &[far]).context("a ready one is left")?;
    answered_by(&clients, &local.at(80), &[near]).context("none that is ready is left on the node")?;
    cluster.api.terminate("default/n2-a")?;
    answered_by(&clients, &all.at(80), &[near, far])?;
    for (service, servers) in [(&all, &[near, far][..]), (&local, &[near])] {
        let addr = at(lab.node(1).v4, service.node_ports[0]);
        answered_by(&[lab.client()], &[addr], servers)?;
    }
    Ok(())
}

#[test]
fn traffic_stays_near_as_its_distribution_says() -> Result<()> {
    let play = Play::new()?;
    let (cluster, lab) = (&play.cluster, play.lab());
    play.pods("web")?;
    let [near, far] = play.servers();
    let here = [lab.pod(1, 1), lab.node(1)];
    for kind in ["PreferClose", "PreferSameZone", "PreferSameNode"] {
        let web = play.service(&kind.to_lowercase(), &json!({"trafficDistribution": kind}))?;
        answered_by(&here, &web.at(80), &[near]).with_context(|| kind.to_owned())?;
        answered_by(&[lab.pod(2, 3), lab.node(2)], &web.at(80), &[far]).with_context(|| kind.to_owned())?;
        // Failover, and return.
        cluster.api.set_ready("default/n1-b", false)?;
        answered_by(&here, &web.at(80), &[far]).with_context(|| format!("{kind}, failover"))?;
        cluster.api.set_ready("default/n1-b", true)?;
        answered_by(&here, &web.at(80), &[near]).with_context(|| format!("{kind}, return"))?;
    }
    Ok(())
}
