//! ICMP through services: path-MTU discovery, refusals, hops that end, and ping. Real sockets must understand what comes
//! back, in both wirings and families.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_testkit::{Direction, Host, Lab, Wiring, output, transfer, udp_ask};
use lb_tests::{
    agent::{at_once, counted, eventually},
    manifests::Manifest,
    stage::{Stage, address, at, web},
};
use rustix::{
    fd::OwnedFd,
    io::Errno,
    net::{AddressFamily, SocketType, connect, ipproto, recv, send, socket, sockopt},
};

/// What the narrow hop takes, in bytes.
const MTU: u32 = 1_400;
/// A UDP payload that fits through the devices, but not through the narrow hop, in either family.
const LARGE: usize = 1_440;
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the servers of large transfers listen.
const BULK: u16 = 9_001;
/// NodePorts of services with an endpoint on node 1 and on node 2.
const NEAR_PORT: u16 = 31_610;
const FAR_PORT: u16 = 31_611;

/// Runs `ip` on a host and returns what it says.
fn ip(host: &Host, addr: IpAddr, arguments: &str) -> Result<String> {
    let family = if addr.is_ipv4() { "-4" } else { "-6" };
    Ok(output(host.command("ip").arg(family).args(arguments.split(' ')))?)
}

/// Makes a hop of a node towards an address narrow. The devices stay as wide as they are, so that both ends of a
/// connection know of nothing: only the node's ICMP tells them.
fn narrow(node: &Host, to: IpAddr, way: &str) -> Result<()> {
    ip(node, to, &format!("route replace {to} {way} mtu lock {MTU}")).map(drop)
}

/// Makes the way from a node to one of its pods narrow.
fn narrow_pod(lab: &Lab, node: usize, pod: &Host) -> Result<()> {
    let device = match lab.wiring() {
        Wiring::Routed => format!("dev veth-{}", pod.name),
        Wiring::Bridged | Wiring::Overlay => "dev cni0".to_owned(),
    };
    for to in ips(pod) {
        narrow(lab.node(node), to, &device)?;
    }
    Ok(())
}

fn ips(host: &Host) -> [IpAddr; 2] {
    [host.v4.into(), host.v6.into()]
}

/// Services with just one endpoint each, for small and large packets: `near` on node 1, `far` on node 2.
fn one_endpoint_each(stage: &Stage) -> Result<()> {
    let lab = &stage.lab;
    let near = Manifest::new("near", 30)
        .port(80, BULK, Some(NEAR_PORT))
        .endpoint(lab.pod(1, 2), "node1");
    let far = Manifest::new("far", 31)
        .port(80, BULK, Some(FAR_PORT))
        .endpoint(lab.pod(2, 1), "node2");
    stage
        .folder
        .write("bulk.yaml", &format!("{}---\n{}", near.yaml(), far.yaml()))
}

/// The cluster IPs of a service of that number.
fn cluster_ips(number: u16) -> [SocketAddr; 2] {
    [format!("10.96.0.{number}"), format!("fd00:10:96::{number:x}")]
        .map(|text| at(text.parse::<IpAddr>().expect("an address"), 80))
}

/// What a host's kernel has learned of the way to an address.
fn has_learned(host: &Host, to: IpAddr) -> Result<()> {
    let route = ip(host, to, &format!("route get {to}"))?;
    ensure!(route.contains(&format!("mtu {MTU}")), "{}: {route}", host.name);
    Ok(())
}

/// Hosts forget what their kernels have learned of all ways. Otherwise a host that knows already says so when it opens a
/// connection, and the other side never sends anything too large.
fn forget(hosts: &[&Host]) -> Result<()> {
    for host in hosts {
        for addr in ips(host) {
            ip(host, addr, "route flush cache")?;
        }
    }
    Ok(())
}

