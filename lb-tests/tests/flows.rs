//! How long flows live and where they go: real packets, with short timeouts where one has to pass.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_common::{flow::State, limits::FLOW_REFRESH_NS};
use lb_testkit::{Connection, Host, Lab, Server, Wiring, http_get};
use lb_tests::{
    agent::{at_once, command, eventually},
    flow_tables::{evict_all, maps},
    manifests::Manifest,
    stage::{Stage, address, at, web},
    talker::Talker,
};
use lb_userspace::flows;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The addresses of the service of that number.
fn service(number: u16, port: u16) -> [SocketAddr; 2] {
    [format!("10.96.0.{number}"), format!("fd00:10:96::{number:x}")]
        .map(|text| at(text.parse::<IpAddr>().expect("an address"), port))
}

/// Flows in a state on a node, over both families.
fn in_state(lab: &Lab, node: usize, state: State) -> Result<u64> {
    let found = flows::count(&maps(lab, node))?;
    let states = found.iter().flat_map(|found| &found.states);
    Ok(states
        .filter(|(found, _)| *found == state)
        .map(|(_, flows)| flows)
        .sum())
}

/// One socket, which goes on sending while its service changes.
#[test]
fn datagrams_of_one_socket_follow_their_service() {
    follow().unwrap();
}

fn follow() -> Result<()> {
    let stage = Stage::new(Wiring::Routed)?;
    let lab = &stage.lab;
    let (near, far, third) = (lab.pod(1, 2), lab.pod(2, 1), lab.pod(2, 2));
    let write = |manifest: &Manifest| stage.folder.write("moving.yaml", &manifest.yaml());
    let empty = Manifest::new("moving", 40).port(53, 8080, None);
    let talkers = service(40, 53).map(|addr| Talker::new(lab.pod(1, 1), addr));
    let talkers: Vec<Talker> = talkers.into_iter().collect::<Result<_>>()?;
    // Before the service exists.
    for talker in &talkers {
        ensure!(talker.ask().is_err(), "there is no service yet");
    }
    write(&empty)?;
    for talker in &talkers {
        ensure!(talker.ask().is_err(), "nobody serves yet");
    }
    for (step, manifest, server) in [
        (
            "gains its first endpoint",
            empty.clone().endpoint(near, "node1"),
            near,
        ),
        ("gets another endpoint", empty.clone().endpoint(far, "node2"), far),
        (
            "is back at the first",
            empty.clone().endpoint(near, "node1"),
            near,
        ),
    ] {
        write(&manifest)?;
        for talker in &talkers {
            talker
                .reaches(server)
                .with_context(|| format!("the service {step}"))?;
        }
    }
    // Both ports are served, one after the other, by processes of the same pod.
    let first = Server::start(third, 8_081)?;
    let to = |port| {
        Manifest::new("moving", 40)
            .port(53, port, None)
            .endpoint(third, "node2")
    };
    write(&to(8_081))?;
    for talker in &talkers {
        talker.reaches(third)?;
    }
    drop(first);
    let _second = Server::start(third, 8_082)?;
    write(&to(8_082))?;
    for talker in &talkers {
        talker.reaches(third).context("targetPort changes")?;
    }
    Ok(())
}

/// Nobody answers one datagram, and somebody the other one; beside them a connection is in use, and one is idle.
#[test]
fn idle_flows_are_removed_after_the_timeout_of_their_state_and_others_stay() {
    idle().unwrap();
}

fn idle() -> Result<()> {
    let lab = Lab::builder().wiring(Wiring::Routed).build()?;
    let stage = Stage::with(lab, &["--udp-timeout", "2s", "--tcp-fin-timeout", "2s"])?;
    let lab = &stage.lab;
    let client = lab.pod(1, 1);
    // Nobody listens on that port.
    let silent = Manifest::new("silent", 41)
        .port(53, 9_999, None)
        .endpoint(lab.pod(1, 2), "node1");
    stage.folder.write("silent.yaml", &silent.yaml())?;
    for family in [0, 1] {
        let mut busy = Connection::open(client, web()[family])?;
        let server = busy.ask()?.server;
        let idle = Connection::open(client, web()[family])?;
        drop(http_get(client, web()[family])?);
        let answered = Talker::new(client, web()[family])?;
        eventually(PATIENCE, || answered.ask().map(drop))?;
        let unanswered = Talker::new(client, service(41, 53)[family])?;
        eventually(PATIENCE, || {
            unanswered.send()?;
            ensure!(in_state(lab, 1, State::Udp)? > 0, "no flow that nobody answers");
            Ok(())
        })?;
        eventually(PATIENCE, || {
            ensure!(busy.ask()?.server == server, "the busy connection moved");
            for state in [State::Udp, State::Closed] {
                let flows = in_state(lab, 1, state)?;
                ensure!(flows == 0, "{flows} flows are still {}", state.name());
            }
            Ok(())
        })?;
        ensure!(
            in_state(lab, 1, State::UdpStream)? > 0,
            "the answered flow must stay"
        );
        ensure!(
            in_state(lab, 1, State::Established)? >= 2,
            "connections must stay"
        );
        drop(idle);
    }
    Ok(())
}

