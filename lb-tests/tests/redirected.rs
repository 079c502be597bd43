//! Flows whose endpoint sees another source than the client: from outside to another node, from a pod to itself, and from
//! ports that are taken. Real packets through real kernel programs, in both wirings.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Capture, Direction, Host, Server, Wiring, http_get, transfer};
use lb_tests::{
    agent::eventually,
    manifests::Manifest,
    stage::{NODE_PORT, Stage, address, ask_all, at},
};
use rustix::{
    fd::OwnedFd,
    net::{AddressFamily, SocketType, bind, connect, socket, sockopt},
};

/// Each node has one of the two endpoints, so that every node has to pass on half of what it is asked.
fn outside_to_node_ports(wiring: Wiring) -> Result<()> {
    let stage = Stage::new(wiring)?;
    let lab = &stage.lab;
    let servers = [lab.pod(1, 2), lab.pod(2, 1)];
    for (node, local) in [(lab.node(1), &servers[0].name), (lab.node(2), &servers[1].name)] {
        for addr in [at(node.v4, NODE_PORT), at(node.v6, NODE_PORT)] {
            let capture = Capture::start(lab.client(), "eth0")?;
            ask_all(lab.client(), addr, &servers, |answer| {
                let source = if answer.server == *local {
                    lab.client()
                } else {
                    node
                };
                ensure!(
                    answer.client.ip() == address(source, addr),
                    "the endpoint's client must be {}",
                    source.name
                );
                ensure!(
                    answer.peer == addr,
                    "the answer must come from the node that was asked"
                );
                Ok(())
            })?;
            for packet in capture.stop()? {
                ensure!(
                    [packet.src, packet.dst].contains(&addr),
                    "on the client's wire: {packet:?}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn outside_reaches_endpoints_of_routed_pods_through_every_node() {
    outside_to_node_ports(Wiring::Routed).unwrap();
}

#[test]
fn outside_reaches_endpoints_of_bridged_pods_through_every_node() {
    outside_to_node_ports(Wiring::Bridged).unwrap();
}

/// A pod asks the other node, which may have to send it back to where it came from.
fn pods_to_other_nodes(wiring: Wiring) -> Result<()> {
    let stage = Stage::new(wiring)?;
    let lab = &stage.lab;
    let servers = [lab.pod(1, 2), lab.pod(2, 1)];
    for (client, node) in [(lab.pod(1, 1), lab.node(2)), (lab.pod(2, 2), lab.node(1))] {
        for addr in [at(node.v4, NODE_PORT), at(node.v6, NODE_PORT)] {
            ask_all(client, addr, &servers, |answer| {
                ensure!(
                    answer.peer == addr,
                    "the answer must come from the node that was asked"
                );
                Ok(())
            })?;
        }
    }
    Ok(())
}

#[test]
fn routed_pods_reach_node_ports_of_other_nodes() {
    pods_to_other_nodes(Wiring::Routed).unwrap();
}

#[test]
fn bridged_pods_reach_node_ports_of_other_nodes() {
    pods_to_other_nodes(Wiring::Bridged).unwrap();
}

/// Services of number `number` and `number + 1`, both with just that endpoint.
fn two_services(stage: &Stage, number: u16, pod: &Host, node: &str) -> Result<[[SocketAddr; 2]; 2]> {
    let services = [number, number + 1];
    for number in services {
        let name = format!("extra{number}");
        let manifest = Manifest::new(&name, number)
            .port(80, 8080, None)
            .endpoint(pod, node);
        stage.folder.write(&format!("{name}.yaml"), &manifest.yaml())?;
    }
    let addresses = services.map(|number| {
        [format!("10.96.0.{number}"), format!("fd00:10:96::{number:x}")]
            .map(|text| at(text.parse::<IpAddr>().expect("an address"), 80))
    });
    let client = stage.lab.pod(1, 1);
    for addr in addresses.as_flattened() {
        eventually(Duration::from_secs(5), || Ok(http_get(client, *addr).map(drop)?))?;
    }
    Ok(addresses)
}

fn hairpin(wiring: Wiring) -> Result<()> {
    let stage = Stage::new(wiring)?;
    let lab = &stage.lab;
    let itself = lab.pod(1, 2);
    let [addresses, _] = two_services(&stage, 30, itself, "node1")?;
    for addr in addresses {
        ask_all(itself, addr, &[itself], |answer| {
            ensure!(
                answer.client.ip() != address(itself, addr),
                "its own address cannot answer"
            );
            ensure!(
                answer.peer == addr,
                "the answer must come from the service's address"
            );
            Ok(())
        })?;
    }
    // And through a service that has other endpoints as well.
    for addr in lb_tests::stage::web() {
        ask_all(itself, addr, &[itself, lab.pod(2, 1)], |_| Ok(()))?;
    }
    Ok(())
}

#[test]
fn a_routed_pod_reaches_itself_through_its_service() {
    hairpin(Wiring::Routed).unwrap();
}

#[test]
fn a_bridged_pod_reaches_itself_through_its_service() {
    hairpin(Wiring::Bridged).unwrap();
}

/// A connection from that port, which others may use as well towards somebody else.
fn connect_from(host: &Host, port: u16, to: SocketAddr) -> Result<TcpStream> {
    let from = at(address(host, to), port);
    let socket: OwnedFd = host.run(|| -> Result<OwnedFd> {
        let family = if to.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let socket = socket(family, SocketType::STREAM, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &from)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(Duration::from_secs(5)))?;
        connect(&socket, &to).with_context(|| format!("connect from {from} to {to}"))?;
        Ok(socket)
    })??;
    Ok(TcpStream::from(socket))
}

/// Asks on an open connection, which stays open.
fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut buffer = [0; 512];
    let len = stream.read(&mut buffer).context("no answer")?;
    let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
    ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
    Ok(())
}

/// One client, one source port, two services on one endpoint: both connections work at once.
fn colliding_tuples(wiring: Wiring) -> Result<()> {
    let stage = Stage::new(wiring)?;
    let lab = &stage.lab;
    for (number, pod, node) in [(30, lab.pod(1, 2), "node1"), (40, lab.pod(2, 1), "node2")] {
        let [first, second] = two_services(&stage, number, pod, node)?;
        for (first, second) in first.into_iter().zip(second) {
            let mut streams = Vec::new();
            for addr in [first, second] {
                streams.push(connect_from(lab.pod(1, 1), 5_555, addr)?);
            }
            for _ in 0..3 {
                for stream in &mut streams {
                    ask(stream).with_context(|| format!("{first} and {second} from one port"))?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn routed_pods_use_one_port_for_two_services_on_one_endpoint() {
    colliding_tuples(Wiring::Routed).unwrap();
}

#[test]
fn bridged_pods_use_one_port_for_two_services_on_one_endpoint() {
    colliding_tuples(Wiring::Bridged).unwrap();
}

#[test]
fn large_transfers_from_outside_pass_intact_over_another_node() {
    large_transfers().unwrap();
}

fn large_transfers() -> Result<()> {
    const BYTES: usize = 20_000_000;
    let stage = Stage::new(Wiring::Routed)?;
    let lab = &stage.lab;
    let server = lab.pod(2, 2);
    let bulk = Manifest::new("bulk", 20)
        .port(9000, 9001, Some(31_600))
        .endpoint(server, "node2");
    stage.folder.write("bulk.yaml", &bulk.yaml())?;
    let node = lab.node(1);
    for addr in [at(node.v4, 31_600), at(node.v6, 31_600)] {
        {
            let _listening = Server::start(server, 9001)?;
            eventually(Duration::from_secs(5), || {
                Ok(http_get(lab.client(), addr).map(drop)?)
            })?;
        }
        for direction in [Direction::Up, Direction::Down] {
            transfer(lab.client(), addr, server, 9001, BYTES, direction)
                .with_context(|| format!("{direction:?} by {addr}"))?;
        }
    }
    Ok(())
}

/// A connection from outside over another node goes on while the agent dies and starts again.
#[test]
fn flows_over_another_node_outlive_the_agent() {
    outlive().unwrap();
}

fn outlive() -> Result<()> {
    let mut stage = Stage::new(Wiring::Routed)?;
    let remote = Manifest::new("far", 21)
        .port(80, 8080, Some(31_601))
        .endpoint(stage.lab.pod(2, 1), "node2");
    stage.folder.write("far.yaml", &remote.yaml())?;
    let addr = at(stage.lab.node(1).v4, 31_601);
    eventually(Duration::from_secs(5), || {
        Ok(http_get(stage.lab.client(), addr).map(drop)?)
    })?;
    let mut stream = connect_from(stage.lab.client(), 5_556, addr)?;
    ask(&mut stream)?;
    let process = stage.agents[0].process();
    process.signal(rustix::process::Signal::KILL)?;
    process.wait(Duration::from_secs(5))?;
    ask(&mut stream).context("without an agent")?;
    stage.agents[0] = lb_tests::agent::Agent::start(&stage.lab, 1, stage.folder.path())?;
    ask(&mut stream).context("with a new agent")?;
    Ok(())
}
