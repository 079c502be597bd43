//! Upstream's tests of every way to a Service (`test/e2e/network/networking.go` and `dual_stack.go` of Kubernetes), as
//! `conformance_service.rs` does it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Host, http_echo, udp_echo};
use lb_tests::{
    agent::eventually,
    cluster::{Over, Play, WITHIN, answered_over, stays_over, unanswered},
};
use serde_json::json;

#[test]
fn pods_nodes_and_endpoints_reach_services_by_every_address() -> Result<()> {
    let mut play = Play::new()?;
    play.serve_at_nodes()?;
    let (cluster, lab) = (&play.cluster, play.lab());
    play.pods("web")?;
    for node in lab.nodes() {
        cluster.host_pod(node, "host")?;
    }
    let pods = play.service("pods", &json!({"type": "NodePort"}))?;
    let same = play.service("same", &json!({"type": "NodePort"}))?;
    let hosts = play.service("hosts", &json!({"type": "NodePort", "selector": {"app": "host"}}))?;
    let [near, far] = play.servers();
    // A pod, a node, an endpoint (which may meet itself), a pod of the other node, the other node.
    let clients = [lab.pod(1, 1), lab.node(1), near, lab.pod(2, 3), lab.node(2)];
    let of_pods = [near, far];
    let of_hosts = [lab.node(1), lab.node(2)];
    for (service, servers) in [(&pods, &of_pods), (&same, &of_pods), (&hosts, &of_hosts)] {
        let addrs = [service.at(80), cluster.at_nodes(service.node_ports[0])].concat();
        answered_over(&Over::ALL, &clients, &addrs, servers)?;
        answered_over(
            &Over::ALL,
            &[lab.client()],
            &cluster.at_nodes(service.node_ports[0]),
            servers,
        )?;
    }
    // Endpoints go, and a Service.
    cluster.delete_pod(near)?;
    let addrs = [pods.at(80), cluster.at_nodes(pods.node_ports[0])].concat();
    answered_over(&Over::ALL, &clients, &addrs, &[far]).context("one endpoint is gone")?;
    cluster.api.delete("services", "default/pods")?;
    unanswered(&clients, &addrs).context("the Service is gone")?;
    let addrs = [same.at(80), cluster.at_nodes(same.node_ports[0])].concat();
    answered_over(&Over::ALL, &clients, &addrs, &[far]).context("the other one stays")
}

