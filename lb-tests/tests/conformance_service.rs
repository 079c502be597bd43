//! Upstream's tests of Services (`test/e2e/network/service.go` of Kubernetes), with the same observations in the lab:
//! pods, Services and their changes go through the test API server and its controllers, traffic through namespaces.
//! docs/conformance.md has the table.
//!
//! Where upstream asks from a pod and from a pod with the host's network, the clients are a pod and a process of the node.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Host, Lab, Server, Wiring, api::Pod, http_get, udp_ask};
use lb_tests::{
    agent::Agent,
    cluster::{Cluster, answered_by, refused, unanswered},
    stage::at,
};
use serde_json::json;

/// A cluster with agents on both nodes, and a server on ports 8080 and 8081 of each pod but `n1-a`, the client.
struct Play {
    _agents: Vec<Agent>,
    _servers: Vec<Server>,
    cluster: Cluster,
}

impl Play {
    fn new() -> Result<Self> {
        let cluster = Cluster::on(Lab::builder().wiring(Wiring::Routed).pods_per_node(3).build()?)?;
        let lab = &cluster.lab;
        let hosts = [lab.pod(1, 2), lab.pod(1, 3), lab.pod(2, 1), lab.pod(2, 2)];
        let servers = hosts
            .iter()
            .flat_map(|host| [8080, 8081].map(|port| Server::start(host, port)))
            .collect::<lb_testkit::Result<_>>()?;
        Ok(Self {
            _agents: cluster.agents(&[])?,
            _servers: servers,
            cluster,
        })
    }

    fn lab(&self) -> &Lab {
        &self.cluster.lab
    }

    /// A pod and a process of its node.
    fn clients(&self) -> [&Host; 2] {
        [self.lab().pod(1, 1), self.lab().node(1)]
    }

    /// Two servers, one on each node.
    fn servers(&self) -> [&Host; 2] {
        [self.lab().pod(1, 2), self.lab().pod(2, 1)]
    }

    /// Creates the pods of [`Self::servers`].
    fn pods(&self, app: &str) -> Result<()> {
        self.servers()
            .iter()
            .try_for_each(|host| self.cluster.pod(host, app))
    }
}

fn port(number: u16) -> serde_json::Value {
    json!({"port": number, "targetPort": 8080, "protocol": "TCP"})
}

#[test]
fn a_service_serves_its_endpoints() {
    basic().unwrap();
}

fn basic() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients) = (&play.cluster, play.clients());
    let [near, far] = play.servers();
    let web = cluster.service("web", &json!({"selector": {"app": "web"}, "ports": [port(80)]}))?;
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
fn a_multiport_service_serves_each_port_by_its_own_endpoints() {
    multiport().unwrap();
}

fn multiport() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients) = (&play.cluster, play.clients());
    let [near, far] = play.servers();
    let ports = json!([
        {"name": "one", "port": 80, "targetPort": "one"},
        {"name": "two", "port": 81, "targetPort": "two"},
    ]);
    let web = cluster.service("web", &json!({"selector": {"app": "web"}, "ports": ports}))?;
    let pod = |host: &Host, node: &str, port: &str, number: u16| {
        let pod = Pod::new(&host.name, &[host.v4.into(), host.v6.into()]);
        cluster
            .api
            .create_pod(pod.label("app", "web").node(node).port(port, "TCP", number))
    };
    pod(near, "node1", "one", 8080)?;
    answered_by(&clients, &web.at(80), &[near])?;
    refused(&clients, &web.at(81)).context("nobody has the second port")?;
    pod(far, "node2", "two", 8081)?;
    answered_by(&clients, &web.at(81), &[far])?;
    answered_by(&clients, &web.at(80), &[near])
}

#[test]
fn named_target_ports_may_have_another_number_in_each_pod() {
    named_ports().unwrap();
}

