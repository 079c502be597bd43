//! Services by sockets: whose sockets are sent to endpoints, and what becomes of those whose endpoint is gone.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_testkit::{Capture, Connection, Host, Lab, Server, Wiring, http_get};
use lb_tests::{
    agent::{self, Agent, eventually},
    manifests::Manifest,
    stage::{ASKS, NODE_PORT, Stage, ask_all, at, web},
};

/// How long a change may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The addresses of `web` as clients write them: IPv4, IPv6, and IPv4 in an IPv6 socket.
fn web_in_all_ways() -> [SocketAddr; 3] {
    let [v4, v6] = web();
    let IpAddr::V4(ip) = v4.ip() else {
        unreachable!("the first one is IPv4")
    };
    [v4, v6, at(ip.to_ipv6_mapped(), v4.port())]
}

/// The address that a host sends from to such an address.
fn source(host: &Host, to: SocketAddr) -> IpAddr {
    if to.ip().to_canonical().is_ipv4() {
        host.v4.into()
    } else {
        host.v6.into()
    }
}

fn start(mode: &str, wiring: Wiring) -> Result<Stage> {
    Stage::with(Lab::builder().wiring(wiring).build()?, &["--socket-lb", mode])
}

/// Pods reach services in every mode, by TCP and both kinds of UDP; the endpoint sees the pod, and the pod the service.
fn pods_are_served(stage: &Stage) -> Result<()> {
    let lab = &stage.lab;
    for addr in web_in_all_ways() {
        let client = lab.pod(1, 1);
        ask_all(client, addr, &[lab.pod(1, 2), lab.pod(2, 1)], |answer| {
            ensure!(
                answer.client.ip() == source(client, addr),
                "the pod's address was changed"
            );
            ensure!(answer.peer == addr, "the pod must see the service");
            Ok(())
        })?;
    }
    Ok(())
}

/// Processes of the node reach every kind of address, and see the service.
fn the_node_is_served(stage: &Stage) -> Result<()> {
    let lab = &stage.lab;
    let node = lab.node(1);
    let node_ports = [
        at(Ipv4Addr::LOCALHOST, NODE_PORT),
        at(Ipv4Addr::new(127, 9, 9, 9), NODE_PORT),
        at(Ipv6Addr::LOCALHOST, NODE_PORT),
        at(Ipv4Addr::LOCALHOST.to_ipv6_mapped(), NODE_PORT),
        at(node.v4, NODE_PORT),
        at(node.v6, NODE_PORT),
    ];
    for addr in web_in_all_ways().into_iter().chain(node_ports) {
        ask_all(node, addr, &[lab.pod(1, 2), lab.pod(2, 1)], |answer| {
            ensure!(answer.peer == addr, "the process must see the service");
            Ok(())
        })?;
        let shown = connected(node, addr)?.peer_addr()?;
        ensure!(shown == addr, "getpeername shows {shown} instead of {addr}");
    }
    Ok(())
}

/// A UDP socket of a host that is connected.
fn connected(host: &Host, to: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = host.run(|| UdpSocket::bind((any, 0)))??;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    host.run(|| socket.connect(to))?
        .with_context(|| format!("connect {} to {to}", host.name))?;
    Ok(socket)
}

