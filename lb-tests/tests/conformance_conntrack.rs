//! Upstream's tests of connection tracking (`test/e2e/network/conntrack.go` of Kubernetes), and of datagrams to load
//! balancers (`loadbalancer.go`), as `conformance_service.rs` does it.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{
    Capture, Connection, Host,
    packet::{self, flags},
};
use lb_tests::{
    agent::{at_once, eventually},
    cluster::{Play, WITHIN, addresses, pod_of},
    raw::raw_socket,
    stage::{address, at},
    talker::Talker,
};
use rustix::net::ipproto;
use serde_json::json;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(2);
/// The port that a client sends from again and again.
const CLIENT_PORT: u16 = 12_345;

/// Sockets of a pod, a process of its node and the client outside, for every kind of address of the Service `web`, which
/// is made here.
fn talkers(play: &Play) -> Result<Vec<Talker>> {
    let web = play.balanced(&json!({}))?;
    let mut talkers = Talker::all(&play.clients(), &web.at(80))?;
    let addrs = [
        play.cluster.at_nodes(web.node_ports[0]),
        Play::balancer(80).to_vec(),
    ]
    .concat();
    talkers.extend(Talker::all(&play.all_clients(), &addrs)?);
    Ok(talkers)
}

fn all_reach(talkers: &[Talker], server: &Host) -> Result<()> {
    talkers.iter().try_for_each(|talker| talker.reaches(server))
}

/// Waits until nobody answers on any of the sockets.
fn none_reach(talkers: &[Talker]) -> Result<()> {
    let asked = at_once(talkers, |talker| {
        eventually(WITHIN, || {
            let answer = talker.ask();
            ensure!(answer.is_err(), "{answer:?} answers");
            Ok(())
        })
    });
    asked.into_iter().try_for_each(|one| one.map(drop))
}

/// Who answers a new, connected socket of a port that was used before, as upstream's client (`nc -u -p`) has one for each
/// datagram.
fn ask_from_the_same_port(client: &Host, addr: SocketAddr) -> Result<String> {
    let own = at(address(client, addr), CLIENT_PORT);
    let answer = client.run(|| -> std::io::Result<String> {
        let socket = UdpSocket::bind(own)?;
        socket.set_read_timeout(Some(ANSWER))?;
        socket.connect(addr)?;
        socket.send(b"hostname")?;
        let mut buffer = [0; 256];
        let len = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
    })??;
    Ok(answer.split(' ').next().unwrap_or_default().to_owned())
}

#[test]
fn datagrams_follow_a_server_that_cycles_on_its_node_and_to_another() -> Result<()> {
    let mut play = Play::new()?;
    let lab = play.lab();
    let [first, same_node, other_node] = [lab.pod(1, 2), lab.pod(1, 3), lab.pod(2, 1)].map(Host::clone);
    let clients = play.clients().map(Host::clone);
    play.cluster.pod(&first, "web")?;
    let talkers = talkers(&play)?;
    let web = play.cluster.allocated("web")?;
    let near = play.service("near", &json!({"internalTrafficPolicy": "Local"}))?;
    let near_talkers = Talker::all(&play.clients(), &near.at(80))?;
    all_reach(&talkers, &first)?;
    let mut current = &first;
    for (next, on_the_node) in [(&same_node, true), (&other_node, false), (&first, true)] {
        play.delete(current)?;
        none_reach(&talkers).context("the server is gone")?;
        if next.name == first.name {
            play.serve(next)?;
        }
        play.cluster.pod(next, "web")?;
        let told = || format!("{} has come for {}", next.name, current.name);
        all_reach(&talkers, next).with_context(told)?;
        for client in &clients {
            for addr in [
                web.at(80),
                addresses(play.lab().node(2), web.node_ports[0]).to_vec(),
            ]
            .concat()
            {
                eventually(WITHIN, || {
                    let server = ask_from_the_same_port(client, addr)?;
                    ensure!(
                        server == next.name,
                        "{} asks {addr}: {server} answers",
                        client.name
                    );
                    Ok(())
                })
                .with_context(told)?;
            }
        }
        if on_the_node {
            all_reach(&near_talkers, next).with_context(told)?;
        } else {
            none_reach(&near_talkers).with_context(told)?;
        }
        current = next;
    }
    Ok(())
}

