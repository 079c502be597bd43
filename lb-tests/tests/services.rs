//! Real packets through real kernel programs: two nodes with an agent each, in both wirings.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Capture, Connection, Direction, Host, Server, Wiring, http_get, transfer};
use lb_tests::{
    agent::{Agent, eventually},
    manifests::Manifest,
    stage::{LOCAL_NODE_PORT, NODE_PORT, Stage, address, ask_all, ask_all_openly, at, web},
};

fn pods_reach_both_endpoints(wiring: Wiring) -> Result<()> {
    let stage = Stage::new(wiring)?;
    let lab = &stage.lab;
    let servers = [lab.pod(1, 2), lab.pod(2, 1)];
    for (client, node) in [(lab.pod(1, 1), lab.node(1)), (lab.pod(2, 2), lab.node(2))] {
        for addr in [at(node.v4, NODE_PORT), at(node.v6, NODE_PORT)] {
            ask_all_openly(client, addr, &servers)?;
        }
    }
    for client in [lab.pod(1, 1), lab.pod(2, 2)] {
        for addr in web() {
            let capture = Capture::start(client, "eth0")?;
            ask_all_openly(client, addr, &servers)?;
            let seen = capture.stop()?;
            ensure!(seen.len() > 200, "only {} packets were captured", seen.len());
            for packet in seen {
                let far = if packet.src.ip() == address(client, addr) {
                    packet.dst
                } else {
                    packet.src
                };
                ensure!(far == addr, "on the client's wire: {packet:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn routed_pods_reach_local_and_remote_endpoints_and_see_the_service_answer() {
    pods_reach_both_endpoints(Wiring::Routed).unwrap();
}

#[test]
fn bridged_pods_reach_local_and_remote_endpoints_and_see_the_service_answer() {
    pods_reach_both_endpoints(Wiring::Bridged).unwrap();
}

fn node_and_outside(wiring: Wiring) -> Result<()> {
    let stage = Stage::new(wiring)?;
    let lab = &stage.lab;
    let servers = [lab.pod(1, 2), lab.pod(2, 1)];
    let node = lab.node(1);
    let loopback: [SocketAddr; 3] =
        ["127.0.0.1:31521", "127.1.2.3:31521", "[::1]:31521"].map(|text| text.parse().unwrap());
    let own = [at(node.v4, NODE_PORT), at(node.v6, NODE_PORT)];
    for addr in web().into_iter().chain(loopback).chain(own) {
        ask_all(node, addr, &servers, |answer| {
            ensure!(
                answer.peer == addr,
                "the process must see the service as its peer"
            );
            Ok(())
        })?;
    }
    for addr in [at(node.v4, LOCAL_NODE_PORT), at(node.v6, LOCAL_NODE_PORT)] {
        let capture = Capture::start(lab.client(), "eth0")?;
        ask_all_openly(lab.client(), addr, &[lab.pod(1, 3)])?;
        for packet in capture.stop()? {
            ensure!(
                [packet.src, packet.dst].contains(&addr),
                "on the client's wire: {packet:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn the_node_and_the_outside_reach_services_of_routed_pods() {
    node_and_outside(Wiring::Routed).unwrap();
}

#[test]
fn the_node_and_the_outside_reach_services_of_bridged_pods() {
    node_and_outside(Wiring::Bridged).unwrap();
}

fn large_transfers(wiring: Wiring) -> Result<()> {
    const BYTES: usize = 100_000_000;
    let stage = Stage::new(wiring)?;
    let lab = &stage.lab;
    let client = lab.pod(1, 1);
    // `bulk` has a port of its own, so that the transfer's server can listen beside the other servers.
    for (number, server, node) in [(20, lab.pod(1, 3), "node1"), (21, lab.pod(2, 2), "node2")] {
        let name = format!("bulk{number}");
        let bulk = Manifest::new(&name, number)
            .port(9000, 9001, None)
            .endpoint(server, node);
        stage.folder.write(&format!("{name}.yaml"), &bulk.yaml())?;
        for ip in [format!("10.96.0.{number}"), format!("fd00:10:96::{number:x}")] {
            let addr = at(ip.parse::<IpAddr>()?, 9000);
            wait_for_service(client, server, addr)?;
            for direction in [Direction::Up, Direction::Down] {
                transfer(client, addr, server, 9001, BYTES, direction)
                    .with_context(|| format!("{direction:?} to {} by {addr}", server.name))?;
            }
        }
    }
    Ok(())
}

/// Waits until a new service leads to `server`.
fn wait_for_service(client: &Host, server: &Host, addr: SocketAddr) -> Result<()> {
    let _listening = Server::start(server, 9001)?;
    eventually(Duration::from_secs(5), || Ok(http_get(client, addr).map(drop)?)).map(drop)
}

#[test]
fn a_hundred_megabytes_pass_intact_between_routed_pods() {
    large_transfers(Wiring::Routed).unwrap();
}

#[test]
fn a_hundred_megabytes_pass_intact_between_bridged_pods() {
    large_transfers(Wiring::Bridged).unwrap();
}

/// New connections avoid a removed endpoint within 100 ms of the file's change; a connection to another endpoint goes
/// on, and so does one to the removed endpoint.
#[test]
fn a_removed_endpoint_gets_no_new_connections_and_others_keep_theirs() {
    removed_endpoint().unwrap();
}

fn removed_endpoint() -> Result<()> {
    const PROMISE: Duration = Duration::from_millis(100);
    let stage = Stage::new(Wiring::Routed)?;
    let lab = &stage.lab;
    let client = lab.pod(1, 1);
    let mut held: BTreeMap<String, Connection> = BTreeMap::new();
    while held.len() < 2 {
        let mut connection = Connection::open(client, web()[0])?;
        held.insert(connection.ask()?.server, connection);
    }
    stage
        .folder
        .write("web.yaml", &stage.web.clone().without(lab.pod(2, 1)).yaml())?;
    std::thread::sleep(PROMISE);
    for addr in web() {
        ask_all(client, addr, &[lab.pod(1, 2)], |_| Ok(()))?;
        ask_all(lab.node(1), addr, &[lab.pod(1, 2)], |_| Ok(()))?;
    }
    for (server, connection) in &mut held {
        let answer = connection
            .ask()
            .with_context(|| format!("the connection to {server}"))?;
        ensure!(
            &answer.server == server,
            "the connection moved from {server}: {answer:?}"
        );
    }
    stage.folder.write("web.yaml", &stage.web.yaml())?;
    std::thread::sleep(PROMISE);
    ask_all(client, web()[0], &[lab.pod(1, 2), lab.pod(2, 1)], |_| Ok(()))
}

/// An unready endpoint is like a removed one, and a service whose endpoints are all gone refuses the node's processes.
#[test]
fn unready_endpoints_are_avoided_and_none_means_refused() {
    unready_and_none().unwrap();
}

fn unready_and_none() -> Result<()> {
    let stage = Stage::new(Wiring::Bridged)?;
    let lab = &stage.lab;
    let client = lab.pod(1, 1);
    stage
        .folder
        .write("web.yaml", &stage.web.clone().unready(lab.pod(1, 2)).yaml())?;
    eventually(Duration::from_secs(2), || {
        ask_all(client, web()[0], &[lab.pod(2, 1)], |_| Ok(()))
    })?;
    let nobody = stage.web.clone().without(lab.pod(1, 2)).without(lab.pod(2, 1));
    stage.folder.write("web.yaml", &nobody.yaml())?;
    eventually(Duration::from_secs(2), || {
        let refused = lab
            .node(1)
            .run(|| TcpStream::connect_timeout(&web()[0], Duration::from_secs(1)))?;
        let kind = refused.err().map(|error| error.kind());
        ensure!(
            kind == Some(std::io::ErrorKind::ConnectionRefused),
            "connecting gave {kind:?}"
        );
        Ok(())
    })?;
    Ok(())
}

/// The agent dies, or is stopped, and starts again: requests go on all the time, a connection stays.
#[test]
fn forwarding_outlives_the_agent() {
    outlives().unwrap();
}

fn outlives() -> Result<()> {
    let mut stage = Stage::new(Wiring::Routed)?;
    let client = stage.lab.pod(1, 1).clone();
    let mut connection = Connection::open(&client, web()[0])?;
    let server = connection.ask()?.server;
    let check = |connection: &mut Connection| -> Result<()> {
        for _ in 0..20 {
            http_get(&client, web()[0])?;
            http_get(&client, web()[1])?;
        }
        ensure!(connection.ask()?.server == server, "the connection moved");
        Ok(())
    };
    let agent = stage.agents[0].process();
    agent.signal(rustix::process::Signal::TERM)?;
    let status = agent.wait(Duration::from_secs(5))?;
    ensure!(
        status.code() == Some(0),
        "SIGTERM ended the agent with {status}: {}",
        agent.log()
    );
    check(&mut connection).context("after SIGTERM")?;

    stage.agents[0] = Agent::start(&stage.lab, 1, stage.folder.path())?;
    ensure!(
        stage.agents[0].log().contains("going on from what is pinned"),
        "{}",
        stage.agents[0].log()
    );
    ensure!(
        !stage.agents[0].log().contains("synced"),
        "nothing changed, nothing is to be written: {}",
        stage.agents[0].log()
    );
    check(&mut connection).context("after a restart")?;

    stage.agents[0].process().signal(rustix::process::Signal::KILL)?;
    check(&mut connection).context("after SIGKILL")?;
    stage.agents[0] = Agent::start(&stage.lab, 1, stage.folder.path())?;
    check(&mut connection).context("after a restart behind SIGKILL")
}

/// A pod that comes later is attached to at once.
#[test]
fn a_new_pod_reaches_services_at_once() {
    new_pod().unwrap();
}

fn new_pod() -> Result<()> {
    let stage = Stage::new(Wiring::Bridged)?;
    let lab = &stage.lab;
    // The pod's interface is made anew, as a runtime would when a pod starts.
    let node = lab.node(1);
    let pod = lab.pod(1, 1);
    let pod_ns = pod.netns_path();
    let pod_ns = pod_ns
        .file_name()
        .and_then(|name| name.to_str())
        .context("a name")?;
    lb_testkit::output(node.command("ip").args(["link", "del", "veth-n1-a"]))?;
    lb_testkit::output(node.command("ip").args([
        "link", "add", "veth-new", "type", "veth", "peer", "name", "eth0", "netns", pod_ns,
    ]))?;
    lb_testkit::output(
        node.command("ip")
            .args(["link", "set", "veth-new", "master", "cni0", "up"]),
    )?;
    let begin = Instant::now();
    lb_testkit::output(pod.command("sh").args([
        "-c",
        &format!(
            "ip addr add {}/24 dev eth0; ip addr add {}/64 dev eth0 nodad; ip link set eth0 up; \
             ip route add default via 10.244.1.1; ip -6 route add default via fd00:10:244:1::1",
            pod.v4, pod.v6
        ),
    ]))?;
    eventually(Duration::from_secs(5), || Ok(http_get(pod, web()[0]).map(drop)?))?;
    println!(
        "a new pod's first answer came {:?} after its interface",
        begin.elapsed()
    );
    ask_all(pod, web()[1], &[lab.pod(1, 2), lab.pod(2, 1)], |_| Ok(()))?;
    let log = stage.agents[0].log();
    ensure!(log.contains("veth-new"), "{log}");
    Ok(())
}

/// Another listener on the service's port of a node is not reached by accident: a service goes before it.
#[test]
fn a_node_port_goes_before_a_listener_on_the_node() {
    let stage = Stage::new(Wiring::Routed).unwrap();
    let node = stage.lab.node(1);
    let _listener = node
        .run(|| TcpListener::bind((node.v4, LOCAL_NODE_PORT)))
        .unwrap()
        .unwrap();
    let answer = http_get(stage.lab.client(), at(node.v4, LOCAL_NODE_PORT)).unwrap();
    assert_eq!(answer.server, "n1-c");
}