fn named_ports() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients) = (&play.cluster, play.clients());
    for (host, node, number) in [
        (play.servers()[0], "node1", 8080),
        (play.servers()[1], "node2", 8081),
    ] {
        let pod = Pod::new(&host.name, &[host.v4.into(), host.v6.into()]);
        let pod = pod.label("app", "web").node(node).port("http", "TCP", number);
        cluster.api.create_pod(pod)?;
    }
    let ports = json!([{"port": 80, "targetPort": "http"}]);
    let web = cluster.service("web", &json!({"selector": {"app": "web"}, "ports": ports}))?;
    ensure!(
        cluster.api.slices("web").len() == 4,
        "two numbers in two families take four slices"
    );
    answered_by(&clients, &web.at(80), &play.servers())
}

#[test]
fn ports_are_added_and_deleted() {
    changing_ports().unwrap();
}

fn changing_ports() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients) = (&play.cluster, play.clients());
    play.pods("web")?;
    let named = |ports: &[u16]| {
        let ports = ports
            .iter()
            .map(|port| json!({"name": format!("p{port}"), "port": port, "targetPort": 8080}));
        json!(ports.collect::<Vec<_>>())
    };
    let web = cluster.service("web", &json!({"selector": {"app": "web"}, "ports": named(&[80])}))?;
    answered_by(&clients, &web.at(80), &play.servers())?;
    cluster.change("web", &json!({"ports": named(&[80, 81])}))?;
    answered_by(&clients, &web.at(81), &play.servers())?;
    cluster.change("web", &json!({"ports": named(&[81])}))?;
    refused(&clients, &web.at(80))?;
    answered_by(&clients, &web.at(81), &play.servers())
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    hairpin().unwrap();
}

fn hairpin() -> Result<()> {
    let play = Play::new()?;
    let own = play.servers()[0];
    play.cluster.pod(own, "web")?;
    let web = play
        .cluster
        .service("web", &json!({"selector": {"app": "web"}, "ports": [port(80)]}))?;
    answered_by(&[own], &web.at(80), &[own])
}

#[test]
fn services_go_up_and_down_and_come_again() {
    up_and_down().unwrap();
}

fn up_and_down() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients) = (&play.cluster, play.clients());
    play.pods("web")?;
    let spec = || json!({"selector": {"app": "web"}, "ports": [port(80)]});
    let one = cluster.service("one", &spec())?;
    let two = cluster.service("two", &spec())?;
    answered_by(&clients, &one.at(80), &play.servers())?;
    cluster.api.delete("services", "default/one")?;
    unanswered(&clients, &one.at(80))?;
    answered_by(&clients, &two.at(80), &play.servers()).context("the other one stays")?;
    let three = cluster.service("three", &spec())?;
    answered_by(&clients, &three.at(80), &play.servers())?;
    // Again under its name, as a cluster's user would: at its former addresses.
    let mut again = spec();
    again["clusterIPs"] = json!(one.ips);
    again["clusterIP"] = json!(one.ips[0]);
    let again = cluster.service("one", &again)?;
    ensure!(again.ips == one.ips);
    answered_by(&clients, &one.at(80), &play.servers())
}

#[test]
fn a_node_port_is_served_at_the_cluster_ip_and_at_every_node_over_tcp_and_udp() {
    node_port().unwrap();
}

fn node_port() -> Result<()> {
    let play = Play::new()?;
    let (cluster, lab) = (&play.cluster, play.lab());
    play.pods("web")?;
    let ports = json!([
        {"name": "tcp", "port": 80, "targetPort": 8080, "protocol": "TCP", "nodePort": 31_234},
        {"name": "udp", "port": 80, "targetPort": 8080, "protocol": "UDP", "nodePort": 31_234},
    ]);
    let spec = json!({"type": "NodePort", "selector": {"app": "web"}, "ports": ports});
    let web = cluster.service("web", &spec)?;
    ensure!(web.node_ports == [31_234, 31_234]);
    answered_by(&play.clients(), &web.at(80), &play.servers())?;
    let nodes: Vec<_> = [1, 2]
        .into_iter()
        .flat_map(|node| [at(lab.node(node).v4, 31_234), at(lab.node(node).v6, 31_234)])
        .collect();
    let [pod, node] = play.clients();
    let clients = [pod, node, lab.client()];
    answered_by(&clients, &nodes, &play.servers())?;
    for client in clients {
        for addr in &nodes {
            let answer =
                udp_ask(client, *addr, false).with_context(|| format!("{} asks {addr}", client.name))?;
            ensure!(answer.peer == *addr, "{answer:?}");
        }
    }
    Ok(())
}

