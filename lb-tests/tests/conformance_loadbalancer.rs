//! Upstream's tests of load balancers (`test/e2e/network/loadbalancer.go` of Kubernetes), as `conformance_service.rs` does
//! it. What a cloud does is done here: the addresses of a Service, and the ways of the client outside to the nodes.

use std::{net::SocketAddr, sync::RwLock, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Host, Lab, http_get};
use lb_tests::{
    agent::eventually,
    cluster::{
        Over, Play, WITHIN, answered_by, answered_over, health_checks, refused_over, stays_over, unanswered,
    },
    stage::address,
    traffic::{requests, under_traffic},
};
use serde_json::{Value, json};

/// How long a container is given to end its requests.
const GRACE: Duration = Duration::from_millis(500);

/// Ports of a Service with their node port.
fn ports(number: u16, node_port: u16) -> Value {
    let mut ports = Play::ports(number);
    for port in ports.as_array_mut().into_iter().flatten() {
        port["nodePort"] = node_port.into();
    }
    ports
}

#[test]
fn a_service_changes_its_type_and_its_ports() -> Result<()> {
    let play = Play::new()?;
    let (cluster, inside, outside) = (&play.cluster, play.clients(), [play.lab().client()]);
    let all = play.all_clients();
    play.pods("web")?;
    let served =
        |clients: &[&Host], addrs: &[SocketAddr]| answered_over(&Over::ALL, clients, addrs, &play.servers());
    let web = play.web(&json!({}))?;
    served(&inside, &web.at(80)).context("type ClusterIP")?;

    cluster.change("web", &json!({"type": "NodePort"}))?;
    let first = cluster.allocated("web")?.node_ports[0];
    served(&all, &cluster.at_nodes(first)).context("type NodePort")?;
    cluster.change("web", &json!({"ports": ports(80, 31_500)}))?;
    served(&all, &cluster.at_nodes(31_500)).context("the node port changes")?;
    unanswered(&all, &cluster.at_nodes(first)).context("the former node port")?;

    cluster.change("web", &json!({"type": "LoadBalancer"}))?;
    play.balance("web")?;
    for node in [1, 2] {
        play.lead(node)?;
        served(&outside, &Play::balancer(80)).context("type LoadBalancer")?;
    }
    served(&inside, &Play::balancer(80)).context("type LoadBalancer")?;
    served(&all, &cluster.at_nodes(31_500)).context("the node port stays")?;
    cluster.change("web", &json!({"ports": ports(80, 31_501)}))?;
    served(&all, &cluster.at_nodes(31_501)).context("the node port changes again")?;
    unanswered(&all, &cluster.at_nodes(31_500)).context("the former node port")?;
    served(&all, &Play::balancer(80)).context("the node port has changed")?;
    cluster.change("web", &json!({"ports": ports(81, 31_501)}))?;
    served(&all, &Play::balancer(81)).context("the port changes")?;
    served(&inside, &web.at(81)).context("the port changes")?;
    served(&all, &cluster.at_nodes(31_501)).context("the node port stays")?;
    refused_over(&Over::ALL, &outside, &Play::balancer(80)).context("the former port")?;
    let [pod, node] = inside;
    refused_over(&Over::ALL, &[pod], &web.at(80)).context("the former port")?;
    // A process may connect a UDP socket to any address, and is refused when it sends without that.
    refused_over(&[Over::Tcp, Over::Datagram], &[node], &web.at(80)).context("the former port")?;

    play.servers()
        .iter()
        .try_for_each(|host| cluster.delete_pod(host))?;
    refused_over(&Over::ALL, &all, &Play::balancer(81)).context("no pods are left")?;
    refused_over(&Over::ALL, &all, &cluster.at_nodes(31_501)).context("no pods are left")?;
    play.pods("web")?;
    served(&all, &Play::balancer(81)).context("there are pods again")?;

    cluster.change("web", &json!({"type": "ClusterIP"}))?;
    cluster.balance("web", &[])?;
    unanswered(&all, &Play::balancer(81)).context("type ClusterIP again")?;
    unanswered(&all, &cluster.at_nodes(31_501)).context("type ClusterIP again")?;
    ensure!(
        cluster.allocated("web")?.ips == web.ips,
        "the cluster IPs stay all the time"
    );
    served(&inside, &web.at(81)).context("type ClusterIP again")
}

