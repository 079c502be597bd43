//! Addresses of services: ports that they do not have, and addresses that no service has.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use lb_testkit::{Host, Lab, Wiring, http_get, http_get_within, output, udp_ask};
use lb_tests::{
    agent::{at_once, counted, eventually},
    manifests::Manifest,
    stage::{NODE_PORT, Stage, at, web},
};

const SERVICE_CIDRS: &str = "10.96.0.0/16,fd00:10:96::/112";
/// Addresses of the service `shop` outside of the networks of services.
const EXTERNAL: &str = "203.0.113.7";
const BALANCER: [&str; 2] = ["203.0.113.8", "2001:db8:7::8"];
/// A port that no service has.
const WRONG: u16 = 81;
/// How long an answer may take where another attempt follows.
const SOON: Duration = Duration::from_millis(300);
/// Who has heard nothing by then is not refused. The kernel tells a connection a second later, when it sends again, if the
/// refusal was so quick that `connect` was still sending.
const LATE: Duration = Duration::from_millis(2_500);

/// `web`, and `shop` on an external and two load balancer IPs. The client outside reaches all of them over node 1.
fn stage(wiring: Wiring, more: &[&str]) -> Result<Stage> {
    let stage = Stage::with(Lab::builder().wiring(wiring).build()?, more)?;
    let lab = &stage.lab;
    let shop = Manifest::new("shop", 60)
        .port(80, 8080, None)
        .endpoint(lab.pod(1, 2), "node1")
        .with(&format!("externalIPs: [{EXTERNAL}]"))
        .balancer(&BALANCER);
    stage.folder.write("shop.yaml", &shop.yaml())?;
    let node = lab.node(1);
    let (v4, v6) = (node.v4.to_string(), node.v6.to_string());
    for (net, via) in [
        ("10.96.0.0/16", &v4),
        ("203.0.113.0/24", &v4),
        ("fd00:10:96::/112", &v6),
        ("2001:db8:7::/64", &v6),
    ] {
        let route = ["route", "add", net, "via", via];
        output(lab.client().command("ip").args(route))?;
    }
    for addr in balancer(80) {
        eventually(Duration::from_secs(30), || {
            Ok(http_get_within(lab.client(), addr, SOON).map(drop)?)
        })?;
    }
    Ok(stage)
}

fn balancer(port: u16) -> [SocketAddr; 2] {
    BALANCER.map(|ip| at(ip.parse::<std::net::IpAddr>().expect("an address"), port))
}

fn wrong_ports(wiring: Wiring) -> Result<()> {
    let stage = stage(wiring, &[])?;
    let lab = &stage.lab;
    let mut connections = Vec::new();
    for addr in web() {
        let wrong = SocketAddr::new(addr.ip(), WRONG);
        for host in [lab.pod(1, 1), lab.node(1), lab.client()] {
            http_get(host, addr).with_context(|| format!("{} to {addr}", host.name))?;
            udp_ask(host, addr, true).with_context(|| format!("{} to {addr}", host.name))?;
            connections.push((host, wrong, true));
        }
        for host in [lab.pod(1, 1), lab.client()] {
            is_refused(udp_ask(host, wrong, true)).with_context(|| format!("UDP from {}", host.name))?;
        }
        // The node's own sockets may be connected to anything, as resolvers do, but not send there.
        is_refused(udp_ask(lab.node(1), wrong, false))?;
        lab.node(1).run(|| -> std::io::Result<()> {
            let any = if wrong.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            std::net::UdpSocket::bind(any)?.connect(wrong)
        })??;
    }
    let external = at(EXTERNAL.parse::<std::net::IpAddr>()?, WRONG);
    for wrong in [[external].as_slice(), &balancer(WRONG)].concat() {
        is_refused(udp_ask(lab.client(), wrong, true))?;
        connections.push((lab.client(), wrong, true));
        // It may be an address of a real host, for those inside.
        connections.push((lab.pod(1, 1), wrong, false));
        connections.push((lab.node(1), wrong, false));
    }
    let told = at_once(connections, |(host, wrong, refused)| {
        let answer = if refused {
            http_get(host, wrong)
        } else {
            http_get_within(host, wrong, LATE)
        };
        ensure!(
            is_refused(answer).is_ok() == refused,
            "{} must be refused at {wrong}: {refused}",
            host.name
        );
        Ok(())
    });
    told.into_iter().collect::<Result<()>>()?;
    // Other ports of a node are those of its own processes.
    let before = counted(lab, 1, "unknown_port")?;
    let node = lab.node(1);
    for addr in [at(node.v4, NODE_PORT), at(node.v6, NODE_PORT)] {
        http_get(lab.client(), addr)?;
        is_refused(http_get(lab.client(), SocketAddr::new(addr.ip(), WRONG)))?;
    }
    ensure!(
        counted(lab, 1, "unknown_port")? == before,
        "the node itself refuses what is sent to it"
    );
    Ok(())
}

