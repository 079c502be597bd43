//! One source port for a service and for its endpoint by the endpoint's own address: both work at once, whichever is
//! first. Real packets through real kernel programs, in both wirings.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Host, Wiring, http_get};
use lb_tests::{
    agent::eventually,
    manifests::Manifest,
    stage::{Stage, address, at},
};
use rustix::{
    fd::OwnedFd,
    net::{AddressFamily, SocketType, bind, connect, socket, sockopt},
};

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// A socket on that port, which others may have as well towards somebody else.
fn socket_at(host: &Host, kind: SocketType, port: u16, to: SocketAddr) -> Result<OwnedFd> {
    let from = at(address(host, to), port);
    host.run(|| -> Result<OwnedFd> {
        let family = if to.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let socket = socket(family, kind, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &from)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        connect(&socket, &to).with_context(|| format!("connect from {from} to {to}"))?;
        Ok(socket)
    })?
}

/// A conversation that goes on.
enum Talk {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Talk {
    /// Asks for something that no other conversation asks for, and compares. Returns the client's port as the server
    /// saw it.
    fn ask(&mut self, server: &str) -> Result<u16> {
        let mut buffer = [0; 512];
        let len = match self {
            Self::Tcp(stream) => {
                stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
                stream.read(&mut buffer)
            }
            Self::Udp(socket) => {
                socket.send(b"ask")?;
                socket.recv(&mut buffer)
            }
        };
        let text = String::from_utf8_lossy(&buffer[..len.context("no answer")?]).into_owned();
        let client = text
            .lines()
            .find_map(|line| line.strip_prefix(server)?.trim().parse::<SocketAddr>().ok());
        Ok(client.with_context(|| format!("{server} said {text:?}"))?.port())
    }
}

/// Opens one conversation after the other from one port, and asks in turns.
fn both(client: &Host, server: &str, port: u16, to: [SocketAddr; 2]) -> Result<()> {
    for kind in [SocketType::STREAM, SocketType::DGRAM] {
        let mut talks = Vec::new();
        for addr in to {
            let socket = socket_at(client, kind, port, addr)?;
            let mut talk = match kind {
                SocketType::STREAM => Talk::Tcp(TcpStream::from(socket)),
                _ => Talk::Udp(UdpSocket::from(socket)),
            };
            talk.ask(server)
                .with_context(|| format!("{addr} from port {port}"))?;
            talks.push(talk);
        }
        for _ in 0..3 {
            let mut ports = Vec::new();
            for (talk, addr) in talks.iter_mut().zip(to) {
                let seen = talk
                    .ask(server)
                    .with_context(|| format!("{addr} from port {port}, beside the other"))?;
                ports.push(seen);
            }
            ensure!(ports[0] == port, "the first keeps its port: {ports:?}");
            ensure!(ports[1] != port, "the second gets another: {ports:?}");
        }
    }
    Ok(())
}

fn one_port_for_a_service_and_its_endpoint(wiring: Wiring) -> Result<()> {
    let stage = Stage::new(wiring)?;
    let lab = &stage.lab;
    let client = lab.pod(1, 1);
    let mut port = 5_600;
    for (number, pod, node) in [(30, lab.pod(1, 2), "node1"), (31, lab.pod(2, 1), "node2")] {
        let name = format!("extra{number}");
        let manifest = Manifest::new(&name, number)
            .port(80, 8080, None)
            .endpoint(pod, node);
        stage.folder.write(&format!("{name}.yaml"), &manifest.yaml())?;
        for text in [format!("10.96.0.{number}"), format!("fd00:10:96::{number:x}")] {
            let service = at(text.parse::<IpAddr>()?, 80);
            let endpoint = at(address(pod, service), 8080);
            eventually(PATIENCE, || Ok(http_get(client, service).map(drop)?))?;
            for order in [[service, endpoint], [endpoint, service]] {
                port += 1;
                both(client, &pod.name, port, order)
                    .with_context(|| format!("{wiring:?}, first {}, then {}", order[0], order[1]))?;
            }
        }
    }
    Ok(())
}

#[test]
fn one_port_of_a_routed_pod_serves_a_service_and_its_endpoint_at_once() {
    one_port_for_a_service_and_its_endpoint(Wiring::Routed).unwrap();
}

#[test]
fn one_port_of_a_bridged_pod_serves_a_service_and_its_endpoint_at_once() {
    one_port_for_a_service_and_its_endpoint(Wiring::Bridged).unwrap();
}

/// A client outside asks a NodePort of the endpoint's node and, by the routes of the network, the endpoint.
#[test]
fn one_port_outside_serves_a_node_port_and_its_endpoint_at_once() {
    from_outside().unwrap();
}

fn from_outside() -> Result<()> {
    let stage = Stage::new(Wiring::Routed)?;
    let lab = &stage.lab;
    let (pod, node) = (lab.pod(1, 2), lab.node(1));
    let manifest = Manifest::new("near", 30)
        .port(80, 8080, Some(31_700))
        .endpoint(pod, "node1");
    stage.folder.write("near.yaml", &manifest.yaml())?;
    for (family, to, over) in [
        ("-4", pod.v4.to_string(), node.v4.to_string()),
        ("-6", pod.v6.to_string(), node.v6.to_string()),
    ] {
        let mut route = lab.client().command("ip");
        route.args([family, "route", "add", &to, "via", &over]);
        ensure!(route.status()?.success(), "a route to {to} over {over}");
    }
    let mut port = 5_700;
    for service in [at(node.v4, 31_700), at(node.v6, 31_700)] {
        let endpoint = at(address(pod, service), 8080);
        eventually(PATIENCE, || Ok(http_get(lab.client(), service).map(drop)?))?;
        eventually(PATIENCE, || Ok(http_get(lab.client(), endpoint).map(drop)?))?;
        for order in [[service, endpoint], [endpoint, service]] {
            port += 1;
            both(lab.client(), &pod.name, port, order)
                .with_context(|| format!("first {}, then {}", order[0], order[1]))?;
        }
    }
    Ok(())
}
