//! Packets, bytes and connections of Services, as `/metrics` tells them, beside what the clients' wires have carried.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_common::abi::Meter;
use lb_testkit::{Capture, Direction, Host, Lab, Server, Wiring, http_get, transfer, udp_ask};
use lb_tests::{
    agent::{Agent, eventually},
    http,
    manifests::Manifest,
    stage::{Stage, address, at},
};

/// The agent reads its maps every ten seconds at most.
const PATIENCE: Duration = Duration::from_secs(60);
/// The last packets of a connection are on their way.
const LAST_PACKETS: Duration = Duration::from_millis(500);
/// NodePorts of `from-outside` and `elsewhere`.
const NODE_PORTS: [u16; 2] = [31_551, 31_552];

/// By service, and TCP or UDP.
type Counted = BTreeMap<(String, &'static str), Meter>;

fn manifests(lab: &Lab) -> [Manifest; 4] {
    let service = |name, number, node_port| Manifest::new(name, number).port(80, 8080, node_port);
    let near = |manifest: Manifest| manifest.endpoint(lab.pod(1, 2), "node1");
    [
        near(service("from-pod", 50, None)),
        near(service("from-outside", 51, Some(NODE_PORTS[0]))),
        service("elsewhere", 52, Some(NODE_PORTS[1])).endpoint(lab.pod(2, 1), "node2"),
        near(service("from-node", 53, None)),
    ]
}

fn cluster_ips(number: u8) -> [SocketAddr; 2] {
    [format!("10.96.0.{number}"), format!("fd00:10:96::{number:x}")]
        .map(|text| at(text.parse::<IpAddr>().expect("an address"), 80))
}

/// Asks a service by TCP and UDP of both families, and adds what the client's wire has carried.
fn ask(client: &Host, name: &str, addrs: [SocketAddr; 2], counted: &mut Counted) -> Result<()> {
    let capture = Capture::start(client, "eth0")?;
    for addr in addrs {
        http_get(client, addr)?;
        udp_ask(client, addr, false)?;
    }
    thread::sleep(LAST_PACKETS);
    for packet in capture.stop()? {
        let mut ends = addrs.iter().map(|addr| (address(client, *addr), *addr));
        let requested = ends
            .clone()
            .any(|(own, addr)| packet.src.ip() == own && packet.dst == addr);
        let replied = ends.any(|(own, addr)| packet.dst.ip() == own && packet.src == addr);
        ensure!(requested != replied, "on the client's wire: {packet:?}");
        let protocol = if packet.tcp_flags.is_some() { "tcp" } else { "udp" };
        let meter = counted.entry((name.to_owned(), protocol)).or_default();
        let way = meter.way(replied);
        way.packets += 1;
        way.bytes += u64::from(packet.len);
        meter.connections += u64::from(packet.is_syn() || requested && protocol == "udp");
    }
    Ok(())
}

/// The same from a process of the node, whose packets go to the endpoint itself.
fn ask_by_socket(node: &Host, name: &str, addrs: [SocketAddr; 2], counted: &mut Counted) -> Result<()> {
    for addr in addrs {
        http_get(node, addr)?;
        udp_ask(node, addr, false)?;
        udp_ask(node, addr, true)?;
    }
    for (protocol, connections) in [("tcp", 2), ("udp", 4)] {
        let meter = counted.entry((name.to_owned(), protocol)).or_default();
        meter.connections += connections;
    }
    Ok(())
}

/// All ways to ask.
fn ask_all(stage: &Stage, counted: &mut Counted) -> Result<()> {
    let (lab, node) = (&stage.lab, stage.lab.node(1));
    ask(lab.pod(1, 1), "from-pod", cluster_ips(50), counted)?;
    for (name, port) in ["from-outside", "elsewhere"].into_iter().zip(NODE_PORTS) {
        let addrs = [at(node.v4, port), at(node.v6, port)];
        ask(lab.client(), name, addrs, counted).context(name)?;
    }
    ask_by_socket(node, "from-node", cluster_ips(53), counted)
}

/// What the agent of a node says.
fn told(lab: &Lab, node: usize) -> Result<BTreeMap<String, u64>> {
    let addr = at([127, 0, 0, 1], 10_249);
    let text = http::get(lab.node(node), addr, "/metrics")?.body;
    let samples = text.lines().filter(|line| line.starts_with("fairlead_service_"));
    samples
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').context("a sample")?;
            Ok((series.to_owned(), value.parse()?))
        })
        .collect()
}

