//! ICMP errors about packets of services: who hears them, what they quote, and who says it; in both directions, from real
//! stacks, and by hand where the flow is forgotten before the error comes.

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_testkit::{
    Ears, Host, Lab, Wiring,
    icmp::{self, KINDS, KINDS_V6, Kind},
    output, packet, udp_ask,
};
use lb_tests::{
    agent::{counted, eventually},
    flow_tables::evict_all,
    manifests::Manifest,
    stage::{Stage, address, at},
};
use rustix::{
    fd::OwnedFd,
    net::{AddressFamily, SendFlags, SocketType, connect, ipproto, send, socket, sockopt},
};

const PATIENCE: Duration = Duration::from_secs(20);
/// How long an error may take. Whoever hears none by then tries again: routers limit what they say.
const SOON: Duration = Duration::from_millis(300);
/// Where the endpoints' sockets are, if they have one.
const TARGET: u16 = 9_002;
/// NodePorts of services with an endpoint on node 1 and on node 2, and their numbers in the cluster IPs.
const NEAR_PORT: u16 = 31_620;
const FAR_PORT: u16 = 31_621;
const NEAR: u16 = 35;
const FAR: u16 = 36;
/// A service with three endpoints, on both nodes.
const MANY: u16 = 37;

/// The kinds of errors, as places in the lists of the testkit.
const PORT_UNREACHABLE: usize = 0;
const TOO_BIG: usize = 2;
const TIME_EXCEEDED: usize = 3;

fn kind(nth: usize, like: SocketAddr) -> Kind {
    if like.is_ipv4() { KINDS[nth] } else { KINDS_V6[nth] }
}

fn cluster_ips(number: u16) -> [SocketAddr; 2] {
    [format!("10.96.0.{number}"), format!("fd00:10:96::{number:x}")]
        .map(|text| at(text.parse::<IpAddr>().expect("an address"), 80))
}

fn node_ports(node: &Host, port: u16) -> [SocketAddr; 2] {
    [at(node.v4, port), at(node.v6, port)]
}

/// `near`, `far` and `many`, to ports where nobody listens yet.
fn build(wiring: Wiring) -> Result<Stage> {
    let stage = Stage::new(wiring)?;
    let lab = &stage.lab;
    let near = Manifest::new("near", NEAR)
        .port(80, TARGET, Some(NEAR_PORT))
        .endpoint(lab.pod(1, 2), "node1");
    let far = Manifest::new("far", FAR)
        .port(80, TARGET, Some(FAR_PORT))
        .endpoint(lab.pod(2, 1), "node2");
    let many = Manifest::new("many", MANY)
        .port(80, TARGET, None)
        .endpoint(lab.pod(1, 2), "node1")
        .endpoint(lab.pod(2, 1), "node2")
        .endpoint(lab.pod(2, 2), "node2");
    let all = [near, far, many].map(|manifest| manifest.yaml()).join("---\n");
    stage.folder.write("errors.yaml", &all)?;
    // The services are known when somebody refuses.
    for number in [NEAR, FAR, MANY] {
        for to in cluster_ips(number) {
            eventually(PATIENCE, || {
                let Err(error) = udp_ask(lab.pod(1, 1), to, true) else {
                    bail!("somebody answers at {to}");
                };
                let error = format!("{:#}", anyhow::Error::from(error));
                ensure!(error.contains("refused"), "{to}: {error}");
                Ok(())
            })?;
        }
    }
    Ok(stage)
}

/// Node 2 becomes a router on the way from node 1 to the client.
fn route_by_node_2(lab: &Lab) -> Result<()> {
    let (node, router, client) = (lab.node(1), lab.node(2), lab.client());
    router.run(|| -> Result<()> {
        for knob in ["all", "eth0"] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{knob}/send_redirects"), "0")?;
        }
        Ok(())
    })??;
    for (to, by) in [
        (client.v4.to_string(), router.v4.to_string()),
        (client.v6.to_string(), router.v6.to_string()),
    ] {
        let route = ["route", "replace", &to, "via", &by, "dev", "eth0"];
        output(node.command("ip").args(route))?;
    }
    Ok(())
}

/// A UDP socket of a host in a family, whose packets go no further than so many hops.
fn sender(host: &Host, like: SocketAddr, port: u16, hops: u8) -> Result<UdpSocket> {
    let from = at(address(host, like), port);
    let socket = host.run(|| UdpSocket::bind(from))??;
    socket.set_read_timeout(Some(SOON))?;
    if like.is_ipv4() {
        sockopt::set_ip_ttl(&socket, hops.into())?;
    } else {
        sockopt::set_ipv6_unicast_hops(&socket, Some(hops))?;
    }
    Ok(socket)
}

