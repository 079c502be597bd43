//! The lab itself: its hosts reach each other as a cluster's would, and its servers and captures tell the truth.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{
    Capture, Connection, Direction, Host, Lab, Server, Wiring, http_get, output, transfer, udp_ask,
};
use lb_userspace::watch::{Object, parse::parse};

const PORT: u16 = 8080;
const PODS: u8 = 2;

/// Bytes of a transfer: several times the socket buffers.
const TRANSFER: usize = 20_000_000;

fn lab(wiring: Wiring) -> Result<Lab> {
    Ok(Lab::builder().wiring(wiring).pods_per_node(PODS).build()?)
}

fn addresses(host: &Host) -> [IpAddr; 2] {
    [host.v4.into(), host.v6.into()]
}

fn pods(lab: &Lab) -> impl Iterator<Item = &Host> {
    lab.pods().flatten()
}

/// Asks over TCP and UDP, in both families. With `keeps_source`, the server must see the client's own address.
fn ask(client: &Host, server: &Host, keeps_source: bool) -> Result<()> {
    for (to, from) in addresses(server).into_iter().zip(addresses(client)) {
        let to = SocketAddr::new(to, PORT);
        for answer in [http_get(client, to), udp_ask(client, to, false)] {
            let answer = answer.with_context(|| format!("{} asks {} at {to}", client.name, server.name))?;
            ensure!(
                answer.server == server.name,
                "{} asks {to}: {answer:?}",
                client.name
            );
            ensure!(
                !keeps_source || answer.client.ip() == from,
                "{} asks {to}: {answer:?}, not from {from}",
                client.name
            );
        }
    }
    Ok(())
}

fn everyone_reaches_whom_they_should(lab: &Lab) -> Result<()> {
    let (nodes, wiring) = (lab.nodes(), lab.wiring());
    let mut servers = Vec::new();
    for host in pods(lab).chain(nodes).chain([lab.client()]) {
        servers.push(Server::start(host, PORT)?);
    }
    for pod in pods(lab) {
        for other in pods(lab) {
            ask(pod, other, true)?;
        }
        for node in nodes {
            // An overlay's pods are masqueraded towards anything but pods.
            ask(pod, node, wiring != Wiring::Overlay)?;
        }
    }
    for node in nodes {
        for pod in pods(lab) {
            // Towards pods at its bridge a node uses the bridge's address.
            ask(node, pod, wiring == Wiring::Routed)?;
        }
        for other in nodes.iter().chain([lab.client()]) {
            ask(node, other, true)?;
        }
        ask(lab.client(), node, true)?;
    }
    for addr in addresses(lab.pod(1, 1)) {
        let direct = http_get(lab.client(), SocketAddr::new(addr, PORT));
        ensure!(
            direct.is_err(),
            "the client outside has a way to the pod {addr}: {direct:?}"
        );
    }
    Ok(())
}

#[test]
fn hosts_of_a_routed_lab_reach_each_other() {
    everyone_reaches_whom_they_should(&lab(Wiring::Routed).unwrap()).unwrap();
}

#[test]
fn hosts_of_a_bridged_lab_reach_each_other() {
    everyone_reaches_whom_they_should(&lab(Wiring::Bridged).unwrap()).unwrap();
}

#[test]
fn hosts_of_a_lab_with_an_overlay_reach_each_other() {
    everyone_reaches_whom_they_should(&lab(Wiring::Overlay).unwrap()).unwrap();
}

#[test]
fn hosts_of_a_lab_of_three_nodes_reach_each_other() -> Result<()> {
    for wiring in [Wiring::Routed, Wiring::Bridged] {
        let lab = Lab::builder().wiring(wiring).nodes(3).pods_per_node(PODS);
        everyone_reaches_whom_they_should(&lab.build()?)?;
    }
    Ok(())
}