/// The samples of these services.
fn samples(counted: &Counted) -> BTreeMap<String, u64> {
    let mut samples = BTreeMap::new();
    for ((name, protocol), meter) in counted {
        let labels = format!(r#"namespace="default",service="{name}",port="p80-{protocol}""#);
        for (direction, way) in [("request", meter.requests), ("reply", meter.replies)] {
            for (what, value) in [("packets", way.packets), ("bytes", way.bytes)] {
                let series = format!(r#"fairlead_service_{what}_total{{{labels},direction="{direction}"}}"#);
                samples.insert(series, value);
            }
        }
        let series = format!("fairlead_service_connections_total{{{labels}}}");
        samples.insert(series, meter.connections);
    }
    samples
}

/// Waits until the agent of node 1 says just that of these services.
fn says(stage: &Stage, counted: &Counted) -> Result<()> {
    let expected = samples(counted);
    eventually(PATIENCE, || {
        let told = told(&stage.lab, 1)?;
        for (series, value) in &expected {
            let said = told.get(series);
            ensure!(said == Some(value), "{series} is {said:?} instead of {value}");
        }
        Ok(())
    })
    .map(drop)
}

fn restart(stage: &mut Stage, more: &[&str]) -> Result<()> {
    stage.agents[0].stop()?;
    stage.agents[0] = Agent::start_with(&stage.lab, 1, stage.folder.path(), more)?;
    Ok(())
}

#[test]
fn services_are_told_what_their_clients_wires_have_carried() {
    count().unwrap();
}

fn count() -> Result<()> {
    let mut stage = Stage::new(Wiring::Routed)?;
    let manifests = manifests(&stage.lab);
    let yaml: Vec<String> = manifests.iter().map(Manifest::yaml).collect();
    stage.folder.write("counted.yaml", &yaml.join("---\n"))?;
    eventually(PATIENCE, || {
        Ok(http_get(stage.lab.node(1), cluster_ips(53)[1]).map(drop)?)
    })?;
    // That attempt, and those before it that found nothing, are counted too.
    let mut counted = Counted::new();
    counted.insert(("from-node".to_owned(), "tcp"), one_connection());
    for name in ["from-pod", "from-outside", "elsewhere", "from-node"] {
        for protocol in ["tcp", "udp"] {
            counted.entry((name.to_owned(), protocol)).or_default();
        }
    }
    says(&stage, &counted).context("before")?;
    ask_all(&stage, &mut counted)?;
    says(&stage, &counted)?;
    let translated = told(&stage.lab, 2)?;
    let here = translated
        .iter()
        .filter(|(series, value)| **value != 0 && series.contains("service=\"elsewhere\""));
    ensure!(here.count() == 0, "another node translated: {translated:?}");

    restart(&mut stage, &[])?;
    says(&stage, &counted).context("after a restart")?;
    ask_all(&stage, &mut counted)?;
    says(&stage, &counted).context("counting on after a restart")?;

    made_again(&stage, &yaml, &mut counted)?;
    limits(&mut stage)
}

fn one_connection() -> Meter {
    Meter {
        connections: 1,
        ..Meter::default()
    }
}

/// A Service that is removed is told of no more, and begins at zero when it is made again.
fn made_again(stage: &Stage, yaml: &[String], counted: &mut Counted) -> Result<()> {
    stage.folder.write("counted.yaml", &yaml[1..].join("---\n"))?;
    eventually(PATIENCE, || {
        let told = told(&stage.lab, 1)?;
        ensure!(!told.keys().any(|series| series.contains("from-pod")), "{told:?}");
        Ok(())
    })?;
    stage.folder.write("counted.yaml", &yaml.join("---\n"))?;
    counted.retain(|(name, _), _| name != "from-pod");
    for protocol in ["tcp", "udp"] {
        counted.insert(("from-pod".to_owned(), protocol), Meter::default());
    }
    says(stage, counted).context("made again")?;
    ask(stage.lab.pod(1, 1), "from-pod", cluster_ips(50), counted)?;
    says(stage, counted).context("made again and asked")
}

/// With room for some, the others are left out; and nothing is told where nothing is counted.
fn limits(stage: &mut Stage) -> Result<()> {
    restart(stage, &["--metrics-max-services", "4"])?;
    let some = told(&stage.lab, 1)?;
    let packets = some.keys().filter(|series| series.contains("packets"));
    ensure!((4..=8).contains(&packets.count()), "{some:?}");
    // Seven services with two ports in two families.
    ensure!(
        some.get("fairlead_service_ports_left_out") == Some(&24),
        "{some:?}"
    );
    http_get(stage.lab.pod(1, 1), cluster_ips(50)[0])?;
    restart(stage, &["--service-stats=false"])?;
    let nothing = told(&stage.lab, 1)?;
    ensure!(nothing.is_empty(), "{nothing:?}");
    http_get(stage.lab.pod(1, 1), cluster_ips(50)[0])?;
    Ok(())
}

/// How much is sent at once.
const BULK: u64 = 8 << 20;
/// IP and TCP header without options.
const HEADERS: u64 = 40;
/// The largest packet on the wires of the lab.
const MTU: u64 = 1_500;

/// The stack hands many segments on as one packet; counted is what a wire would carry.
#[test]
fn bundles_of_segments_are_counted_as_packets_of_the_wire() {
    bundles().unwrap();
}

fn bundles() -> Result<()> {
    let stage = Stage::new(Wiring::Routed)?;
    let (client, server) = (stage.lab.pod(1, 1), stage.lab.pod(1, 3));
    let bulk = Manifest::new("bulk", 54)
        .port(9_000, 9_001, None)
        .endpoint(server, "node1");
    stage.folder.write("bulk.yaml", &bulk.yaml())?;
    let addr = at(IpAddr::from([10, 96, 0, 54]), 9_000);
    {
        let _listening = Server::start(server, 9_001)?;
        eventually(PATIENCE, || Ok(http_get(client, addr).map(drop)?))?;
    }
    transfer(client, addr, server, 9_001, BULK as usize, Direction::Up)?;
    let labels = r#"{namespace="default",service="bulk",port="p9000-tcp",direction="request"}"#;
    eventually(PATIENCE, || {
        let told = told(&stage.lab, 1)?;
        let of = |what| {
            told.get(&format!("fairlead_service_{what}_total{labels}"))
                .copied()
        };
        let (packets, bytes) = of("packets").zip(of("bytes")).context("no such series")?;
        let what = format!("{packets} packets of {bytes} bytes");
        ensure!(bytes >= BULK + HEADERS * packets, "too few bytes: {what}");
        ensure!(bytes <= BULK * 5 / 4, "too many bytes: {what}");
        ensure!(
            bytes <= MTU * packets,
            "packets are larger than the wire's: {what}"
        );
        Ok(())
    })
    .map(drop)
}