/// What a host is to hear.
struct Expected<'a> {
    by: &'a Host,
    kind: Kind,
    /// Who is to say it; none if any router may.
    from: Option<IpAddr>,
}

impl Expected<'_> {
    /// Lets `cause` bring an error about until it is heard; `cause` returns source and destination that its hearer knows the
    /// packet by.
    fn is_heard(&self, like: SocketAddr, mut cause: impl FnMut() -> Result<[SocketAddr; 2]>) -> Result<()> {
        let ears = Ears::open(self.by, like.is_ipv4())?;
        let (name, by) = (self.kind.name, &self.by.name);
        let mut from = None;
        eventually(PATIENCE, || {
            let quoted = cause()?;
            let mut others = Vec::new();
            while let Some(heard) = ears.hear(SOON)? {
                if heard.kind == self.kind.bytes && heard.quoted == quoted {
                    from = Some(heard.from);
                    return Ok(());
                }
                others.push(heard);
            }
            bail!("{by} waits for {name} about {quoted:?}, and hears {others:?}")
        })?;
        ensure!(
            self.from.is_none() || self.from == from,
            "{by} hears {name} from {from:?}, not from {:?}",
            self.from
        );
        Ok(())
    }
}

/// About packets of clients.
fn forward(wiring: Wiring) -> Result<()> {
    /// More hops than there are.
    const ANY: u8 = 64;
    let stage = build(wiring)?;
    let lab = &stage.lab;
    let (node, pod, client) = (lab.node(1), lab.pod(1, 1), lab.client());
    // The first hop is node 1, the second one node 2.
    for (host, addresses, ends) in [
        (pod, cluster_ips(NEAR), &[1][..]),
        (pod, cluster_ips(FAR), &[1, 2]),
        (pod, node_ports(node, FAR_PORT), &[1, 2]),
        (client, node_ports(node, NEAR_PORT), &[1]),
        (client, node_ports(node, FAR_PORT), &[1, 2]),
    ] {
        for to in addresses {
            // Nobody listens at the endpoint, whose address nobody may see.
            let refused = (ANY, PORT_UNREACHABLE, Some(to.ip()));
            let ended = ends.iter().map(|hops| (*hops, TIME_EXCEEDED, None));
            for (hops, nth, from) in ended.chain([refused]) {
                let socket = sender(host, to, 0, hops)?;
                let expected = Expected {
                    by: host,
                    kind: kind(nth, to),
                    from,
                };
                expected
                    .is_heard(to, || {
                        socket.send_to(b"ask", to)?;
                        Ok([socket.local_addr()?, to])
                    })
                    .with_context(|| format!("{} to {to}, {hops} hops", host.name))?;
            }
        }
    }
    ensure!(counted(lab, 1, "ttl_expired")? > 0, "node 1 has told nobody");
    Ok(())
}

#[test]
fn clients_hear_what_became_of_their_packets_with_routed_pods() {
    forward(Wiring::Routed).unwrap();
}

#[test]
fn clients_hear_what_became_of_their_packets_with_bridged_pods() {
    forward(Wiring::Bridged).unwrap();
}

/// About replies.
fn backward(wiring: Wiring) -> Result<()> {
    /// Hops of a reply that arrives.
    const ANY: u8 = 64;
    let stage = build(wiring)?;
    let lab = &stage.lab;
    let (node, pod, client) = (lab.node(1), lab.pod(1, 1), lab.client());
    let (near, far) = (lab.pod(1, 2), lab.pod(2, 1));
    route_by_node_2(lab)?;
    // Node 2 is the way from its pod to node 1, and from node 1 to the client. What is sent to a pod's client ends where it
    // has the endpoint's address, what is sent to the client outside also where it has the service's.
    for (host, addresses, server, ends) in [
        (pod, cluster_ips(FAR), far, &[1, 2][..]),
        (client, node_ports(node, NEAR_PORT), near, &[1, 2]),
        (client, node_ports(node, FAR_PORT), far, &[1, 2, 3]),
    ] {
        for to in addresses {
            let ended = ends.iter().map(|hops| (*hops, TIME_EXCEEDED));
            for (hops, nth) in ended.chain([(ANY, PORT_UNREACHABLE)]) {
                let answering = sender(server, to, TARGET, hops)?;
                let expected = Expected {
                    by: server,
                    kind: kind(nth, to),
                    from: None,
                };
                expected
                    .is_heard(to, || {
                        // The client asks, and is gone when the answer comes.
                        let asking = sender(host, to, 0, ANY)?;
                        asking.send_to(b"ask", to)?;
                        let (_, peer) = answering.recv_from(&mut [0; 16]).context("nothing to answer")?;
                        drop(asking);
                        answering.send_to(b"answer", peer)?;
                        Ok([answering.local_addr()?, peer])
                    })
                    .with_context(|| format!("{} to {to}, the answer {hops} hops", host.name))?;
            }
        }
    }
    Ok(())
}