#[test]
fn unknown_ports_of_services_are_refused_with_routed_pods() {
    wrong_ports(Wiring::Routed).unwrap();
}

#[test]
fn unknown_ports_of_services_are_refused_with_bridged_pods() {
    wrong_ports(Wiring::Bridged).unwrap();
}

/// An external IP that is an address of the node leaves the node's other ports alone.
#[test]
fn an_address_of_the_node_keeps_its_other_ports() {
    own_address().unwrap();
}

fn own_address() -> Result<()> {
    let stage = stage(Wiring::Routed, &[])?;
    let lab = &stage.lab;
    let node = lab.node(1);
    let own = Manifest::new("own", 61)
        .port(88, 8080, None)
        .endpoint(lab.pod(1, 2), "node1")
        .with(&format!("externalIPs: [{}, \"{}\"]", node.v4, node.v6));
    stage.folder.write("own.yaml", &own.yaml())?;
    let _server = lb_testkit::Server::start(node, 8_181)?;
    for ip in [std::net::IpAddr::from(node.v4), node.v6.into()] {
        eventually(Duration::from_secs(10), || {
            Ok(http_get(lab.client(), at(ip, 88)).map(drop)?)
        })?;
        let answer = http_get(lab.client(), at(ip, 8_181))?;
        ensure!(answer.server == node.name, "{} answered", answer.server);
    }
    Ok(())
}

fn unallocated(wiring: Wiring) -> Result<()> {
    let stage = stage(wiring, &["--service-cidr", SERVICE_CIDRS])?;
    let lab = &stage.lab;
    let (mut wrong_ports, mut dropped) = (Vec::new(), Vec::new());
    for (nobodys, addr) in ["10.96.200.1", "fd00:10:96::f001"].into_iter().zip(web()) {
        let nobodys = at(nobodys.parse::<std::net::IpAddr>()?, 80);
        for host in [lab.pod(1, 1), lab.client()] {
            http_get(host, addr).with_context(|| format!("{} to {addr}", host.name))?;
            wrong_ports.push((host, SocketAddr::new(addr.ip(), WRONG)));
            dropped.push((host, nobodys));
        }
        is_refused(http_get(lab.node(1), nobodys))?;
    }
    let told = at_once(wrong_ports, |(host, addr)| is_refused(http_get(host, addr)));
    told.into_iter().collect::<Result<()>>()?;
    are_dropped(lab, &dropped)?;
    // Addresses of services outside of these networks are served as ever.
    for addr in balancer(80) {
        http_get(lab.client(), addr)?;
    }
    Ok(())
}

#[test]
fn addresses_of_no_service_are_dropped_with_routed_pods() {
    unallocated(Wiring::Routed).unwrap();
}

#[test]
fn addresses_of_no_service_are_dropped_with_bridged_pods() {
    unallocated(Wiring::Bridged).unwrap();
}

fn are_dropped(lab: &Lab, asked: &[(&Host, SocketAddr)]) -> Result<()> {
    const REASON: &str = "unallocated_address";
    let before = counted(lab, 1, REASON)?;
    let told = at_once(asked, |(host, addr)| {
        let Err(error) = http_get_within(host, *addr, LATE) else {
            bail!("{} reached {addr}", host.name);
        };
        let error = format!("{:#}", anyhow::Error::from(error));
        ensure!(!error.contains("refused"), "{} to {addr}: {error}", host.name);
        Ok(())
    });
    told.into_iter().collect::<Result<()>>()?;
    let dropped = counted(lab, 1, REASON)? - before;
    ensure!(
        dropped >= asked.len() as u64,
        "of {} connections {dropped} packets were dropped",
        asked.len()
    );
    Ok(())
}

fn is_refused<T: std::fmt::Debug>(answer: lb_testkit::Result<T>) -> Result<()> {
    let error = anyhow::Error::from(match answer {
        Ok(answer) => bail!("{answer:?} instead of a refusal"),
        Err(error) => error,
    });
    let text = format!("{error:#}");
    ensure!(text.contains("refused"), "{text}");
    Ok(())
}
