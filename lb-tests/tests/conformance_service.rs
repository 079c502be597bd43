//! Upstream's tests of Services (`test/e2e/network/service.go` of Kubernetes), with the same observations in the lab:
//! pods, Services and their changes go through the test API server and its controllers, traffic through namespaces.
//! docs/conformance.md has the table; `conformance_endpoints.rs` has what the same file says of endpoints.
//!
//! Where upstream asks from a pod and from a pod with the host's network, the clients are a pod and a process of the node.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use lb_testkit::udp_ask;
use lb_tests::{
    cluster::{Over, Play, WITHIN, answered_by, answered_over, pod_of, refused, unanswered},
    stage::{address, at},
};
use serde_json::json;

#[test]
fn a_service_serves_its_endpoints() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients) = (&play.cluster, play.clients());
    let [near, far] = play.servers();
    let web = play.web(&json!({}))?;
    refused(&clients, &web.at(80)).context("no pods yet")?;
    cluster.pod(near, "web")?;
    answered_by(&clients, &web.at(80), &[near])?;
    cluster.pod(far, "web")?;
    answered_by(&clients, &web.at(80), &[near, far])?;
    cluster.api.delete("pods", "default/n1-b")?;
    answered_by(&clients, &web.at(80), &[far])?;
    cluster.api.delete("pods", "default/n2-a")?;
    refused(&clients, &web.at(80)).context("no pods any more")
}

#[test]
fn a_multiport_service_serves_each_port_by_its_own_endpoints() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients) = (&play.cluster, play.clients());
    let [near, far] = play.servers();
    let ports = json!([
        {"name": "one", "port": 80, "targetPort": "one"},
        {"name": "two", "port": 81, "targetPort": "two"},
    ]);
    let web = play.web(&json!({"ports": ports}))?;
    let pod = |host, port, number| {
        let pod = pod_of(host, "web").port(port, "TCP", number);
        cluster.api.create_pod(pod)
    };
    pod(near, "one", 8080)?;
    answered_by(&clients, &web.at(80), &[near])?;
    refused(&clients, &web.at(81)).context("nobody has the second port")?;
    pod(far, "two", 8081)?;
    answered_by(&clients, &web.at(81), &[far])?;
    answered_by(&clients, &web.at(80), &[near])
}

#[test]
fn ports_are_added_and_deleted() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients) = (&play.cluster, play.clients());
    play.pods("web")?;
    let named = |ports: &[u16]| {
        let ports = ports
            .iter()
            .map(|port| json!({"name": format!("p{port}"), "port": port, "targetPort": 8080}));
        json!(ports.collect::<Vec<_>>())
    };
    let web = play.web(&json!({"ports": named(&[80])}))?;
    answered_by(&clients, &web.at(80), &play.servers())?;
    cluster.change("web", &json!({"ports": named(&[80, 81])}))?;
    answered_by(&clients, &web.at(81), &play.servers())?;
    cluster.change("web", &json!({"ports": named(&[81])}))?;
    refused(&clients, &web.at(80))?;
    answered_by(&clients, &web.at(81), &play.servers())
}

#[test]
fn one_port_serves_several_protocols() -> Result<()> {
    let play = Play::new()?;
    let cluster = &play.cluster;
    let [near, far] = play.servers();
    cluster.pod(near, "web")?;
    cluster.pod(far, "dns")?;
    let both = Play::ports(53);
    let web = play.web(&json!({"ports": both}))?;
    answered_by(&play.clients(), &web.at(53), &[near])?;
    for client in play.clients() {
        for addr in web.at(53) {
            ensure!(udp_ask(client, addr, false)?.server == near.name);
        }
    }
    // One of them goes: the other stays.
    cluster.change("web", &json!({"ports": [both[1]]}))?;
    refused(&play.clients(), &web.at(53))?;
    for client in play.clients() {
        for addr in web.at(53) {
            ensure!(udp_ask(client, addr, false)?.server == near.name);
        }
    }
    Ok(())
}