/// Who answers a connected socket.
fn ask(socket: &UdpSocket) -> std::io::Result<String> {
    socket.send(b"ask")?;
    let mut buffer = [0; 1024];
    let len = socket.recv(&mut buffer)?;
    let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

/// Whether a pod's own packets carry the service's address when it asks in some way.
fn packets_show_the_service(client: &Host, way: usize, addr: SocketAddr) -> Result<bool> {
    let (name, ask) = ASKS[way];
    let capture = Capture::start(client, "eth0")?;
    ask(client, addr).with_context(|| format!("{name} from {}", client.name))?;
    let seen = capture.stop()?;
    ensure!(!seen.is_empty(), "{name}: no packet was captured");
    Ok(seen.iter().any(|packet| [packet.src, packet.dst].contains(&addr)))
}

#[test]
fn mode_host_serves_the_node_by_sockets_and_pods_by_packets() {
    let stage = start("host", Wiring::Bridged).unwrap();
    the_node_is_served(&stage).unwrap();
    pods_are_served(&stage).unwrap();
    for way in 0..ASKS.len() {
        for addr in web() {
            assert!(packets_show_the_service(stage.lab.pod(1, 1), way, addr).unwrap());
        }
    }
}

#[test]
fn mode_off_serves_pods_and_the_outside_and_not_the_node() {
    let stage = start("off", Wiring::Routed).unwrap();
    pods_are_served(&stage).unwrap();
    let node = stage.lab.node(1);
    let from_outside = http_get(stage.lab.client(), at(node.v4, NODE_PORT)).unwrap();
    assert!(["n1-b", "n2-a"].contains(&from_outside.server.as_str()));
    for addr in [
        at(Ipv4Addr::LOCALHOST, NODE_PORT),
        at(Ipv6Addr::LOCALHOST, NODE_PORT),
        web()[0],
    ] {
        assert!(
            http_get(node, addr).is_err(),
            "{addr} answers a process of the node"
        );
    }
}

/// Both agents see the calls of all pods, because they share a cgroup: each serves its own only.
#[test]
fn mode_all_serves_the_pods_of_this_node_by_sockets_and_no_others() {
    all_serves_own_pods().unwrap();
}

fn all_serves_own_pods() -> Result<()> {
    for wiring in [Wiring::Routed, Wiring::Bridged] {
        let lab = Lab::builder().wiring(wiring).build()?;
        let stage = Stage::on(lab, |lab, folder| {
            [(1, "all"), (2, "host")]
                .iter()
                .map(|(node, mode)| Agent::start_with(lab, *node, folder.path(), &["--socket-lb", mode]))
                .collect()
        })?;
        let lab = &stage.lab;
        wait_for_pods(&stage, 3)?;
        the_node_is_served(&stage)?;
        pods_are_served(&stage)?;
        // In the order of `ASKS`: TCP, unconnected UDP, connected UDP.
        for (way, by_packets) in [(0, false), (1, false), (2, true)] {
            for addr in web() {
                let shown = packets_show_the_service(lab.pod(1, 1), way, addr)?;
                ensure!(
                    shown == by_packets,
                    "{} to {addr} from a pod of this node",
                    ASKS[way].0
                );
                ensure!(
                    packets_show_the_service(lab.pod(2, 2), way, addr)?,
                    "{} to {addr} from a pod of the other node",
                    ASKS[way].0
                );
            }
        }
        let left = status(lab)?;
        ensure!(left.contains("socket_left_to_packets"), "{left}");
        // A pod's loopback addresses are its own.
        let own = http_get(lab.pod(1, 1), at(Ipv4Addr::LOCALHOST, NODE_PORT));
        ensure!(own.is_err(), "a pod's localhost leads to a NodePort: {own:?}");
    }
    Ok(())
}

/// Waits until the agent of node 1 serves that many pods by their sockets.
fn wait_for_pods(stage: &Stage, count: usize) -> Result<()> {
    let wanted = format!("socket hooks: all, {count} pods'");
    eventually(PATIENCE, || {
        let text = status(&stage.lab)?;
        ensure!(text.contains(&wanted), "{text}");
        Ok(())
    })
    .map(drop)
}

/// What `fairlead status` says of node 1.
fn status(lab: &Lab) -> Result<String> {
    let mut command = agent::command(lab.node(1), &["status", "--bpffs"])?;
    let output = command.arg(lab.bpffs(1)).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Where packets know better, pods are served as without the mode: policies and affinity hold.
#[test]
fn policies_and_affinity_hold_for_pods_served_by_sockets() {
    policies_and_affinity().unwrap();
}

fn policies_and_affinity() -> Result<()> {
    let stage = start("all", Wiring::Routed)?;
    let lab = &stage.lab;
    wait_for_pods(&stage, 3)?;
    let both = |name, number, line: &str| {
        Manifest::new(name, number)
            .port(80, 8080, None)
            .endpoint(lab.pod(1, 2), "node1")
            .endpoint(lab.pod(2, 1), "node2")
            .with(line)
    };
    let local = both("inner", 30, "internalTrafficPolicy: Local");
    let sticky = both("sticky", 31, "sessionAffinity: ClientIP");
    let elsewhere = Manifest::new("elsewhere", 32)
        .port(80, 8080, None)
        .endpoint(lab.pod(2, 1), "node2")
        .with("internalTrafficPolicy: Local");
    for (name, manifest) in [("inner", local), ("sticky", sticky), ("elsewhere", elsewhere)] {
        stage.folder.write(&format!("{name}.yaml"), &manifest.yaml())?;
    }
    let addr = |number: u16, v6: bool| -> SocketAddr {
        if v6 {
            at(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, number), 80)
        } else {
            at(Ipv4Addr::new(10, 96, 0, number as u8), 80)
        }
    };
    for v6 in [false, true] {
        for client in [lab.pod(1, 1), lab.node(1)] {
            eventually(PATIENCE, || {
                ask_all(client, addr(30, v6), &[lab.pod(1, 2)], |_| Ok(()))
            })?;
            for (name, ask) in ASKS {
                let first = ask(client, addr(31, v6))?.server;
                for _ in 0..15 {
                    let next = ask(client, addr(31, v6))?.server;
                    ensure!(
                        next == first,
                        "{name} from {} went to {first} and {next}",
                        client.name
                    );
                }
            }
            let refused = http_get(client, addr(32, v6));
            ensure!(refused.is_err(), "policy Local led to another node: {refused:?}");
        }
    }
    Ok(())
}

/// A process that keeps one connected UDP socket open is told that its endpoint is gone, and reaches another one when it
/// connects again. Nothing else is disturbed.
#[test]
fn a_connected_udp_socket_of_the_node_whose_endpoint_is_gone_is_closed() {
    lost_sockets().unwrap();
}

fn lost_sockets() -> Result<()> {
    let stage = start("host", Wiring::Routed)?;
    let lab = &stage.lab;
    let node = lab.node(1);
    let (stays, goes) = (lab.pod(1, 2), lab.pod(2, 1));
    let mut lost = Vec::new();
    let mut kept = Vec::new();
    for addr in web_in_all_ways() {
        lost.push((addr, connected_to(node, addr, goes)?));
        kept.push(connected_to(node, addr, stays)?);
    }
    // Connected to the endpoint by its own address: no hook has sent it there.
    let direct = [at(goes.v4, 8080), at(goes.v6, 8080)]
        .into_iter()
        .map(|addr| connected(node, addr))
        .collect::<Result<Vec<_>>>()?;
    let mut tcp = tcp_to(node, web()[0], goes)?;
    stage
        .folder
        .write("web.yaml", &stage.web.clone().without(goes).yaml())?;
    for (addr, socket) in &lost {
        let mut told = false;
        eventually(PATIENCE, || {
            is_closed(socket, &mut told).with_context(|| format!("a socket to {addr}"))
        })?;
        node.run(|| socket.connect(addr))??;
        let server = ask(socket)?;
        ensure!(server == stays.name, "{addr} led to {server} again");
    }
    for socket in &kept {
        ensure!(ask(socket)? == stays.name, "the socket moved");
    }
    for socket in &direct {
        ensure!(ask(socket)? == goes.name, "the socket moved");
    }
    ensure!(tcp.ask()?.server == goes.name, "the TCP connection moved");
    Ok(())
}

/// Whether a socket is connected no longer: nothing can be sent (EDESTADDRREQ), and whoever sends or waits for an answer is
/// told once. `told` says whether an earlier look was.
fn is_closed(socket: &UdpSocket, told: &mut bool) -> Result<()> {
    const EDESTADDRREQ: i32 = 89;
    let sent = socket.send(b"ask").map(drop);
    // Whatever answers is not to be taken for the answer to the next one.
    let received = socket.recv(&mut [0; 1024]).map(drop);
    for result in [&sent, &received] {
        *told |= matches!(result, Err(error) if error.kind() == ErrorKind::ConnectionAborted);
    }
    let closed = matches!(&sent, Err(error) if error.raw_os_error() == Some(EDESTADDRREQ));
    ensure!(closed, "it says {sent:?}, then {received:?}");
    ensure!(*told, "its process is told {received:?}");
    Ok(())
}

/// A connected UDP socket of a host that a server answers.
fn connected_to(host: &Host, addr: SocketAddr, server: &Host) -> Result<UdpSocket> {
    for _ in 0..200 {
        let socket = connected(host, addr)?;
        if ask(&socket)? == server.name {
            return Ok(socket);
        }
    }
    bail!("{} never answers {} at {addr}", server.name, host.name)
}

/// A TCP connection of a host that a server answers.
fn tcp_to(host: &Host, addr: SocketAddr, server: &Host) -> Result<Connection> {
    for _ in 0..200 {
        let mut connection = Connection::open(host, addr)?;
        if connection.ask()?.server == server.name {
            return Ok(connection);
        }
    }
    bail!("{} never answers {} at {addr}", server.name, host.name)
}

/// Sockets whose endpoint went while no agent ran are closed by the next one.
#[test]
fn a_connected_udp_socket_whose_endpoint_went_without_an_agent_is_closed_at_the_start() {
    lost_without_agent().unwrap();
}

fn lost_without_agent() -> Result<()> {
    let mut stage = start("host", Wiring::Routed)?;
    let goes = stage.lab.pod(2, 1).clone();
    let socket = connected_to(stage.lab.node(1), web()[1], &goes)?;
    let agent = stage.agents[0].process();
    agent.signal(rustix::process::Signal::KILL)?;
    agent.wait(PATIENCE)?;
    stage
        .folder
        .write("web.yaml", &stage.web.clone().without(&goes).yaml())?;
    ensure!(ask(&socket)? == goes.name, "without an agent nothing changes");
    stage.agents[0] = Agent::start(&stage.lab, 1, stage.folder.path())?;
    let mut told = false;
    eventually(PATIENCE, || is_closed(&socket, &mut told)).map(drop)
}

/// Pods' connected UDP is left to packets, which choose anew by themselves.
#[test]
fn a_connected_udp_socket_of_a_pod_moves_to_another_endpoint_by_itself() {
    moves_by_itself().unwrap();
}

fn moves_by_itself() -> Result<()> {
    let stage = start("all", Wiring::Routed)?;
    let lab = &stage.lab;
    wait_for_pods(&stage, 3)?;
    let (stays, goes) = (lab.pod(1, 2), lab.pod(2, 1));
    let sockets: Vec<UdpSocket> = web_in_all_ways()
        .into_iter()
        .map(|addr| connected_to(lab.pod(1, 1), addr, goes))
        .collect::<Result<_>>()?;
    stage
        .folder
        .write("web.yaml", &stage.web.clone().without(goes).yaml())?;
    for socket in &sockets {
        eventually(PATIENCE, || {
            let server = ask(socket).context("a pod's socket was disturbed")?;
            ensure!(server == stays.name, "{server} still answers");
            Ok(())
        })?;
    }
    Ok(())
}

/// An unconnected socket asks with each datagram.
#[test]
fn an_unconnected_udp_socket_goes_to_another_endpoint_with_the_next_datagram() {
    rechosen_at_sendmsg().unwrap();
}

fn rechosen_at_sendmsg() -> Result<()> {
    let stage = start("all", Wiring::Bridged)?;
    let lab = &stage.lab;
    wait_for_pods(&stage, 3)?;
    let (stays, goes) = (lab.pod(1, 2), lab.pod(2, 1));
    let mut sockets = Vec::new();
    for client in [lab.node(1), lab.pod(1, 1)] {
        for addr in web() {
            sockets.push((unconnected_to(client, addr, goes)?, addr));
        }
    }
    stage
        .folder
        .write("web.yaml", &stage.web.clone().without(goes).yaml())?;
    for (socket, addr) in &sockets {
        eventually(PATIENCE, || {
            let server = ask_unconnected(socket, *addr)?;
            ensure!(server == stays.name, "{server} still answers");
            Ok(())
        })?;
    }
    Ok(())
}

/// Who answers an unconnected socket, which must see the service's address as the sender.
fn ask_unconnected(socket: &UdpSocket, addr: SocketAddr) -> Result<String> {
    socket.send_to(b"ask", addr)?;
    let mut buffer = [0; 1024];
    let (len, from) = socket.recv_from(&mut buffer)?;
    ensure!(from == addr, "the answer came from {from} instead of {addr}");
    let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

/// An unconnected UDP socket of a host that a server answers.
fn unconnected_to(host: &Host, addr: SocketAddr, server: &Host) -> Result<UdpSocket> {
    let any: IpAddr = if addr.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    for _ in 0..200 {
        let socket = host.run(|| UdpSocket::bind((any, 0)))??;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        if ask_unconnected(&socket, addr)? == server.name {
            return Ok(socket);
        }
    }
    bail!("{} never answers {} at {addr}", server.name, host.name)
}

/// Another value of the flag at a restart leaves nothing of the former one behind.
#[test]
fn the_mode_changes_with_a_restart_and_goes_with_cleanup() {
    mode_changes().unwrap();
}

fn mode_changes() -> Result<()> {
    let mut stage = start("host", Wiring::Routed)?;
    let links = stage.lab.bpffs(1).join("v1/links");
    let hooks = |links: &std::path::Path| -> Result<usize> {
        let names = std::fs::read_dir(links)?;
        Ok(names
            .flatten()
            .filter(|name| name.file_name().as_encoded_bytes().starts_with(b"cgroup-"))
            .count())
    };
    for (mode, shown, count) in [
        ("host", "socket hooks: host", 8),
        ("all", "socket hooks: all, 3 pods'", 8),
        ("off", "socket hooks: off", 0),
        ("all", "socket hooks: all, 3 pods'", 8),
        ("host", "socket hooks: host", 8),
    ] {
        let agent = stage.agents[0].process();
        agent.signal(rustix::process::Signal::TERM)?;
        agent.wait(PATIENCE)?;
        stage.agents[0] = Agent::start_with(&stage.lab, 1, stage.folder.path(), &["--socket-lb", mode])?;
        eventually(PATIENCE, || {
            let text = status(&stage.lab)?;
            ensure!(text.contains(shown), "{mode}: {text}");
            Ok(())
        })?;
        ensure!(hooks(&links)? == count, "{mode}: {} links", hooks(&links)?);
        let by_packets = packets_show_the_service(stage.lab.pod(1, 1), 0, web()[0])?;
        ensure!(by_packets == (mode != "all"), "{mode}: a pod's packets");
        let local = at(Ipv4Addr::LOCALHOST, NODE_PORT);
        let reached = http_get(stage.lab.node(1), local).is_ok();
        ensure!(reached == (mode != "off"), "{mode}: localhost:nodePort");
    }
    let agent = stage.agents[0].process();
    agent.signal(rustix::process::Signal::TERM)?;
    agent.wait(PATIENCE)?;
    let mut cleanup = agent::command(stage.lab.node(1), &["cleanup", "--bpffs"])?;
    let output = cleanup.arg(stage.lab.bpffs(1)).output()?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(!stage.lab.bpffs(1).exists(), "the pin folder is still there");
    ensure!(
        http_get(stage.lab.node(1), at(Ipv4Addr::LOCALHOST, NODE_PORT)).is_err(),
        "sockets are still served"
    );
    Ok(())
}

/// A pod that comes later is served by its sockets as well, and one that goes leaves nothing in the map.
#[test]
fn pods_that_come_and_go_are_followed() {
    pods_come_and_go().unwrap();
}

fn pods_come_and_go() -> Result<()> {
    let stage = start("all", Wiring::Routed)?;
    wait_for_pods(&stage, 3)?;
    let node = stage.lab.node(1);
    let pod = stage.lab.pod(1, 3).netns_path();
    let pod = pod.file_name().and_then(|name| name.to_str()).context("a name")?;
    lb_testkit::output(node.command("ip").args(["link", "del", "veth-n1-c"]))?;
    wait_for_pods(&stage, 2)?;
    lb_testkit::output(node.command("ip").args([
        "link",
        "add",
        "veth-n1-c",
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        pod,
    ]))?;
    wait_for_pods(&stage, 3)
}

/// An endpoint on the node's own network, for a process of that node, of another one, and a pod.
#[test]
fn an_endpoint_with_the_nodes_address_is_reached_by_node_and_pod() {
    host_network_endpoint().unwrap();
}

fn host_network_endpoint() -> Result<()> {
    for mode in ["host", "all"] {
        // With a bridge the node has two addresses, and a UDP server that is bound to none of them answers pods by the other.
        let stage = start(mode, Wiring::Routed)?;
        let lab = &stage.lab;
        let _server = Server::start(lab.node(1), 8080)?;
        let hosted = Manifest::new("hosted", 40)
            .port(80, 8080, Some(31_540))
            .endpoint(lab.node(1), "node1");
        stage.folder.write("hosted.yaml", &hosted.yaml())?;
        let addrs = [
            at(Ipv4Addr::new(10, 96, 0, 40), 80),
            at(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 40), 80),
        ];
        for client in [lab.node(1), lab.node(2), lab.pod(1, 1), lab.pod(2, 1)] {
            for addr in addrs {
                eventually(PATIENCE, || {
                    ask_all(client, addr, &[lab.node(1)], |answer| {
                        ensure!(answer.peer == addr, "the client must see the service");
                        Ok(())
                    })
                })?;
            }
        }
        ask_all(
            lab.node(1),
            at(Ipv6Addr::LOCALHOST, 31_540),
            &[lab.node(1)],
            |_| Ok(()),
        )?;
    }
    Ok(())
}