/// Sends datagrams that may not be cut into fragments until the kernel knows how large they may be.
fn learns_mtu(host: &Host, to: SocketAddr) -> Result<()> {
    forget(&[host])?;
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = host.run(|| -> Result<UdpSocket> {
        let socket = UdpSocket::bind(any)?;
        if to.is_ipv4() {
            sockopt::set_ip_mtu_discover(&socket, sockopt::Ipv4PathMtuDiscovery::DO)?;
        } else {
            sockopt::set_ipv6_mtu_discover(&socket, sockopt::Ipv6PathMtuDiscovery::DO)?;
        }
        socket.connect(to)?;
        Ok(socket)
    })??;
    eventually(PATIENCE, || {
        match socket.send(&[0; LARGE]) {
            Ok(_) => bail!("a datagram of {LARGE} bytes is sent to {to}"),
            // The port is closed; whoever says it is heard, too.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => bail!("refused by {to}"),
            Err(error) => ensure!(
                error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()),
                "{error}"
            ),
        }
        let mtu = if to.is_ipv4() {
            sockopt::ip_mtu(&socket)?
        } else {
            sockopt::ipv6_mtu(&socket)?
        };
        ensure!(mtu == MTU, "the way to {to} takes {mtu} bytes");
        Ok(())
    })
    .with_context(|| format!("{} to {to}", host.name))
    .map(drop)
}

/// Moves bytes up between a client and a server by a service, with segments as large as the devices take, which do not pass
/// the hop; the client learns what it takes.
fn client_learns(client: &Host, to: SocketAddr, server: &Host) -> Result<()> {
    forget(&[client, server])?;
    moves(client, to, server, Direction::Up)?;
    has_learned(client, to.ip())?;
    learns_mtu(client, to)
}

/// The same down: the server learns it. `seen` is whom the server takes for its client.
fn server_learns(client: &Host, to: SocketAddr, server: &Host, seen: &Host) -> Result<()> {
    forget(&[client, server])?;
    moves(client, to, server, Direction::Down)?;
    has_learned(server, address(seen, to))
}

fn moves(client: &Host, to: SocketAddr, server: &Host, direction: Direction) -> Result<()> {
    const BYTES: usize = 300_000;
    transfer(client, to, server, BULK, BYTES, direction)
        .with_context(|| format!("{direction:?} from {} by {to} to {}", client.name, server.name))
}

/// Waits until a service answers, or refuses: the agent knows it.
fn known(host: &Host, to: SocketAddr) -> Result<()> {
    eventually(PATIENCE, || {
        ensure!(
            is_refused(udp_ask(host, to, true)),
            "nobody listens at {to}, and nobody says it"
        );
        Ok(())
    })
    .map(drop)
}

fn is_refused<T>(answer: lb_testkit::Result<T>) -> bool {
    answer.is_err_and(|error| format!("{:#}", anyhow::Error::from(error)).contains("refused"))
}

fn node_ports(node: &Host, port: u16) -> [SocketAddr; 2] {
    ips(node).map(|addr| at(addr, port))
}

fn clients_learn(wiring: Wiring) -> Result<()> {
    let stage = Stage::new(wiring)?;
    let lab = &stage.lab;
    one_endpoint_each(&stage)?;
    let (node, pod, client) = (lab.node(1), lab.pod(1, 1), lab.client());
    let (near, far) = (lab.pod(1, 2), lab.pod(2, 1));
    narrow_pod(lab, 1, near)?;
    narrow_pod(lab, 2, far)?;
    // A pod's packets cross two stacks; those of a client outside to node 2 are sent on by node 1 under its own address.
    for (client, addresses, server) in [
        (pod, cluster_ips(30), near),
        (pod, cluster_ips(31), far),
        (client, node_ports(node, NEAR_PORT), near),
        (client, node_ports(node, FAR_PORT), far),
    ] {
        for to in addresses {
            known(client, to)?;
            client_learns(client, to, server)?;
        }
    }
    Ok(())
}

#[test]
fn clients_learn_the_path_mtu_to_routed_endpoints() {
    clients_learn(Wiring::Routed).unwrap();
}

#[test]
fn clients_learn_the_path_mtu_to_bridged_endpoints() {
    clients_learn(Wiring::Bridged).unwrap();
}

fn endpoints_learn(wiring: Wiring) -> Result<()> {
    let stage = Stage::new(wiring)?;
    let lab = &stage.lab;
    one_endpoint_each(&stage)?;
    let (node, pod, client) = (lab.node(1), lab.pod(1, 1), lab.client());
    let (near, far) = (lab.pod(1, 2), lab.pod(2, 1));
    route_by_node_2(lab)?;
    for to in ips(client) {
        narrow(lab.node(2), to, "dev eth0")?;
    }
    narrow_pod(lab, 1, pod)?;
    for (client, addresses, server, seen) in [
        (pod, cluster_ips(31), far, pod),
        (client, node_ports(node, NEAR_PORT), near, client),
        // The endpoint on node 2 sees node 1 as its client.
        (client, node_ports(node, FAR_PORT), far, node),
    ] {
        for to in addresses {
            known(client, to)?;
            server_learns(client, to, server, seen)?;
        }
    }
    Ok(())
}