#[test]
fn an_endpoint_on_another_node_sees_the_pod_s_address() -> Result<()> {
    let play = Play::new()?;
    let lab = play.lab();
    let [_, far] = play.servers();
    play.cluster.pod(far, "web")?;
    let web = play.web(&json!({}))?;
    for client in [lab.pod(1, 1), lab.pod(1, 3), lab.pod(2, 3)] {
        answered_over(&Over::ALL, &[client], &web.at(80), &[far])?;
        for addr in web.at(80) {
            for way in Over::ALL {
                let answer = way.ask(client, addr, WITHIN)?;
                ensure!(answer.client.ip() == address(client, addr), "{way:?}: {answer:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_pod_reaches_itself_through_its_service() -> Result<()> {
    let play = Play::new()?;
    let own = play.servers()[0];
    play.cluster.pod(own, "web")?;
    let web = play.web(&json!({}))?;
    answered_by(&[own], &web.at(80), &[own])
}

#[test]
fn services_go_up_and_down_and_come_again() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients) = (&play.cluster, play.clients());
    play.pods("web")?;
    let one = play.service("one", &json!({}))?;
    let two = play.service("two", &json!({}))?;
    answered_by(&clients, &one.at(80), &play.servers())?;
    cluster.api.delete("services", "default/one")?;
    unanswered(&clients, &one.at(80))?;
    answered_by(&clients, &two.at(80), &play.servers()).context("the other one stays")?;
    let three = play.service("three", &json!({}))?;
    answered_by(&clients, &three.at(80), &play.servers())?;
    // Again under its name, as a cluster's user would: at its former addresses.
    let again = play.service("one", &json!({"clusterIPs": one.ips, "clusterIP": one.ips[0]}))?;
    ensure!(again.ips == one.ips);
    answered_by(&clients, &one.at(80), &play.servers())
}

#[test]
fn a_node_port_is_served_at_the_cluster_ip_and_at_every_node_over_tcp_and_udp() -> Result<()> {
    let play = Play::new()?;
    let cluster = &play.cluster;
    play.pods("web")?;
    let ports = json!([
        {"name": "tcp", "port": 80, "targetPort": 8080, "protocol": "TCP", "nodePort": 31_234},
        {"name": "udp", "port": 80, "targetPort": 8080, "protocol": "UDP", "nodePort": 31_234},
    ]);
    let web = play.web(&json!({"type": "NodePort", "ports": ports}))?;
    ensure!(web.node_ports == [31_234, 31_234]);
    answered_over(&Over::ALL, &play.clients(), &web.at(80), &play.servers())?;
    let nodes = cluster.at_nodes(31_234);
    answered_over(&Over::ALL, &play.all_clients(), &nodes, &play.servers())?;
    for client in play.all_clients() {
        for addr in &nodes {
            let answer =
                udp_ask(client, *addr, false).with_context(|| format!("{} asks {addr}", client.name))?;
            ensure!(answer.peer == *addr, "{answer:?}");
        }
    }
    Ok(())
}

#[test]
fn an_external_ip_that_no_node_has_is_served() -> Result<()> {
    let play = Play::new()?;
    let cluster = &play.cluster;
    play.pods("web")?;
    let ips = ["203.0.113.20", "2001:db8:7::20"].map(|ip| ip.parse::<IpAddr>().expect("an address"));
    play.web(&json!({"externalIPs": ips}))?;
    let addrs = ips.map(|ip| at(ip, 80));
    answered_over(&Over::ALL, &play.clients(), &addrs, &play.servers())?;
    for node in [1, 2] {
        ips.iter().try_for_each(|ip| cluster.route(*ip, node))?;
        answered_over(&Over::ALL, &[play.lab().client()], &addrs, &play.servers())?;
    }
    cluster.change("web", &json!({"externalIPs": null}))?;
    unanswered(&play.all_clients(), &addrs)
}

#[test]
fn external_names_become_services_and_back() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients) = (&play.cluster, play.clients());
    play.pods("web")?;
    cluster.api.create_service(
        "web",
        &json!({"type": "ExternalName", "externalName": "web.example"}),
    )?;
    for kind in ["ClusterIP", "NodePort"] {
        cluster.change(
            "web",
            &json!({
                "type": kind, "externalName": null, "selector": {"app": "web"}, "ports": Play::ports(80),
                "ipFamilyPolicy": "PreferDualStack",
            }),
        )?;
        let web = cluster.allocated("web")?;
        answered_by(&clients, &web.at(80), &play.servers()).with_context(|| kind.to_owned())?;
        let mut addrs = web.at(80);
        if let Some(port) = web.node_ports.first() {
            addrs.extend(cluster.at_nodes(*port));
        }
        ensure!(addrs.len() == if kind == "NodePort" { 6 } else { 2 }, "{addrs:?}");
        answered_by(&clients, &addrs, &play.servers())?;
        cluster.change(
            "web",
            &json!({
                "type": "ExternalName", "externalName": "web.example", "clusterIP": null, "clusterIPs": null,
                "selector": null, "ports": null, "ipFamilies": null, "ipFamilyPolicy": null,
            }),
        )?;
        unanswered(&clients, &addrs).with_context(|| format!("{kind} became ExternalName"))?;
    }
    Ok(())
}

#[test]
fn services_of_another_proxy_and_headless_ones_are_not_served() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients) = (&play.cluster, play.clients());
    play.pods("web")?;
    let web = play.web(&json!({}))?;
    for label in [
        "service.kubernetes.io/service-proxy-name",
        "service.kubernetes.io/headless",
    ] {
        let set = |value: serde_json::Value| {
            let change = json!({"metadata": {"labels": {label: value}}});
            cluster.api.patch("services", "default/web", &change)
        };
        answered_by(&clients, &web.at(80), &play.servers())?;
        set(json!("other"))?;
        unanswered(&clients, &web.at(80)).with_context(|| format!("with {label}"))?;
        set(json!(null))?;
        answered_by(&clients, &web.at(80), &play.servers()).with_context(|| format!("without {label}"))?;
    }
    Ok(())
}

#[test]
fn a_new_service_cidr_is_served() -> Result<()> {
    let play = Play::new()?;
    let cluster = &play.cluster;
    play.pods("web")?;
    cluster.api.create(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "second"}, "spec": {"cidrs": ["10.97.0.0/24", "fd00:10:97::/112"]},
    }))?;
    let ips = ["10.97.0.10", "fd00:10:97::10"];
    let web = play.web(&json!({"clusterIP": ips[0], "clusterIPs": ips}))?;
    answered_by(&play.clients(), &web.at(80), &play.servers())?;
    let nobodys = ["10.97.0.11", "fd00:10:97::11"].map(|ip| ip.parse::<IpAddr>().expect("an address"));
    unanswered(&play.clients(), &nobodys.map(|ip| at(ip, 80))).context("nobody has these addresses")
}