#[test]
fn external_names_become_services_and_back() {
    external_name().unwrap();
}

fn external_name() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients, lab) = (&play.cluster, play.clients(), play.lab());
    play.pods("web")?;
    cluster.api.create_service(
        "web",
        &json!({"type": "ExternalName", "externalName": "web.example"}),
    )?;
    for kind in ["ClusterIP", "NodePort"] {
        cluster.change(
            "web",
            &json!({"type": kind, "externalName": null, "selector": {"app": "web"}, "ports": [port(80)]}),
        )?;
        let web = cluster.allocated("web")?;
        answered_by(&clients, &web.at(80), &play.servers()).with_context(|| kind.to_owned())?;
        let mut addrs = web.at(80);
        for node_port in &web.node_ports {
            addrs.push(at(lab.node(1).v4, *node_port));
        }
        answered_by(&clients, &addrs, &play.servers())?;
        cluster.change(
            "web",
            &json!({
                "type": "ExternalName", "externalName": "web.example", "clusterIP": null, "clusterIPs": null,
                "selector": null, "ports": null,
            }),
        )?;
        unanswered(&clients, &addrs).with_context(|| format!("{kind} became ExternalName"))?;
    }
    Ok(())
}

#[test]
fn unready_pods_serve_where_their_service_publishes_them() {
    publish_not_ready().unwrap();
}

fn publish_not_ready() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients) = (&play.cluster, play.clients());
    let [near, _] = play.servers();
    cluster.pod(near, "web")?;
    let web = cluster.service("web", &json!({"selector": {"app": "web"}, "ports": [port(80)]}))?;
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
fn affinity_keeps_a_client_with_its_endpoint_and_can_be_switched() {
    affinity().unwrap();
}

fn affinity() -> Result<()> {
    let play = Play::new()?;
    let (cluster, lab) = (&play.cluster, play.lab());
    let hosts = [lab.pod(1, 2), lab.pod(1, 3), lab.pod(2, 1), lab.pod(2, 2)];
    hosts.iter().try_for_each(|host| cluster.pod(host, "web"))?;
    let spec = json!({
        "type": "NodePort", "selector": {"app": "web"}, "ports": [port(80)], "sessionAffinity": "ClientIP",
    });
    let web = cluster.service("web", &spec)?;
    let pod = lab.pod(1, 1);
    let mut addrs = web.at(80);
    addrs.push(at(lab.node(2).v4, web.node_ports[0]));
    let fifteen =
        |addr| -> Result<BTreeSet<String>> { (0..15).map(|_| Ok(http_get(pod, addr)?.server)).collect() };
    // The answers mean something only when all four endpoints are there.
    cluster.change("web", &json!({"sessionAffinity": "None"}))?;
    answered_by(&[pod], &addrs, &hosts)?;
    for _ in 0..2 {
        cluster.change("web", &json!({"sessionAffinity": "ClientIP"}))?;
        for addr in &addrs {
            lb_tests::agent::eventually(std::time::Duration::from_secs(30), || {
                let servers = fifteen(*addr)?;
                ensure!(servers.len() == 1, "{addr}: {servers:?} have answered one client");
                Ok(())
            })?;
        }
        cluster.change("web", &json!({"sessionAffinity": "None"}))?;
        answered_by(&[pod], &addrs, &hosts)?;
    }
    Ok(())
}

#[test]
fn services_of_another_proxy_and_headless_ones_are_not_served() {
    labels().unwrap();
}

fn labels() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients) = (&play.cluster, play.clients());
    play.pods("web")?;
    let web = cluster.service("web", &json!({"selector": {"app": "web"}, "ports": [port(80)]}))?;
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
fn evicted_pods_leave_a_service_that_refuses() {
    evicted().unwrap();
}