#[test]
fn datagrams_reach_a_server_that_turns_ready() -> Result<()> {
    let play = Play::new()?;
    let [near, _] = play.servers();
    play.cluster.api.create_pod(pod_of(near, "web").unready())?;
    let talkers = talkers(&play)?;
    none_reach(&talkers).context("never ready so far")?;
    let name = format!("default/{}", near.name);
    for ready in [true, false, true] {
        play.cluster.api.set_ready(&name, ready)?;
        if ready {
            all_reach(&talkers, near)?;
        } else {
            none_reach(&talkers)?;
        }
    }
    Ok(())
}

#[test]
fn datagrams_follow_the_target_port() -> Result<()> {
    let mut play = Play::new()?;
    let pod = play.lab().pod(2, 1).clone();
    let second = play.serve_apart(&pod)?;
    play.cluster.pod(&pod, "web")?;
    let talkers = talkers(&play)?;
    for (target, server) in [(8080, &pod), (8081, &second), (8080, &pod)] {
        let mut ports = Play::ports(80);
        for port in ports.as_array_mut().into_iter().flatten() {
            port["targetPort"] = target.into();
        }
        play.cluster.change("web", &json!({"ports": ports}))?;
        all_reach(&talkers, server).with_context(|| format!("target port {target}"))?;
    }
    Ok(())
}

/// What marks the segments that are injected: no stack ends a connection that is in use with data to be handed over.
const MARK: u8 = flags::FIN | flags::PSH | flags::ACK;

/// Sends a segment of a connection in its server's name, with a sequence number out of any window.
fn inject(server: &Host, from: SocketAddr, to: SocketAddr) -> Result<()> {
    let frame = packet::tcp(&from.to_string(), &to.to_string())
        .flags(MARK)
        .bytes();
    let headers = if from.is_ipv4() { 14 + 20 } else { 14 + 40 };
    let socket = raw_socket(server, from.is_ipv4(), ipproto::TCP)?;
    socket.send_to(&frame[headers..], at(to.ip(), 0))?;
    Ok(())
}

#[test]
fn segments_out_of_any_window_reset_no_connection() -> Result<()> {
    const SEGMENTS: usize = 5;
    let play = Play::new()?;
    let lab = play.lab();
    let far = lab.pod(2, 1);
    play.cluster.pod(far, "web")?;
    let web = play.web(&json!({"type": "NodePort"}))?;
    let questions = [
        (lab.pod(1, 1), web.at(80)),
        (lab.node(1), web.at(80)),
        (lab.client(), addresses(lab.node(1), web.node_ports[0]).to_vec()),
    ];
    for (client, addrs) in questions {
        for addr in addrs {
            let what = || format!("{} and {addr}", client.name);
            let captures = [client, far].map(|host| Capture::start(host, "eth0"));
            let mut connection = eventually_open(client, addr)?;
            let seen_as = connection.ask()?.client;
            for _ in 0..SEGMENTS {
                inject(far, at(address(far, addr), 8080), seen_as)?;
                connection.ask().with_context(what)?;
            }
            let [at_client, at_server] = captures.map(|capture| Ok::<_, anyhow::Error>(capture?.stop()?));
            let at_client = at_client?;
            let marked: Vec<_> = at_client
                .iter()
                .filter(|seen| seen.tcp_flags == Some(MARK))
                .collect();
            ensure!(marked.len() == SEGMENTS, "{}: {marked:?} arrived", what());
            // A process of the node has the endpoint as its peer.
            if client.name != lab.node(1).name {
                ensure!(
                    marked.iter().all(|seen| seen.src == addr),
                    "{}: {marked:?}",
                    what()
                );
            }
            let resets = |seen: &lb_testkit::Seen| seen.tcp_flags.is_some_and(|set| set & flags::RST != 0);
            let reset = at_client.into_iter().chain(at_server?).find(resets);
            ensure!(reset.is_none(), "{}: {reset:?}", what());
        }
    }
    Ok(())
}

/// A connection to a Service that was made just now.
fn eventually_open(client: &Host, addr: SocketAddr) -> Result<Connection> {
    let mut open = None;
    eventually(WITHIN, || {
        open = Some(Connection::open(client, addr)?);
        Ok(())
    })?;
    open.context("it was opened")
}