#[test]
fn affinity_holds_at_a_load_balancer_by_both_policies_and_can_be_switched() -> Result<()> {
    let play = Play::new()?;
    let (cluster, lab) = (&play.cluster, play.lab());
    let hosts = [lab.pod(1, 2), lab.pod(1, 3), lab.pod(2, 1), lab.pod(2, 2)];
    hosts.iter().try_for_each(|host| cluster.pod(host, "web"))?;
    play.balanced(&json!({}))?;
    let addrs = Play::balancer(80);
    for (policy, from_outside) in [
        ("Cluster", &hosts[..]),
        ("Local", &hosts[..2]),
        ("Cluster", &hosts[..]),
    ] {
        cluster.change("web", &json!({"externalTrafficPolicy": policy}))?;
        // One answer means something only when all that may answer are there.
        answered_over(&Over::ALL, &[lab.client()], &addrs, from_outside).context(policy)?;
        answered_over(&Over::ALL, &play.clients(), &addrs, &hosts).context(policy)?;
        cluster.change("web", &json!({"sessionAffinity": "ClientIP"}))?;
        for client in play.all_clients() {
            let may = if client.name == lab.client().name {
                from_outside
            } else {
                &hosts
            };
            for (way, addr) in Over::ALL
                .into_iter()
                .flat_map(|way| addrs.map(|addr| (way, addr)))
            {
                eventually(WITHIN, || {
                    let server = stays_over(way, client, addr)?;
                    ensure!(may.iter().any(|host| host.name == server), "{server} answers");
                    Ok(())
                })
                .context(policy)?;
            }
        }
        cluster.change("web", &json!({"sessionAffinity": "None"}))?;
        answered_over(&Over::ALL, &[lab.client()], &addrs, from_outside).context(policy)?;
    }
    Ok(())
}

#[test]
fn a_load_balancer_without_node_ports_is_served_and_may_get_them_later() -> Result<()> {
    let play = Play::new()?;
    let (cluster, all) = (&play.cluster, play.all_clients());
    play.pods("web")?;
    let served = |addrs: &[SocketAddr]| answered_over(&Over::ALL, &all, addrs, &play.servers());
    let web = play.balanced(&json!({"allocateLoadBalancerNodePorts": false}))?;
    ensure!(web.node_ports.is_empty(), "{web:?}");
    served(&Play::balancer(80))?;
    cluster.change("web", &json!({"allocateLoadBalancerNodePorts": true}))?;
    let port = cluster.allocated("web")?.node_ports[0];
    served(&cluster.at_nodes(port))?;
    served(&Play::balancer(80))?;
    cluster.change(
        "web",
        &json!({"allocateLoadBalancerNodePorts": false, "ports": Play::ports(80)}),
    )?;
    unanswered(&all, &cluster.at_nodes(port))?;
    served(&Play::balancer(80))
}

#[test]
fn only_clients_in_the_source_ranges_reach_a_load_balancer() -> Result<()> {
    let play = Play::new()?;
    let (cluster, lab) = (&play.cluster, play.lab());
    play.pods("web")?;
    let web = play.balanced(&json!({}))?;
    let hosts = [lab.pod(1, 1), lab.pod(2, 3), lab.client()];
    let served =
        |hosts: &[&Host], addrs: &[SocketAddr]| answered_over(&Over::ALL, hosts, addrs, &play.servers());
    served(&hosts, &Play::balancer(80)).context("without ranges")?;
    for may in hosts {
        let ranges = [format!("{}/32", may.v4), format!("{}/128", may.v6)];
        cluster.change("web", &json!({"loadBalancerSourceRanges": ranges}))?;
        let mut others = hosts.to_vec();
        others.retain(|host| host.name != may.name);
        unanswered(&others, &Play::balancer(80)).with_context(|| format!("only {} may", may.name))?;
        served(&[may], &Play::balancer(80))?;
        // They hold at the load balancer's addresses alone.
        served(&others, &cluster.at_nodes(web.node_ports[0]))?;
    }
    cluster.change("web", &json!({"loadBalancerSourceRanges": null}))?;
    served(&hosts, &Play::balancer(80)).context("without ranges again")
}