fn evicted() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients) = (&play.cluster, play.clients());
    let [near, _] = play.servers();
    cluster.pod(near, "web")?;
    let web = cluster.service("web", &json!({"selector": {"app": "web"}, "ports": [port(80)]}))?;
    answered_by(&clients, &web.at(80), &[near])?;
    cluster.api.evict("default/n1-b")?;
    refused(&clients, &web.at(80))
}

#[test]
fn policy_local_keeps_traffic_on_the_node_and_the_client_s_address() {
    policies().unwrap();
}

fn policies() -> Result<()> {
    let play = Play::new()?;
    let (cluster, lab) = (&play.cluster, play.lab());
    play.pods("web")?;
    let [near, far] = play.servers();
    let spec = json!({"selector": {"app": "web"}, "ports": [port(80)], "internalTrafficPolicy": "Local"});
    let inner = cluster.service("inner", &spec)?;
    answered_by(&[lab.pod(1, 1), lab.node(1)], &inner.at(80), &[near])?;
    answered_by(&[lab.pod(2, 3), lab.node(2)], &inner.at(80), &[far])?;
    let spec = json!({
        "type": "NodePort", "selector": {"app": "web"}, "ports": [port(80)], "externalTrafficPolicy": "Local",
    });
    let outer = cluster.service("outer", &spec)?;
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
fn terminating_endpoints_stand_in_when_no_other_is_ready() {
    fallback().unwrap();
}

fn fallback() -> Result<()> {
    let play = Play::new()?;
    let (cluster, lab) = (&play.cluster, play.lab());
    play.pods("web")?;
    let [near, far] = play.servers();
    let spec = |internal: &str, external: &str| {
        json!({
            "type": "NodePort", "selector": {"app": "web"}, "ports": [port(80)],
            "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
        })
    };
    let all = cluster.service("all", &spec("Cluster", "Cluster"))?;
    let local = cluster.service("local", &spec("Local", "Local"))?;
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
fn one_port_serves_several_protocols() {
    protocols().unwrap();
}

fn protocols() -> Result<()> {
    let play = Play::new()?;
    let cluster = &play.cluster;
    let [near, far] = play.servers();
    cluster.pod(near, "web")?;
    cluster.pod(far, "dns")?;
    let both = json!([
        {"name": "tcp", "port": 53, "targetPort": 8080, "protocol": "TCP"},
        {"name": "udp", "port": 53, "targetPort": 8080, "protocol": "UDP"},
    ]);
    let web = cluster.service("web", &json!({"selector": {"app": "web"}, "ports": both}))?;
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
        ensure!(udp_ask(client, web.at(53)[0], false)?.server == near.name);
    }
    Ok(())
}

#[test]
fn traffic_stays_near_as_its_distribution_says() {
    distribution().unwrap();
}

fn distribution() -> Result<()> {
    let play = Play::new()?;
    let (cluster, lab) = (&play.cluster, play.lab());
    play.pods("web")?;
    let [near, far] = play.servers();
    let here = [lab.pod(1, 1), lab.node(1)];
    for kind in ["PreferClose", "PreferSameZone", "PreferSameNode"] {
        let spec = json!({"selector": {"app": "web"}, "ports": [port(80)], "trafficDistribution": kind});
        let name = kind.to_lowercase();
        let web = cluster.service(&name, &spec)?;
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

#[test]
fn a_new_service_cidr_is_served() {
    service_cidr().unwrap();
}

fn service_cidr() -> Result<()> {
    let play = Play::new()?;
    let cluster = &play.cluster;
    play.pods("web")?;
    cluster.api.create(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "second"}, "spec": {"cidrs": ["10.97.0.0/24"]},
    }))?;
    let spec = json!({
        "selector": {"app": "web"}, "ports": [port(80)], "clusterIP": "10.97.0.10", "clusterIPs": ["10.97.0.10"],
        "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"],
    });
    let web = cluster.service("web", &spec)?;
    answered_by(&play.clients(), &web.at(80), &play.servers())?;
    unanswered(&play.clients(), &[at([10, 97, 0, 11], 80)]).context("nobody has that address")
}