/// Node 2 becomes a router on the way from node 1 to the client.
fn route_by_node_2(lab: &Lab) -> Result<()> {
    let router = lab.node(2);
    router.run(|| -> Result<()> {
        for knob in ["all", "eth0"] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{knob}/send_redirects"), "0")?;
        }
        Ok(())
    })??;
    for (to, by) in ips(lab.client()).into_iter().zip(ips(router)) {
        ip(lab.node(1), to, &format!("route replace {to} via {by} dev eth0"))?;
    }
    Ok(())
}

#[test]
fn routed_endpoints_learn_the_path_mtu_to_clients() {
    endpoints_learn(Wiring::Routed).unwrap();
}

#[test]
fn bridged_endpoints_learn_the_path_mtu_to_clients() {
    endpoints_learn(Wiring::Bridged).unwrap();
}

/// The narrow hop is the first one of what the node sends out itself: no stack sees those packets.
fn the_node_tells_itself(wiring: Wiring) -> Result<()> {
    let stage = Stage::new(wiring)?;
    let lab = &stage.lab;
    one_endpoint_each(&stage)?;
    let (node, client, server) = (lab.node(1), lab.client(), lab.pod(2, 1));
    for to in ips(client).into_iter().chain(ips(server)) {
        let by = match (to.is_ipv4(), ips(client).contains(&to)) {
            (_, true) => String::new(),
            (true, false) => format!("via {} ", lab.node(2).v4),
            (false, false) => format!("via {} ", lab.node(2).v6),
        };
        narrow(node, to, &format!("{by}dev eth0"))?;
    }
    for to in node_ports(node, FAR_PORT) {
        known(client, to)?;
        client_learns(client, to, server)?;
        server_learns(client, to, server, node)?;
    }
    ensure!(counted(lab, 1, "too_big")? > 0, "node 1 has told nobody");
    Ok(())
}

#[test]
fn a_node_tells_what_its_routes_take_with_routed_pods() {
    the_node_tells_itself(Wiring::Routed).unwrap();
}

#[test]
fn a_node_tells_what_its_routes_take_with_bridged_pods() {
    the_node_tells_itself(Wiring::Bridged).unwrap();
}

fn closed_ports_and_hops(wiring: Wiring) -> Result<()> {
    let stage = Stage::new(wiring)?;
    let lab = &stage.lab;
    one_endpoint_each(&stage)?;
    let (node, pod, client) = (lab.node(1), lab.pod(1, 1), lab.client());
    // Nobody listens at the endpoints: they say so, and each client hears it from whom it asked.
    for (host, addresses) in [
        (pod, cluster_ips(30)),
        (pod, cluster_ips(31)),
        (pod, node_ports(node, FAR_PORT)),
        (client, node_ports(node, NEAR_PORT)),
        (client, node_ports(node, FAR_PORT)),
        // A pod that asks itself.
        (lab.pod(1, 2), cluster_ips(30)),
    ] {
        for to in addresses {
            known(host, to).with_context(|| format!("from {}", host.name))?;
        }
    }
    // The first hop is node 1, the second one node 2.
    let ways = [(pod, cluster_ips(31)), (client, node_ports(node, FAR_PORT))]
        .into_iter()
        .flat_map(|(host, addresses)| addresses.map(|to| (host, to)))
        .flat_map(|(host, to)| [1, 2].map(|hops| (host, to, hops)));
    at_once(ways, |(host, to, hops)| hops_end(host, to, hops))
        .into_iter()
        .collect::<Result<()>>()?;
    ensure!(counted(lab, 1, "ttl_expired")? > 0, "node 1 has told nobody");
    ensure!(
        counted(lab, 1, "icmp_translated")? > 0,
        "node 1 has translated nothing"
    );
    Ok(())
}