#[test]
fn an_overlay_is_for_two_nodes() {
    let built = Lab::builder().wiring(Wiring::Overlay).nodes(3).build();
    assert!(built.is_err(), "{built:?}");
}

#[test]
fn a_capture_has_the_first_packet_and_both_directions() {
    for wiring in [Wiring::Routed, Wiring::Bridged] {
        let lab = lab(wiring).unwrap();
        let (client, server) = (lab.pod(1, 1), lab.pod(2, 1));
        let _server = Server::start(server, PORT).unwrap();
        for addr in addresses(server) {
            let to = SocketAddr::new(addr, PORT);
            let capture = Capture::start(client, "eth0").unwrap();
            let from = http_get(client, to).unwrap().client;
            let seen = capture.stop().unwrap();
            assert_eq!(
                seen.first().map(|seen| (seen.src, seen.dst)),
                Some((from, to)),
                "{wiring:?}"
            );
            assert!(seen[0].is_syn(), "{wiring:?}: {seen:?}");
            assert!(
                seen.iter().any(|seen| (seen.src, seen.dst) == (to, from)),
                "{wiring:?}: {seen:?}"
            );
        }
    }
}

#[test]
fn a_capture_reports_fragments() {
    let lab = lab(Wiring::Routed).unwrap();
    let (client, server) = (lab.pod(1, 1), lab.pod(2, 1));
    for (addr, any) in addresses(server).into_iter().zip(["0.0.0.0:0", "[::]:0"]) {
        let capture = Capture::start(server, "eth0").unwrap();
        let to = SocketAddr::new(addr, PORT);
        let socket = client.run(|| UdpSocket::bind(any)).unwrap().unwrap();
        socket.send_to(&[7; 4000], to).unwrap();
        let seen = capture.stop().unwrap();
        let parts: Vec<(u16, bool, u16)> = seen
            .iter()
            .filter(|seen| seen.dst.ip() == addr)
            .filter_map(|seen| Some((seen.fragment?.offset, seen.fragment?.more, seen.dst.port())))
            .collect();
        // 1500 bytes less the IP header, and less the fragment header of IPv6.
        let full = if addr.is_ipv4() { 1480 } else { 1448 };
        let expected = [(0, true, PORT), (full, true, 0), (2 * full, false, 0)];
        assert_eq!(parts, expected, "{addr}: {seen:?}");
    }
}

/// A pod that is an endpoint of a service may ask that service: then its packet goes back to where it came from.
#[test]
fn a_bridge_returns_packets_to_the_port_they_came_from() {
    let lab = lab(Wiring::Bridged).unwrap();
    let pod = lab.pod(1, 1);
    let mac = output(pod.command("ip").args(["-o", "link", "show", "eth0"])).unwrap();
    let mac = mac
        .split_whitespace()
        .skip_while(|word| *word != "link/ether")
        .nth(1)
        .unwrap();
    // An address that nobody has and that leads to the pod's own hardware address.
    let to: SocketAddr = "10.244.1.99:9".parse().unwrap();
    let ip = to.ip().to_string();
    output(
        pod.command("ip")
            .args(["neigh", "add", &ip, "lladdr", mac, "dev", "eth0"]),
    )
    .unwrap();
    let capture = Capture::start(pod, "eth0").unwrap();
    let socket = pod.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.send_to(b"echo", to).unwrap();
    let seen = capture.stop().unwrap();
    let times = seen.iter().filter(|seen| seen.dst == to).count();
    assert_eq!(times, 2, "once out and once back: {seen:?}");
}

#[test]
fn each_process_has_a_log_of_its_own() {
    let lab = lab(Wiring::Routed).unwrap();
    let node = lab.node(1);
    let say = |word: &str| {
        let mut process = node.spawn("echo", node.command("echo").arg(word)).unwrap();
        process.wait(Duration::from_secs(5)).unwrap();
        process
    };
    let (first, second) = (say("one"), say("two"));
    assert_eq!((first.log().as_str(), second.log().as_str()), ("one\n", "two\n"));
}