/// Both directions, over connections and in datagrams that do not fit into a packet.
#[test]
fn large_requests_and_answers_pass() -> Result<()> {
    let play = Play::new()?;
    let (cluster, lab) = (&play.cluster, play.lab());
    play.pods("web")?;
    let web = play.web(&json!({"type": "NodePort"}))?;
    let node_ports = cluster.at_nodes(web.node_ports[0]);
    let inside = [web.at(80), node_ports.clone()].concat();
    answered_over(&Over::ALL, &play.clients(), &inside, &play.servers())?;
    for length in [2_000, 9_000, 60_000] {
        let text = "42".repeat(length / 2);
        for (client, addrs) in [
            (lab.pod(1, 1), &inside),
            (lab.node(1), &inside),
            (lab.client(), &node_ports),
        ] {
            for addr in addrs {
                let told = || format!("{length} bytes from {} to {addr}", client.name);
                // Often enough that both endpoints have their turn.
                for _ in 0..4 {
                    http_echo(client, *addr, &text).with_context(told)?;
                    udp_echo(client, *addr, &text).with_context(told)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn affinity_by_the_client_s_address_holds_for_connections_and_datagrams() -> Result<()> {
    let play = Play::new()?;
    let lab = play.lab();
    let hosts = [lab.pod(1, 2), lab.pod(1, 3), lab.pod(2, 1), lab.pod(2, 2)];
    hosts.iter().try_for_each(|host| play.cluster.pod(host, "web"))?;
    let web = play.web(&json!({}))?;
    answered_over(&Over::ALL, &play.clients(), &web.at(80), &hosts)?;
    play.cluster
        .change("web", &json!({"sessionAffinity": "ClientIP"}))?;
    for client in play.clients() {
        for addr in web.at(80) {
            for way in Over::ALL {
                eventually(WITHIN, || stays_over(way, client, addr).map(drop))?;
            }
        }
    }
    Ok(())
}

/// Whether an address is one of IPv4, for what `of` calls a family.
fn is_of(family: &str) -> impl Fn(&IpAddr) -> bool {
    let v4 = family == "IPv4";
    move |ip| ip.is_ipv4() == v4
}

#[test]
fn services_are_served_in_the_families_that_they_ask_for() -> Result<()> {
    let play = Play::new()?;
    let cluster = &play.cluster;
    play.pods("web")?;
    for (policy, families) in [
        ("SingleStack", &["IPv4"][..]),
        ("SingleStack", &["IPv6"]),
        ("PreferDualStack", &["IPv4", "IPv6"]),
        ("RequireDualStack", &["IPv6", "IPv4"]),
    ] {
        let name = format!("{policy}-{}", families[0]).to_lowercase();
        let told = || format!("{policy} {families:?}");
        let spec = json!({"type": "NodePort", "ipFamilyPolicy": policy, "ipFamilies": families});
        let web = play.service(&name, &spec)?;
        ensure!(web.ips.len() == families.len(), "{}: {web:?}", told());
        for (ip, family) in web.ips.iter().zip(families) {
            ensure!(is_of(family)(ip), "{}: {web:?}", told());
        }
        let (its_own, others) = by_family(cluster.at_nodes(web.node_ports[0]), families);
        answered_over(
            &Over::ALL,
            &play.clients(),
            &[web.at(80), its_own.clone()].concat(),
            &play.servers(),
        )
        .with_context(told)?;
        answered_over(&Over::ALL, &[play.lab().client()], &its_own, &play.servers()).with_context(told)?;
        unanswered(&play.all_clients(), &others).with_context(told)?;
    }
    Ok(())
}

/// Addresses of these families, and the others.
fn by_family(addrs: Vec<SocketAddr>, families: &[&str]) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    addrs
        .into_iter()
        .partition(|addr| families.iter().any(|family| is_of(family)(&addr.ip())))
}

#[test]
fn a_service_gains_its_second_family_and_loses_it() -> Result<()> {
    let play = Play::new()?;
    let cluster = &play.cluster;
    play.pods("web")?;
    for (first, second) in [("IPv4", "IPv6"), ("IPv6", "IPv4")] {
        let name = format!("first-{first}").to_lowercase();
        let spec = json!({"type": "NodePort", "ipFamilyPolicy": "SingleStack", "ipFamilies": [first]});
        let single = play.service(&name, &spec)?;
        let served = |clients: &[&Host], addrs: &[SocketAddr]| {
            answered_over(&Over::ALL, clients, addrs, &play.servers()).with_context(|| name.clone())
        };
        let (of_first, of_second) = by_family(cluster.at_nodes(single.node_ports[0]), &[first]);
        served(&play.clients(), &[single.at(80), of_first.clone()].concat())?;
        unanswered(&play.all_clients(), &of_second)?;
        for policy in ["PreferDualStack", "RequireDualStack"] {
            cluster.change(&name, &json!({"ipFamilyPolicy": policy}))?;
            let dual = cluster.allocated(&name)?;
            ensure!(
                dual.ips.len() == 2 && dual.ips[0] == single.ips[0] && is_of(second)(&dual.ips[1]),
                "{policy}: {dual:?}"
            );
            ensure!(dual.node_ports == single.node_ports, "{policy}: {dual:?}");
            served(&play.clients(), &dual.at(80))?;
            served(&play.all_clients(), &cluster.at_nodes(dual.node_ports[0]))?;

            cluster.change(
                &name,
                &json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": [first]}),
            )?;
            let again = cluster.allocated(&name)?;
            ensure!(again.ips == single.ips, "{again:?}");
            unanswered(&play.clients(), &dual.at(80)[1..]).context("the second family is gone")?;
            unanswered(&play.all_clients(), &of_second).context("the second family is gone")?;
            served(&play.clients(), &single.at(80))?;
            served(&play.all_clients(), &of_first)?;
        }
    }
    Ok(())
}