/// A connection attempt whose packets go that far only must end before it times out, because a router says so.
fn hops_end(host: &Host, to: SocketAddr, hops: u8) -> Result<()> {
    // An error that comes while `connect` still sends is only noted. The next one ends the attempt: about the packet that is
    // sent again after a second, or a later one, for routers limit what they say.
    let error = host.run(|| -> Result<Errno> {
        let family = if to.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let socket: OwnedFd = socket(family, SocketType::STREAM, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
        if to.is_ipv4() {
            sockopt::set_ip_ttl(&socket, hops.into())?;
        } else {
            sockopt::set_ipv6_unicast_hops(&socket, Some(hops))?;
        }
        match connect(&socket, &to) {
            Ok(()) => bail!("{to} is reached within {hops} hops"),
            Err(error) => Ok(error),
        }
    })??;
    ensure!(
        error == Errno::HOSTUNREACH,
        "{} to {to} in {hops} hops: {error}",
        host.name
    );
    Ok(())
}

#[test]
fn refusals_of_routed_endpoints_and_ends_of_hops_are_heard() {
    closed_ports_and_hops(Wiring::Routed).unwrap();
}

#[test]
fn refusals_of_bridged_endpoints_and_ends_of_hops_are_heard() {
    closed_ports_and_hops(Wiring::Bridged).unwrap();
}

/// Sends an echo request from a host and waits for the answer.
fn ping(host: &Host, to: IpAddr) -> Result<()> {
    const NUMBER: [u8; 4] = [0x12, 0x34, 0, 1];
    host.run(|| -> Result<()> {
        let (family, protocol, ask, answer, header) = if to.is_ipv4() {
            (AddressFamily::INET, ipproto::ICMP, 8, 0, 20)
        } else {
            (AddressFamily::INET6, ipproto::ICMPV6, 128, 129, 0)
        };
        let socket: OwnedFd = socket(family, SocketType::RAW, Some(protocol))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_secs(2)))?;
        connect(&socket, &at(to, 0))?;
        let mut message = vec![ask, 0, 0, 0];
        message.extend(NUMBER);
        // Of ICMPv6 the kernel makes the checksum.
        let sum: u32 = message
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
            .sum();
        message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        send(&socket, &message, rustix::net::SendFlags::empty())?;
        loop {
            let mut buffer = [0; 256];
            let (len, _) = recv(&socket, &mut buffer[..], rustix::net::RecvFlags::empty())
                .with_context(|| format!("{} to {to}", host.name))?;
            if buffer[..len].get(header) == Some(&answer) && buffer[..len].ends_with(&NUMBER) {
                return Ok(());
            }
        }
    })?
}

fn pings(wiring: Wiring) -> Result<()> {
    const EXTERNAL: [&str; 2] = ["203.0.113.10", "2001:db8:113::10"];
    const NOBODY: [&str; 2] = ["10.96.77.77", "fd00:10:96::7777"];
    let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
    let stage = Stage::new(wiring)?;
    let lab = &stage.lab;
    let external = Manifest::new("external", 32)
        .port(80, BULK, None)
        .with(&format!("externalIPs: {EXTERNAL:?}"))
        .endpoint(lab.pod(2, 1), "node2");
    stage.folder.write("external.yaml", &external.yaml())?;
    let (pod, node, client) = (lab.pod(1, 1), lab.node(1), lab.client());
    // The outside sends what is meant for services to node 1.
    for (nth, by) in ips(node).into_iter().enumerate() {
        for to in [EXTERNAL[nth], NOBODY[nth], &web()[nth].ip().to_string()] {
            ip(client, by, &format!("route add {to} via {by}"))?;
        }
    }
    for host in [pod, client] {
        for to in EXTERNAL.map(parse).into_iter().chain(web().map(|addr| addr.ip())) {
            eventually(PATIENCE, || ping(host, to))?;
        }
        // The node's own stack answers for the node.
        for to in ips(node) {
            ping(host, to)?;
        }
    }
    let silent = [pod, client].map(|host| NOBODY.map(|to| (host, parse(to))));
    at_once(silent.into_iter().flatten(), |(host, to)| {
        ensure!(
            ping(host, to).is_err(),
            "{to} has no service, and answers {}",
            host.name
        );
        Ok(())
    })
    .into_iter()
    .collect::<Result<()>>()?;
    ensure!(counted(lab, 1, "echo_answered")? >= 8, "who has answered?");
    Ok(())
}

#[test]
fn addresses_of_services_answer_ping_with_routed_pods() {
    pings(Wiring::Routed).unwrap();
}

#[test]
fn addresses_of_services_answer_ping_with_bridged_pods() {
    pings(Wiring::Bridged).unwrap();
}
