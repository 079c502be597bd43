//! `loadBalancerSourceRanges`: who reaches a load balancer's address.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use lb_testkit::{Host, Lab, Wiring, http_get, http_get_within, output, udp_ask_within};
use lb_tests::{
    agent::{counted, eventually},
    manifests::Manifest,
    stage::{Stage, address, at},
};

const BALANCER: [&str; 2] = ["203.0.113.8", "2001:db8:7::8"];
const NODE_PORT: u16 = 31_900;
/// How long an answer may take where another attempt follows.
const SOON: Duration = Duration::from_millis(300);
/// Number of the service in the cluster IPs.
const NUMBER: u16 = 70;

fn balancer() -> [SocketAddr; 2] {
    BALANCER.map(|ip| at(ip.parse::<IpAddr>().expect("an address"), 80))
}

fn limited(wiring: Wiring) -> Result<()> {
    let stage = Stage::with(Lab::builder().wiring(wiring).build()?, &[])?;
    let lab = &stage.lab;
    let (client, node, pod) = (lab.client(), lab.node(1), lab.pod(1, 1));
    for (net, via) in [
        ("203.0.113.0/24", node.v4.to_string()),
        ("2001:db8:7::/64", node.v6.to_string()),
    ] {
        output(client.command("ip").args(["route", "add", net, "via", &via]))?;
    }
    let shop = |ranges: &[String]| {
        let mut shop = Manifest::new("shop", NUMBER)
            .port(80, 8080, Some(NODE_PORT))
            .endpoint(lab.pod(1, 2), "node1")
            .balancer(&BALANCER);
        if !ranges.is_empty() {
            shop = shop.with(&format!("loadBalancerSourceRanges: {ranges:?}"));
        }
        stage.folder.write("shop.yaml", &shop.yaml())
    };
    let reaches = |host, addr| {
        eventually(Duration::from_secs(30), || {
            Ok(http_get_within(host, addr, SOON).map(drop)?)
        })
    };
    // Nothing is heard, and it was counted for that reason: a machine that is slow is not taken for one that drops.
    let is_kept_out = |host: &Host, addr| {
        let reason = if host.name == node.name {
            "socket_source_not_allowed"
        } else {
            "source_not_allowed"
        };
        eventually(Duration::from_secs(30), || {
            for ask in [
                |host: &Host, addr| http_get_within(host, addr, SOON),
                |host: &Host, addr| udp_ask_within(host, addr, true, SOON),
            ] {
                let before = counted(lab, 1, reason)?;
                ensure!(ask(host, addr).is_err(), "{} still reaches {addr}", host.name);
                ensure!(
                    counted(lab, 1, reason)? > before,
                    "{} to {addr} was not counted as {reason}",
                    host.name
                );
            }
            Ok(())
        })
    };
    let only = |hosts: &[&Host]| -> Vec<String> {
        let of = |host: &&Host| [format!(" {}/32 ", host.v4), format!("{}/128", host.v6)];
        hosts.iter().flat_map(of).collect()
    };

    // Without ranges everybody is served.
    shop(&[])?;
    for addr in balancer() {
        for host in [client, node, pod] {
            reaches(host, addr)?;
        }
    }
    // A change counts for new connections at once.
    shop(&only(&[pod]))?;
    for addr in balancer() {
        reaches(pod, addr)?;
        is_kept_out(client, addr)?;
        is_kept_out(node, addr)?;
    }
    // Other addresses of the service are not meant.
    let cluster_ips = [format!("10.96.0.{NUMBER}"), format!("fd00:10:96::{NUMBER:x}")];
    for (ip, addr) in cluster_ips.iter().zip(balancer()) {
        let cluster_ip = at(ip.parse::<IpAddr>()?, 80);
        http_get(node, cluster_ip)?;
        http_get(pod, cluster_ip)?;
        http_get(client, at(address(node, addr), NODE_PORT))?;
    }
    shop(&only(&[client, node]))?;
    for addr in balancer() {
        reaches(client, addr)?;
        reaches(node, addr)?;
        is_kept_out(pod, addr)?;
    }
    // Each family goes by its own ranges, and is open without any.
    let [v4, v6] = balancer();
    shop(&[format!("{}/32", node.v4)])?;
    is_kept_out(client, v4)?;
    reaches(client, v6)?;
    reaches(pod, v6)?;
    shop(&["0.0.0.0/0".to_owned(), format!("{}/128", node.v6)])?;
    reaches(client, v4)?;
    is_kept_out(client, v6).map(drop)
}

#[test]
fn only_named_sources_reach_a_load_balancer_s_address_with_routed_pods() {
    limited(Wiring::Routed).unwrap();
}

#[test]
fn only_named_sources_reach_a_load_balancer_s_address_with_bridged_pods() {
    limited(Wiring::Bridged).unwrap();
}