#[test]
fn endpoints_hear_what_became_of_their_answers_with_routed_pods() {
    backward(Wiring::Routed).unwrap();
}

#[test]
fn endpoints_hear_what_became_of_their_answers_with_bridged_pods() {
    backward(Wiring::Bridged).unwrap();
}

/// Sends the ICMP error about a datagram `from` → `to` that came to a host.
fn complain(host: &Host, kind: Kind, from: SocketAddr, to: SocketAddr) -> Result<()> {
    /// Length of an Ethernet header, in bytes.
    const ETHERNET: usize = 14;
    let quoted = packet::udp(&from.to_string(), &to.to_string());
    let frame = icmp::error(to.ip(), from.ip(), kind, &quoted, 1_000).bytes();
    let (family, protocol, header) = if from.is_ipv4() {
        (AddressFamily::INET, ipproto::ICMP, 20)
    } else {
        (AddressFamily::INET6, ipproto::ICMPV6, 40)
    };
    host.run(|| -> Result<()> {
        let socket: OwnedFd = socket(family, SocketType::RAW, Some(protocol))?;
        connect(&socket, &at(from.ip(), 0))?;
        send(&socket, &frame[ETHERNET + header..], SendFlags::empty())?;
        Ok(())
    })?
}

/// An error may come when its flow is recorded no more: the endpoint that the packet came from hears it nevertheless.
fn forgotten(wiring: Wiring) -> Result<()> {
    /// So many clients that all endpoints are met.
    const CLIENTS: usize = 100;
    let stage = build(wiring)?;
    let lab = &stage.lab;
    let (node, pod, client) = (lab.node(1), lab.pod(1, 1), lab.client());
    let endpoints = [lab.pod(1, 2), lab.pod(2, 1), lab.pod(2, 2)];
    for (host, addresses, servers) in [
        (pod, cluster_ips(MANY), &endpoints[..]),
        (client, node_ports(node, NEAR_PORT), &endpoints[..1]),
    ] {
        for to in addresses {
            let answering = servers
                .iter()
                .map(|server| Ok((*server, sender(server, to, TARGET, 64)?)))
                .collect::<Result<Vec<_>>>()?;
            let mut met = vec![false; servers.len()];
            for _ in 0..CLIENTS {
                let asking = sender(host, to, 0, 64)?;
                let nth = meets(&asking, to, &answering)?;
                if !met[nth] {
                    met[nth] = true;
                    complaints(lab, (host, &asking, to), &answering, nth)?;
                }
            }
            ensure!(!met.contains(&false), "not all endpoints were met: {met:?}");
        }
    }
    Ok(())
}

/// The client's stack, or a router behind it, complains of answers of that endpoint.
fn complaints(
    lab: &Lab,
    (host, asking, to): (&Host, &UdpSocket, SocketAddr),
    answering: &[(&Host, UdpSocket)],
    endpoint: usize,
) -> Result<()> {
    let own = asking.local_addr()?;
    let (server, socket) = &answering[endpoint];
    for nth in [PORT_UNREACHABLE, TOO_BIG, TIME_EXCEEDED] {
        for recorded in [true, false] {
            let expected = Expected {
                by: server,
                kind: kind(nth, to),
                from: None,
            };
            expected
                .is_heard(to, || {
                    if recorded {
                        meets(asking, to, answering)?;
                    } else {
                        evict_all(lab, 1)?;
                        evict_all(lab, 2)?;
                    }
                    complain(host, kind(nth, to), to, own)?;
                    Ok([socket.local_addr()?, own])
                })
                .with_context(|| format!("by {to}, recorded: {recorded}"))?;
        }
    }
    Ok(())
}

/// Asks until one of the sockets has heard it; says which.
fn meets(asking: &UdpSocket, to: SocketAddr, answering: &[(&Host, UdpSocket)]) -> Result<usize> {
    let mut met = None;
    let own = asking.local_addr()?;
    for (_, socket) in answering {
        socket.set_nonblocking(true)?;
    }
    asking.send_to(b"ask", to)?;
    eventually(PATIENCE, || {
        // What is left of other clients is read and left out.
        met = answering
            .iter()
            .position(|(_, socket)| matches!(socket.recv_from(&mut [0; 16]), Ok((_, peer)) if peer == own));
        ensure!(met.is_some(), "nobody hears {own} ask {to}");
        Ok(())
    })?;
    met.context("an endpoint")
}

#[test]
fn errors_about_answers_of_forgotten_flows_reach_the_endpoint_with_routed_pods() {
    forgotten(Wiring::Routed).unwrap();
}

#[test]
fn errors_about_answers_of_forgotten_flows_reach_the_endpoint_with_bridged_pods() {
    forgotten(Wiring::Bridged).unwrap();
}
