//! SCTP services with endpoints on this node and on another one. The kernel may have no SCTP, so both ends are raw sockets that
//! send one packet each and check the checksum of what they get, as an SCTP stack would.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{
    Host, Wiring,
    packet::{chunk, crc32c},
};
use lb_tests::{
    agent::eventually,
    manifests::Manifest,
    raw::raw_socket,
    stage::{Stage, address, at},
};
use rustix::net::ipproto;

/// Where the endpoints listen.
const TARGET: u16 = 38_412;
const NODE_PORT: u16 = 31_640;
/// The port that clients send from.
const CLIENT_PORT: u16 = 45_000;
const PATIENCE: Duration = Duration::from_secs(20);

/// A raw socket whose patience is short.
fn sctp_socket(host: &Host, v4: bool) -> Result<UdpSocket> {
    let socket = raw_socket(host, v4, ipproto::SCTP)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    Ok(socket)
}

/// An SCTP packet of one chunk.
fn packet(from: u16, to: u16, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(from.to_be_bytes());
    bytes.extend(to.to_be_bytes());
    bytes.extend([1, 2, 3, 4, 0, 0, 0, 0, kind, 0]);
    bytes.extend(((4 + payload.len()) as u16).to_be_bytes());
    bytes.extend(payload);
    let sum = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// A packet that came in.
struct Received {
    from: SocketAddr,
    to_port: u16,
    kind: u8,
    payload: Vec<u8>,
    sound: bool,
}

fn receive(socket: &UdpSocket, v4: bool) -> Result<Received> {
    let mut buffer = vec![0; 65_536];
    let (len, from) = socket.recv_from(&mut buffer)?;
    // An IPv4 raw socket gets the IP header too.
    let begin = if v4 { usize::from(buffer[0] & 0x0f) * 4 } else { 0 };
    let mut bytes = buffer[begin..len].to_vec();
    ensure!(bytes.len() >= 16, "an SCTP packet of {} bytes", bytes.len());
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let (from, to_port, kind) = (SocketAddr::new(from.ip(), port(0)), port(2), bytes[12]);
    let sum: Vec<u8> = bytes.splice(8..12, [0; 4]).collect();
    Ok(Received {
        from,
        to_port,
        kind,
        payload: bytes[16..].to_vec(),
        sound: sum == crc32c(&bytes).to_le_bytes(),
    })
}

/// Answers INIT with INIT ACK, which says who it is, whom it talks to, and whether the packet was sound.
struct Endpoint {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Endpoint {
    fn start(host: &Host) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for v4 in [true, false] {
            let socket = sctp_socket(host, v4)?;
            let (stop, name) = (stop.clone(), host.name.clone());
            threads.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // Nothing came, or something too short.
                    let Ok(got) = receive(&socket, v4) else { continue };
                    let words = format!("{name} {} {}", got.from, got.sound);
                    let answer = packet(got.to_port, got.from.port(), chunk::INIT_ACK, words.as_bytes());
                    let _ = socket.send_to(&answer, at(got.from.ip(), 0));
                }
            }));
        }
        Ok(Self { stop, threads })
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Asks once; `payload` makes packets of many lengths. Returns the source that the endpoint saw.
fn ask(client: &Host, addr: SocketAddr, payload: &[u8], endpoint: &Host) -> Result<SocketAddr> {
    let socket = sctp_socket(client, addr.is_ipv4())?;
    let init = packet(CLIENT_PORT, addr.port(), chunk::INIT, payload);
    socket.send_to(&init, at(addr.ip(), 0))?;
    let got = receive(&socket, addr.is_ipv4()).context("no answer")?;
    ensure!(got.kind == chunk::INIT_ACK, "a chunk of type {}", got.kind);
    ensure!(got.sound, "the answer's checksum is wrong");
    ensure!(got.from == addr, "the answer came from {}", got.from);
    ensure!(
        got.to_port == CLIENT_PORT,
        "the answer went to port {}",
        got.to_port
    );
    let text = String::from_utf8(got.payload)?;
    let words: Vec<&str> = text.split(' ').collect();
    ensure!(words.len() == 3, "the answer is {text:?}");
    ensure!(words[0] == endpoint.name, "{} answered", words[0]);
    ensure!(words[2] == "true", "the checksum was wrong at the endpoint");
    Ok(words[1].parse()?)
}

fn associations(wiring: Wiring) -> Result<()> {
    let stage = Stage::new(wiring)?;
    let lab = &stage.lab;
    let places = [(lab.pod(1, 2), "node1", 30), (lab.pod(2, 1), "node2", 31)];
    let _endpoints = [Endpoint::start(places[0].0)?, Endpoint::start(places[1].0)?];
    for (pod, node, number) in places {
        let name = format!("sctp{number}");
        // A port of its own, the endpoint's port, and a node port.
        let manifest = Manifest::new(&name, number)
            .sctp(132, TARGET, Some(NODE_PORT + number))
            .sctp(TARGET, TARGET, Some(NODE_PORT + 50 + number))
            .endpoint(pod, node);
        stage.folder.write(&format!("{name}.yaml"), &manifest.yaml())?;
    }
    for (pod, node, number) in places {
        let cluster: [IpAddr; 2] = [
            format!("10.96.0.{number}").parse()?,
            format!("fd00:10:96::{number:x}").parse()?,
        ];
        for ip in cluster {
            for (port, len) in [(132, 0), (132, 61), (TARGET, 100), (132, 1_200)] {
                let payload = vec![0x5a; len];
                let seen = asked(lab.pod(1, 1), at(ip, port), &payload, pod)?;
                ensure!(
                    seen.ip() == address(lab.pod(1, 1), seen),
                    "the endpoint must see the pod, not {seen}"
                );
            }
        }
        for addr in [
            at(lab.node(1).v4, NODE_PORT + number),
            at(lab.node(1).v6, NODE_PORT + number),
        ] {
            for len in [0, 3, 1_200] {
                let seen = asked(lab.client(), addr, &vec![0xa5; len], pod)?;
                let source = if node == "node1" {
                    lab.client()
                } else {
                    lab.node(1)
                };
                ensure!(
                    seen.ip() == address(source, seen),
                    "the endpoint must see {}, not {seen}",
                    source.name
                );
                // Clients' ports above the range for SNAT are not kept.
                ensure!(
                    (seen.port() == CLIENT_PORT) == (node == "node1"),
                    "the endpoint saw {seen}"
                );
            }
        }
    }
    Ok(())
}

/// Asks until the service is there; nothing else is tried again.
fn asked(client: &Host, addr: SocketAddr, payload: &[u8], endpoint: &Host) -> Result<SocketAddr> {
    let mut seen = at(addr.ip(), 0);
    eventually(PATIENCE, || {
        seen = ask(client, addr, payload, endpoint)?;
        Ok(())
    })
    .with_context(|| format!("{} bytes from {} to {addr}", payload.len(), client.name))?;
    Ok(seen)
}

#[test]
fn sctp_reaches_routed_pods_with_right_checksums() {
    associations(Wiring::Routed).unwrap();
}

#[test]
fn sctp_reaches_bridged_pods_with_right_checksums() {
    associations(Wiring::Bridged).unwrap();
}