#[test]
fn connections_of_a_stopped_server_end_and_its_port_is_free() {
    let lab = lab(Wiring::Routed).unwrap();
    let (client, host) = (lab.pod(1, 1), lab.pod(2, 1));
    let to = SocketAddr::new(host.v4.into(), PORT);
    let server = Server::start(host, PORT).unwrap();
    let mut connection = Connection::open(client, to).unwrap();
    // The second has asked nothing yet: its server's thread waits for a first word.
    let mut silent = Connection::open(client, to).unwrap();
    for _ in 0..2 {
        assert_eq!(connection.ask().unwrap().server, host.name);
    }
    drop(server);
    let _next = Server::start(host, PORT).unwrap();
    for connection in [&mut connection, &mut silent] {
        let begin = Instant::now();
        let error = connection.ask().unwrap_err();
        assert!(
            begin.elapsed() < Duration::from_secs(1),
            "it took until the client gave up: {error}"
        );
    }
    assert_eq!(http_get(client, to).unwrap().server, host.name);
}

#[test]
fn twenty_megabytes_cross_the_nodes_intact() {
    for wiring in [Wiring::Routed, Wiring::Bridged] {
        let lab = lab(wiring).unwrap();
        let (client, server) = (lab.pod(1, 1), lab.pod(2, 1));
        for addr in addresses(server) {
            for direction in [Direction::Up, Direction::Down] {
                transfer(
                    client,
                    SocketAddr::new(addr, PORT),
                    server,
                    PORT,
                    TRANSFER,
                    direction,
                )
                .with_context(|| format!("{wiring:?} {addr} {direction:?}"))
                .unwrap();
            }
        }
    }
}

#[test]
fn commands_of_a_node_run_in_its_namespace_and_cgroup() {
    let lab = lab(Wiring::Routed).unwrap();
    let node = lab.node(1);
    let addresses = output(
        node.command("ip")
            .args(["-4", "-o", "addr", "show", "dev", "eth0"]),
    )
    .unwrap();
    assert!(addresses.contains(&node.v4.to_string()), "{addresses}");
    let cgroup = output(node.command("cat").arg("/proc/self/cgroup")).unwrap();
    let expected = format!("{}/node1", lab.cgroup().file_name().unwrap().display());
    assert!(
        cgroup
            .lines()
            .any(|line| line.starts_with("0::") && line.ends_with(&expected)),
        "{cgroup}"
    );
}

#[test]
fn the_examples_are_valid_and_name_pods_of_the_lab() {
    let lab = Lab::builder().build().unwrap();
    let pods: BTreeSet<(String, String)> = (1..=2)
        .flat_map(|node| (1..=3).map(move |pod| (node, pod)))
        .flat_map(|(node, pod)| {
            addresses(lab.pod(node, pod)).map(|addr| (addr.to_string(), format!("node{node}")))
        })
        .collect();
    let (mut services, mut slices) = (0, 0);
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let parsed = parse(&fs::read_to_string(&path).unwrap());
        assert_eq!(
            (parsed.problems, parsed.notes),
            (vec![], vec![]),
            "{}",
            path.display()
        );
        for located in parsed.objects {
            match located.object {
                Object::Service(_) => services += 1,
                Object::EndpointSlice(slice) => {
                    slices += 1;
                    for endpoint in &*slice.endpoints {
                        let place = (
                            endpoint.addr.to_string(),
                            endpoint.node.as_deref().unwrap_or_default().to_owned(),
                        );
                        assert!(pods.contains(&place), "{}: {place:?} is no pod", path.display());
                    }
                }
                Object::Node(_) | Object::ServiceCidr(_) => panic!("not in the examples"),
            }
        }
    }
    // One of the services is dual-stack and has a slice for each family.
    assert_eq!((services, slices), (3, 4));
}