#[test]
fn a_full_flow_table_takes_new_flows_and_connections_go_on() {
    full_table().unwrap();
}

fn full_table() -> Result<()> {
    /// Flows that there is room for, about.
    const ROOM: u32 = 512;
    let lab = Lab::builder().wiring(Wiring::Routed).build()?;
    let stage = Stage::with(lab, &["--max-flows", &ROOM.to_string()])?;
    let lab = &stage.lab;
    let client = lab.pod(1, 1);
    for addr in web() {
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut connection = Connection::open(client, addr)?;
            held.push((connection.ask()?.server, connection));
        }
        for round in 0..3 {
            client.run(|| -> Result<()> {
                for _ in 0..ROOM {
                    let socket = UdpSocket::bind(at(address(client, addr), 0))?;
                    socket.send_to(b"ask", addr)?;
                }
                Ok(())
            })??;
            // A packet looks at the other direction's entry once in that time. In a table that is filled within less, an answer
            // may find its own entry gone.
            thread::sleep(Duration::from_nanos(FLOW_REFRESH_NS));
            for (server, connection) in &mut held {
                let answer = connection
                    .ask()
                    .with_context(|| format!("after {} flows", ROOM * (round + 1)))?;
                ensure!(answer.server == *server, "{answer:?} instead of {server}");
            }
            http_get(client, addr).context("a new connection")?;
        }
    }
    let found = flows::count(&maps(lab, 1))?;
    ensure!(
        found.iter().all(|found| found.entries > u64::from(ROOM)),
        "{found:?}"
    );
    Ok(())
}

/// Its next packet is hashed as the first one was, and meets the same endpoint while the endpoints are the same.
#[test]
fn a_connection_whose_entries_were_evicted_goes_on() {
    evicted().unwrap();
}

fn evicted() -> Result<()> {
    let stage = Stage::new(Wiring::Routed)?;
    let lab = &stage.lab;
    let node = lab.node(1);
    let outside = [
        at(node.v4, lb_tests::stage::NODE_PORT),
        at(node.v6, lb_tests::stage::NODE_PORT),
    ];
    let mut held = Vec::new();
    for addr in web() {
        for _ in 0..6 {
            held.push(Connection::open(lab.pod(1, 1), addr)?);
        }
    }
    // Half of them over the other node, with the node's address as their source.
    for addr in outside {
        for _ in 0..6 {
            held.push(Connection::open(lab.client(), addr)?);
        }
    }
    let mut servers = HashSet::new();
    for connection in &mut held {
        let before = connection.ask()?;
        evict_all(lab, 1)?;
        let after = connection
            .ask()
            .with_context(|| format!("{before:?} was evicted"))?;
        ensure!(after == before, "{after:?} instead of {before:?}");
        servers.insert(before.server);
    }
    ensure!(
        servers.len() == 2,
        "both endpoints must have been met: {servers:?}"
    );
    Ok(())
}

/// Four ports for what goes on to the other node.
fn few_ports(more: &[&str]) -> Result<(Stage, [SocketAddr; 2])> {
    let lab = Lab::builder().wiring(Wiring::Routed).build()?;
    let mut arguments = vec!["--snat-ports", "20000-20003"];
    arguments.extend(more);
    let stage = Stage::with(lab, &arguments)?;
    let far = Manifest::new("far", 42)
        .port(80, 8080, Some(31_602))
        .endpoint(stage.lab.pod(2, 1), "node2");
    stage.folder.write("far.yaml", &far.yaml())?;
    let node = stage.lab.node(1);
    let addresses = [at(node.v4, 31_602), at(node.v6, 31_602)];
    Ok((stage, addresses))
}

