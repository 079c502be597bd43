//! Services without endpoints: clients are told at once, wherever they are.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Wiring, http_get, udp_ask};
use lb_tests::{
    agent::{counted, eventually},
    manifests::Manifest,
    stage::{Stage, at},
};

/// NodePort of the service without endpoints, and its number in the cluster IPs.
const NODE_PORT: u16 = 31_800;
const NUMBER: u16 = 50;

fn refused(wiring: Wiring) -> Result<()> {
    let stage = Stage::new(wiring)?;
    let lab = &stage.lab;
    let empty = Manifest::new("empty", NUMBER).port(80, 8080, Some(NODE_PORT));
    stage.folder.write("empty.yaml", &empty.yaml())?;
    let cluster_ips = [format!("10.96.0.{NUMBER}"), format!("fd00:10:96::{NUMBER:x}")]
        .map(|text| at(text.parse::<IpAddr>().expect("an address"), 80));
    let node = lab.node(1);
    let node_ports = [at(node.v4, NODE_PORT), at(node.v6, NODE_PORT)];
    for (host, addresses) in [
        (lab.pod(1, 1), cluster_ips),
        (lab.pod(1, 1), node_ports),
        (node, cluster_ips),
        (node, node_ports),
        (lab.client(), node_ports),
    ] {
        for addr in addresses {
            // The first attempts may come before the service is known.
            eventually(Duration::from_secs(5), || {
                is_refused(http_get(host, addr)).with_context(|| format!("TCP from {} to {addr}", host.name))
            })?;
            is_refused(udp_ask(host, addr, true))
                .with_context(|| format!("UDP from {} to {addr}", host.name))?;
        }
    }
    // And when the last endpoint goes while the service is in use.
    let server = lab.pod(1, 2);
    stage
        .folder
        .write("empty.yaml", &empty.clone().endpoint(server, "node1").yaml())?;
    let client = lab.pod(1, 1);
    eventually(Duration::from_secs(5), || {
        Ok(http_get(client, cluster_ips[0]).map(drop)?)
    })?;
    stage.folder.write("empty.yaml", &empty.yaml())?;
    eventually(Duration::from_secs(5), || {
        is_refused(http_get(client, cluster_ips[0]))
    })
    .map(drop)
}

fn is_refused<T: std::fmt::Debug>(answer: lb_testkit::Result<T>) -> Result<()> {
    let error = anyhow::Error::from(match answer {
        Ok(answer) => anyhow::bail!("{answer:?} instead of a refusal"),
        Err(error) => error,
    });
    let text = format!("{error:#}");
    ensure!(text.contains("refused"), "{text}");
    Ok(())
}

#[test]
fn clients_of_a_service_without_endpoints_are_refused_with_routed_pods() {
    refused(Wiring::Routed).unwrap();
}

#[test]
fn clients_of_a_service_without_endpoints_are_refused_with_bridged_pods() {
    refused(Wiring::Bridged).unwrap();
}

/// Answers are limited in number: a flood must not be mirrored.
#[test]
fn a_flood_is_not_mirrored() {
    flood().unwrap();
}

fn flood() -> Result<()> {
    const PACKETS: usize = 20_000;
    let stage = Stage::new(Wiring::Routed)?;
    let lab = &stage.lab;
    let empty = Manifest::new("empty", NUMBER).port(80, 8080, Some(NODE_PORT));
    stage.folder.write("empty.yaml", &empty.yaml())?;
    let addr = at(lab.node(1).v4, NODE_PORT);
    eventually(Duration::from_secs(5), || {
        is_refused(udp_ask(lab.client(), addr, true))
    })?;
    lab.client().run(|| -> Result<()> {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        for _ in 0..PACKETS {
            socket.send_to(b"?", addr)?;
        }
        Ok(())
    })??;
    // Some of a flood is lost on the way.
    eventually(Duration::from_secs(5), || {
        let (answered, limited) = (
            counted(lab, 1, "no_endpoints")?,
            counted(lab, 1, "reject_limited")?,
        );
        ensure!(
            answered > 0 && limited > answered,
            "{answered} were answered, {limited} were not"
        );
        Ok(())
    })
    .map(drop)
}
