//! Upstream's tests of which endpoints a Service has (`test/e2e/network/service.go`, `endpointslice.go` and
//! `traffic_distribution.go` of Kubernetes), as `conformance_service.rs` does it.

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Host, Lab, Wiring, http_get};
use lb_tests::{
    agent::eventually,
    cluster::{Play, WITHIN, addresses, answered_by, pod_of, refused, stays},
    stage::address,
};
use serde_json::{Value, json};

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

/// A Service without a selector, ports 80 and 81: its slices are written by hand.
fn by_hand() -> Value {
    json!({"selector": null, "ports": [{"name": "one", "port": 80}, {"name": "two", "port": 81}]})
}

/// A slice of the Service `web` for each family: a pod's address, with this number for the Service's port of that name.
fn slices(name: &str, pod: &Host, port: &str, number: u16) -> [Value; 2] {
    addresses(pod, number).map(|addr| {
        let family = if addr.is_ipv4() { "IPv4" } else { "IPv6" };
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {
                "namespace": "default", "name": format!("{name}-{}", family.to_lowercase()),
                "labels": {
                    "kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "by-hand",
                },
            },
            "endpoints": [{"addresses": [addr.ip()], "conditions": {"ready": true}}],
            "ports": [{"name": port, "protocol": "TCP", "port": number}],
        })
    })
}

#[test]
fn slices_by_hand_give_each_port_of_a_service_its_own_number_at_one_pod() -> Result<()> {
    let mut play = Play::new()?;
    let pod = play.lab().pod(2, 1).clone();
    let second = play.serve_apart(&pod)?;
    let (cluster, clients) = (&play.cluster, play.clients());
    let web = play.web(&by_hand())?;
    refused(&clients, &[web.at(80), web.at(81)].concat()).context("no slices yet")?;
    let put = |name: &str, port: &str, number: u16| {
        let mut slices = slices(name, &pod, port, number).into_iter();
        slices.try_for_each(|slice| cluster.apply_object(slice))
    };
    put("web-one", "one", 8080)?;
    put("web-two", "two", 8081)?;
    answered_by(&clients, &web.at(80), &[&pod])?;
    answered_by(&clients, &web.at(81), &[&second])?;
    // Each slice goes on telling of its own port alone.
    put("web-one", "one", 8081)?;
    put("web-two", "two", 8080)?;
    answered_by(&clients, &web.at(80), &[&second])?;
    answered_by(&clients, &web.at(81), &[&pod])
}

#[test]
fn slices_by_hand_give_each_port_of_a_service_its_own_pods() -> Result<()> {
    let play = Play::new()?;
    let (cluster, clients) = (&play.cluster, play.clients());
    let [near, far] = play.servers();
    let web = play.web(&by_hand())?;
    let put = |name: &str, pod: &Host, port: &str| {
        let mut slices = slices(name, pod, port, 8080).into_iter();
        slices.try_for_each(|slice| cluster.apply_object(slice))
    };
    put("web-one", near, "one")?;
    answered_by(&clients, &web.at(80), &[near])?;
    refused(&clients, &web.at(81)).context("no slice has the second port")?;
    put("web-two", far, "two")?;
    answered_by(&clients, &web.at(81), &[far])?;
    answered_by(&clients, &web.at(80), &[near])?;
    // A further slice of a port adds to the others.
    put("web-three", far, "one")?;
    answered_by(&clients, &web.at(80), &[near, far])?;
    answered_by(&clients, &web.at(81), &[far])?;
    for family in ["ipv4", "ipv6"] {
        cluster
            .api
            .delete("endpointslices", &format!("default/web-one-{family}"))?;
    }
    answered_by(&clients, &web.at(80), &[far])?;
    answered_by(&clients, &web.at(81), &[far])
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
    let clients = play.clients();
    let addrs = [web.at(80), cluster.at_nodes(web.node_ports[0])].concat();
    // The answers mean something only when all four endpoints are there.
    answered_by(&clients, &addrs, &hosts)?;
    for _ in 0..2 {
        cluster.change("web", &json!({"sessionAffinity": "ClientIP"}))?;
        for client in clients {
            for addr in &addrs {
                eventually(WITHIN, || stays(client, *addr).map(drop))?;
            }
        }
        cluster.change("web", &json!({"sessionAffinity": "None"}))?;
        answered_by(&clients, &addrs, &hosts)?;
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
        let addrs = addresses(lab.node(node), outer.node_ports[0]);
        let strangers = play.strangers(node);
        answered_by(&strangers, &addrs, &[server])?;
        for client in strangers {
            for addr in addrs {
                let answer = http_get(client, addr)?;
                ensure!(
                    answer.client.ip() == address(client, addr),
                    "{answer:?}: the address of {} is kept",
                    client.name
                );
            }
        }
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
        let addrs = addresses(lab.node(1), service.node_ports[0]);
        answered_by(&play.strangers(1), &addrs, servers)?;
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

#[test]
fn nodes_of_one_zone_are_told_apart_by_same_node_alone() -> Result<()> {
    let play = Play::on(
        Lab::builder()
            .wiring(Wiring::Routed)
            .nodes(3)
            .pods_per_node(2)
            .build()?,
    )?;
    let (cluster, lab) = (&play.cluster, play.lab());
    let zone = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "a"}}});
    cluster.api.patch("nodes", &lab.node(3).name, &zone)?;
    play.pods("web")?;
    let [near, far] = play.servers();
    let neighbour = lab.pod(3, 1);
    cluster.pod(neighbour, "web")?;
    let (here, there) = ([lab.pod(1, 1), lab.node(1)], [lab.pod(3, 2), lab.node(3)]);
    for kind in ["PreferClose", "PreferSameZone", "PreferSameNode"] {
        let told = |what: &str| format!("{kind}, {what}");
        let web = play.service(&kind.to_lowercase(), &json!({"trafficDistribution": kind}))?;
        let served = |clients: &[&Host], servers: &[&Host]| answered_by(clients, &web.at(80), servers);
        let zone = [near, neighbour];
        let [of_here, of_there] = if kind == "PreferSameNode" {
            [&zone[..1], &zone[1..]]
        } else {
            [&zone[..]; 2]
        };
        served(&here, of_here).with_context(|| told("all are ready"))?;
        served(&there, of_there).with_context(|| told("all are ready"))?;
        served(&[lab.pod(2, 2), lab.node(2)], &[far]).with_context(|| told("alone in its zone"))?;
        // The zone stands in for the node, and all for the zone.
        let name = |pod: &Host| format!("default/{}", pod.name);
        cluster.api.set_ready(&name(near), false)?;
        served(&here, &[neighbour]).with_context(|| told("nobody on the node"))?;
        cluster.api.set_ready(&name(neighbour), false)?;
        served(&here, &[far]).with_context(|| told("nobody in the zone"))?;
        cluster.api.set_ready(&name(neighbour), true)?;
        served(&here, &[neighbour]).with_context(|| told("back in the zone"))?;
        cluster.api.set_ready(&name(near), true)?;
        served(&here, of_here).with_context(|| told("back on the node"))?;
    }
    Ok(())
}