#[test]
fn source_ports_that_run_out_are_told_and_come_back_with_closed_connections() {
    ports_run_out().unwrap();
}

fn ports_run_out() -> Result<()> {
    let (stage, addresses) = few_ports(&[])?;
    let lab = &stage.lab;
    for addr in addresses {
        eventually(PATIENCE, || Ok(http_get(lab.client(), addr).map(drop)?))?;
        let mut held = Vec::new();
        for _ in 0..4 {
            // The port of the connection before is free when both its ends are closed.
            eventually(PATIENCE, || {
                held.push(Connection::open(lab.client(), addr)?);
                Ok(())
            })?;
        }
        ensure!(
            Connection::open(lab.client(), addr).is_err(),
            "there is no fifth port"
        );
        for connection in &mut held {
            connection.ask()?;
        }
        let mut status = command(lab.node(1), &["status"])?;
        let text = status.arg("--bpffs").arg(lab.bpffs(1)).output()?.stdout;
        let text = String::from_utf8_lossy(&text).into_owned();
        for word in ["snat_exhausted", "translated_port", "10.244.2."] {
            ensure!(text.contains(word), "no {word} in\n{text}");
        }
        eventually(PATIENCE, || {
            let log = stage.agents[0].log();
            for words in ["source ports that were tried are taken", "nearly all taken"] {
                ensure!(log.contains(words), "not told: {words}");
            }
            Ok(())
        })?;
        drop(held);
        eventually(PATIENCE, || Ok(http_get(lab.client(), addr).map(drop)?)).context("ports come back")?;
    }
    Ok(())
}

/// Datagrams close nothing: their port is free when the flow has timed out.
#[test]
fn a_udp_flow_keeps_its_source_port_for_its_timeout_and_no_longer() {
    udp_ports().unwrap();
}

fn udp_ports() -> Result<()> {
    let (stage, addresses) = few_ports(&["--udp-timeout", "2s", "--udp-stream-timeout", "10s"])?;
    let client = stage.lab.client();
    // Each family has its own ports.
    at_once(addresses, |addr| udp_ports_at(client, addr))
        .into_iter()
        .collect()
}

fn udp_ports_at(client: &Host, addr: SocketAddr) -> Result<()> {
    let mut talkers = Vec::new();
    for _ in 0..4 {
        let talker = Talker::new(client, addr)?;
        eventually(PATIENCE, || talker.ask().map(drop))?;
        talkers.push(talker);
    }
    let late = Talker::new(client, addr)?;
    // As long as all of them talk there is no port for another one.
    for _ in 0..5 {
        for talker in &talkers {
            eventually(PATIENCE, || talker.ask().map(drop)).context("a flow lost its port")?;
        }
        if late.ask().is_ok() {
            bail!("a port was taken from a flow in use");
        }
    }
    eventually(2 * PATIENCE, || late.ask().map(drop)).context("the others are silent")?;
    Ok(())
}

/// Whatever is said of an endpoint, a connection to it goes on, and no new one gets there.
#[test]
fn an_established_connection_stays_with_an_endpoint_that_gets_no_new_ones() {
    established().unwrap();
}

fn established() -> Result<()> {
    let stage = Stage::new(Wiring::Routed)?;
    let lab = &stage.lab;
    let client = lab.pod(1, 1);
    let leaving = lab.pod(2, 1);
    for (change, changed) in [
        ("unready", stage.web.clone().unready(leaving)),
        ("terminating", stage.web.clone().terminating(leaving)),
        ("removed", stage.web.clone().without(leaving)),
    ] {
        for addr in web() {
            stage.folder.write("web.yaml", &stage.web.yaml())?;
            let mut held = None;
            eventually(PATIENCE, || {
                let mut connection = Connection::open(client, addr)?;
                ensure!(
                    connection.ask()?.server == leaving.name,
                    "not the one that leaves"
                );
                held = Some(connection);
                Ok(())
            })?;
            let mut held = held.context("a connection")?;
            stage.folder.write("web.yaml", &changed.yaml())?;
            eventually(PATIENCE, || {
                for _ in 0..30 {
                    let server = http_get(client, addr)?.server;
                    ensure!(server != leaving.name, "{change}: a new connection got there");
                }
                Ok(())
            })?;
            for _ in 0..10 {
                let server = held.ask().with_context(|| format!("{change}: {addr}"))?.server;
                ensure!(
                    server == leaving.name,
                    "{change}: the connection went to {server}"
                );
            }
        }
    }
    Ok(())
}