#[test]
fn policy_local_serves_at_just_those_nodes_that_have_an_endpoint() -> Result<()> {
    let play = Play::on(Lab::builder().nodes(3).pods_per_node(2).build()?)?;
    let (cluster, lab, client) = (&play.cluster, play.lab(), play.lab().client());
    play.balanced(&json!({"externalTrafficPolicy": "Local"}))?;
    let port = cluster.health_check_port("web")?;
    let addrs = Play::balancer(80);
    let served_openly = |node: usize| -> Result<()> {
        play.lead(node)?;
        answered_over(&Over::ALL, &[client], &addrs, &[lab.pod(node, 2)])?;
        for addr in addrs {
            let answer = http_get(client, addr)?;
            ensure!(answer.client.ip() == address(client, addr), "{answer:?}");
        }
        Ok(())
    };
    for with in 1..=3 {
        let endpoint = lab.pod(with, 2);
        cluster.pod(endpoint, "web")?;
        for node in 1..=3 {
            health_checks(lab, node, port, u64::from(node == with))?;
            if node == with {
                served_openly(node)?;
            } else {
                play.lead(node)?;
                unanswered(&[client], &addrs).with_context(|| format!("node{node} has no endpoint"))?;
            }
            // Those inside get there from everywhere, and are seen as who they are.
            let pod = lab.pod(node, if node == 1 { 1 } else { 2 });
            answered_over(&Over::ALL, &[pod, lab.node(node)], &addrs, &[endpoint])?;
            if pod.name != endpoint.name {
                for addr in addrs {
                    let answer = http_get(pod, addr)?;
                    ensure!(answer.client.ip() == address(pod, addr), "{answer:?}");
                }
            }
        }
        cluster.delete_pod(endpoint)?;
    }
    for node in 1..=3 {
        cluster.pod(lab.pod(node, 2), "web")?;
    }
    for node in 1..=3 {
        health_checks(lab, node, port, 1)?;
        served_openly(node)?;
    }
    Ok(())
}

#[test]
fn a_rolling_update_loses_no_request_by_policy_cluster() -> Result<()> {
    rolling_update("Cluster")
}

#[test]
fn a_rolling_update_loses_no_request_by_policy_local() -> Result<()> {
    rolling_update("Local")
}

/// A pod of each node is replaced, one after the other, as a `DaemonSet` does it. By policy Local the load balancer takes a
/// node out when its health check fails, and no sooner.
fn rolling_update(policy: &str) -> Result<()> {
    let mut play = Play::new()?;
    let lab = play.lab();
    let pods =
        [[lab.pod(1, 2), lab.pod(1, 3)], [lab.pod(2, 1), lab.pod(2, 2)]].map(|pods| pods.map(Host::clone));
    let client = lab.client().clone();
    let inside = [lab.pod(1, 1), lab.node(1), lab.pod(2, 3), lab.node(2)].map(Host::clone);
    let everyone: Vec<&Host> = inside.iter().collect();
    let [near, far] = [&pods[0][0], &pods[1][0]];
    play.pods("web")?;
    let web = play.balanced(&json!({"externalTrafficPolicy": policy}))?;
    answered_by(&everyone, &web.at(80), &[near, far])?;
    answered_by(&everyone, &Play::balancer(80), &[near, far])?;
    let local = policy == "Local";
    let health_port = local.then(|| play.cluster.health_check_port("web")).transpose()?;
    let from_outside: &[&Host] = if local { &[near] } else { &[near, far] };
    answered_by(&[&client], &Play::balancer(80), from_outside)?;

    // The load balancer keeps each connection where it began: none is under way when it chooses another node.
    let road = RwLock::new(());
    let mut clients = Vec::new();
    for addr in Play::balancer(80) {
        let (client, road) = (&client, &road);
        clients.push(Box::new(move || {
            let _way = road.read();
            requests(client, addr)()
        }) as lb_tests::traffic::Client<'_>);
    }
    for client in &inside[..2] {
        for addr in [web.at(80), Play::balancer(80).to_vec()].concat() {
            clients.push(requests(client, addr));
        }
    }
    under_traffic(clients, 20, |_| {
        let mut serving = vec![near, far];
        for (node, [old, new]) in (1..).zip(&pods) {
            play.cluster.api.terminate(&format!("default/{}", old.name))?;
            if let Some(port) = health_port {
                health_checks(play.lab(), node, port, 0)?;
                let _way = road.write();
                play.lead(3 - node)?;
            }
            serving.retain(|host| host.name != old.name);
            answered_by(&everyone, &web.at(80), &serving)?;
            thread::sleep(GRACE);
            play.delete(old)?;
            play.cluster.pod(new, "web")?;
            serving.push(new);
            answered_by(&everyone, &web.at(80), &serving)?;
            if let Some(port) = health_port {
                health_checks(play.lab(), node, port, 1)?;
            }
        }
        Ok(())
    })
}
