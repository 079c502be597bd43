//! Uplinks of every make: services are reached through them from outside and from the other node, and their endpoints on
//! the other node are reached by them. The agent finds out by itself which device it is.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use lb_testkit::{Capture, Direction, Host, Lab, Server, Wiring, addresses, http_get, output, transfer};
use lb_tests::{
    agent::{Agent, Folder, command, eventually},
    manifests::Manifest,
    stage::{NODE_PORT, Stage, address, ask_all, ask_all_openly, at, web},
};

/// Hardware address of the bridge: not that of its port, as it happens on nodes with several ports.
const BRIDGE_MAC: &str = "02:00:00:00:aa:01";
/// Port of `bulk`, NodePort of it, and the port of its endpoint.
const BULK: (u16, u16, u16) = (9_000, 31_600, 9_001);
const BULK_NUMBER: u16 = 60;
/// Bytes of a transfer: several times the socket buffers.
const TRANSFER: usize = 10_000_000;

/// Runs lines of `ip` on a host; the first that fails ends it.
fn ip(host: &Host, lines: &[String]) -> Result<()> {
    for line in lines {
        output(host.command("ip").args(line.split_whitespace()))?;
    }
    Ok(())
}

/// Lines that give `device` what `eth0` of the node has: its addresses and routes.
fn move_to(device: &str, node: u8) -> Vec<String> {
    use addresses::{CLIENT4, CLIENT6, node4, node6};
    let other = 3 - node;
    [
        "addr flush dev eth0".to_owned(),
        format!("addr add {}/24 dev {device}", node4(node)),
        format!("addr add {}/64 dev {device} nodad", node6(node)),
        format!("link set {device} up"),
        // Those of IPv6 stay when the addresses go.
        format!("route replace default via {CLIENT4}"),
        format!("route replace default via {CLIENT6}"),
        format!("route replace 10.244.{other}.0/24 via {}", node4(other)),
        format!("route replace fd00:10:244:{other}::/64 via {}", node6(other)),
    ]
    .into()
}

/// Whether this kernel has devices of that kind; if not, the reason is printed: the test has shown nothing then.
fn has_devices(lab: &Lab, kind: &str, arguments: &str) -> Result<bool> {
    let line = format!("link add probe0 {arguments} type {kind}");
    let made = output(lab.node(1).command("ip").args(line.split_whitespace()));
    match made {
        Ok(_) => {
            output(lab.node(1).command("ip").args(["link", "del", "probe0"]))?;
            Ok(true)
        }
        Err(error) => {
            let text = format!("{:#}", anyhow::Error::from(error));
            if !text.contains("Unknown device type") {
                bail!("make a device of kind {kind}: {text}");
            }
            eprintln!("SKIPPED: this kernel has no devices of kind {kind}: {text}");
            println!("SKIPPED: this kernel has no devices of kind {kind}: {text}");
            Ok(false)
        }
    }
}

/// The stage with the agents of both nodes finding their devices by the rules.
fn stage(lab: Lab) -> Result<Stage> {
    let stage = Stage::on(lab, |lab, folder: &Folder| {
        [1, 2]
            .iter()
            .map(|node| Agent::start_by_rules(lab, *node, folder.path()))
            .collect()
    })?;
    let (port, node_port, target) = BULK;
    let bulk = Manifest::new("bulk", BULK_NUMBER)
        .port(port, target, Some(node_port))
        .endpoint(stage.lab.pod(2, 2), "node2");
    stage.folder.write("bulk.yaml", &bulk.yaml())?;
    Ok(stage)
}

/// Makes sure that node 1 says that `uplink` is one, and why.
fn is_uplink(stage: &Stage, uplink: &str, why: &str) -> Result<()> {
    let log = stage.agents[0].log();
    let line = log
        .lines()
        .find(|line| {
            line.contains("attached")
                && line.contains("why=")
                && line.contains(&format!("device=\"{uplink}\""))
        })
        .with_context(|| format!("{uplink} was not attached to: {log}"))?;
    ensure!(line.contains("uplink") && line.contains(why), "{line}");
    let status = output(
        command(stage.lab.node(1), &["status"])?
            .arg("--bpffs")
            .arg(stage.lab.bpffs(1)),
    )?;
    let mut shown = status
        .lines()
        .filter(|line| line.trim_start().starts_with(uplink));
    ensure!(shown.any(|line| line.contains("as an uplink")), "{status}");
    Ok(())
}

/// Services of node 1 work through its uplink; `source` is what endpoints on the other node see of the outside.
fn works(stage: &Stage, source: [std::net::IpAddr; 2]) -> Result<()> {
    let lab = &stage.lab;
    let (here, there) = (lab.pod(1, 2), lab.pod(2, 1));
    let node = lab.node(1);
    let node_ports = [at(node.v4, NODE_PORT), at(node.v6, NODE_PORT)];
    for (addr, source) in node_ports.into_iter().zip(source) {
        ask_all(lab.client(), addr, &[here, there], |answer| {
            let expected = if answer.server == here.name {
                address(lab.client(), addr)
            } else {
                source
            };
            ensure!(answer.client.ip() == expected, "the endpoint must see {expected}");
            ensure!(answer.peer == addr, "the answer must come from the node");
            Ok(())
        })
        .context("from outside")?;
    }
    for addr in web() {
        ask_all_openly(lab.pod(1, 1), addr, &[here, there]).context("from a pod")?;
        ask_all_openly(lab.pod(2, 2), addr, &[here, there]).context("from a pod of the other node")?;
        ask_all(node, addr, &[here, there], |_| Ok(())).context("from the node")?;
    }
    bulk(stage, lab.client(), at(node.v4, BULK.1))?;
    bulk(stage, lab.client(), at(node.v6, BULK.1))?;
    bulk(
        stage,
        lab.pod(1, 1),
        SocketAddr::new(format!("10.96.0.{BULK_NUMBER}").parse()?, BULK.0),
    )
}

/// Large transfers pass intact in both directions.
fn bulk(stage: &Stage, client: &Host, addr: SocketAddr) -> Result<()> {
    let server = stage.lab.pod(2, 2);
    {
        let _listening = Server::start(server, BULK.2)?;
        eventually(Duration::from_secs(10), || Ok(http_get(client, addr).map(drop)?))?;
    }
    for direction in [Direction::Up, Direction::Down] {
        transfer(client, addr, server, BULK.2, TRANSFER, direction)
            .with_context(|| format!("{direction:?} from {} by {addr}", client.name))?;
    }
    Ok(())
}

fn node1() -> [std::net::IpAddr; 2] {
    [addresses::node4(1).into(), addresses::node6(1).into()]
}

/// The lab with node 1 rewired before the agents start, played with `uplink`.
fn with_uplink(lab: Lab, uplink: &str, why: &str) -> Result<()> {
    let stage = stage(lab)?;
    is_uplink(&stage, uplink, why)?;
    works(&stage, node1())
}

fn routed() -> Result<Lab> {
    Ok(Lab::builder().wiring(Wiring::Routed).build()?)
}

#[test]
fn services_work_through_a_plain_device() {
    with_uplink(routed().unwrap(), "eth0", "with an address of the node").unwrap();
}

#[test]
fn services_work_through_a_bridge_with_the_card_as_a_port() {
    bridge().unwrap();
}

/// A card that is a veth looks like a pod's end of one; in the macvlan's guise it takes everything that the veth does.
fn bridge() -> Result<()> {
    let lab = routed()?;
    let mut lines = vec![
        "link add card0 link eth0 type macvlan mode passthru".to_owned(),
        format!("link add br0 address {BRIDGE_MAC} type bridge"),
        "link set card0 master br0 up".to_owned(),
    ];
    lines.extend(move_to("br0", 1));
    ip(lab.node(1), &lines)?;
    with_uplink(
        lab,
        "br0",
        "a bridge with an address of the node and a network card as a port",
    )
}

#[test]
fn services_work_through_a_macvlan() {
    macvlan().unwrap();
}

fn macvlan() -> Result<()> {
    let lab = routed()?;
    if !has_devices(&lab, "macvlan", "link eth0")? {
        return Ok(());
    }
    let mut lines = vec!["link add mv0 link eth0 type macvlan mode bridge".to_owned()];
    lines.extend(move_to("mv0", 1));
    ip(lab.node(1), &lines)?;
    with_uplink(lab, "mv0", "a device on top of another")
}

#[test]
fn services_work_through_a_bond() {
    bond().unwrap();
}

fn bond() -> Result<()> {
    let lab = routed()?;
    if !has_devices(&lab, "bond", "")? {
        return Ok(());
    }
    ip(lab.node(1), &bond_lines())?;
    ip(lab.node(1), &move_to("bond0", 1))?;
    with_uplink(lab, "bond0", "a device on top of another")
}

fn bond_lines() -> Vec<String> {
    [
        "link add bond0 type bond mode active-backup miimon 100",
        "link set eth0 down",
        "link set eth0 master bond0",
        "link set eth0 up",
        "link set bond0 up",
    ]
    .map(str::to_owned)
    .into()
}

#[test]
fn services_work_through_a_vlan_on_a_card() {
    vlan("eth0").unwrap();
}

#[test]
fn services_work_through_a_vlan_on_a_bond() {
    vlan("bond0").unwrap();
}

/// All of the network moves into the VLAN: the client and both nodes.
fn vlan(lower: &str) -> Result<()> {
    let lab = routed()?;
    if !has_devices(&lab, "vlan", "link eth0")? || (lower == "bond0" && !has_devices(&lab, "bond", "")?) {
        return Ok(());
    }
    let add = |lower: &str| format!("link add vlan100 link {lower} type vlan id 100");
    if lower == "bond0" {
        ip(lab.node(1), &bond_lines())?;
    }
    for (node, lower) in [(1, lower), (2, "eth0")] {
        ip(lab.node(node.into()), &[add(lower)])?;
        ip(lab.node(node.into()), &move_to("vlan100", node))?;
    }
    ip(
        lab.client(),
        &[
            add("eth0"),
            "addr flush dev eth0".to_owned(),
            format!("addr add {}/24 dev vlan100", addresses::CLIENT4),
            format!("addr add {}/64 dev vlan100 nodad", addresses::CLIENT6),
            "link set vlan100 up".to_owned(),
        ],
    )?;
    with_uplink(lab, "vlan100", "a device on top of another")
}

/// Endpoints on the other node are reached through the overlay, and see its address.
#[test]
fn services_work_through_an_overlay() {
    overlay().unwrap();
}

fn overlay() -> Result<()> {
    let stage = stage(Lab::builder().wiring(Wiring::Overlay).build()?)?;
    is_uplink(&stage, "flannel.1", "a device on top of another")?;
    works(
        &stage,
        [addresses::overlay4(1).into(), addresses::overlay6(1).into()],
    )
}

/// A second network of the node: it is served there too, and answers go back the way that the routing table says.
#[test]
fn a_second_uplink_serves_its_own_network() {
    second().unwrap();
}

fn second() -> Result<()> {
    let lab = routed()?;
    let (client, node) = (lab.client(), lab.node(1));
    let netns = client.netns_path();
    let netns = netns
        .file_name()
        .and_then(|name| name.to_str())
        .context("a name")?;
    ip(
        node,
        &[
            format!("link add eth1 type veth peer name eth1 netns {netns}"),
            "addr add 172.19.0.2/24 dev eth1".to_owned(),
            "addr add fd00:172:19::2/64 dev eth1 nodad".to_owned(),
            "link set eth1 up".to_owned(),
        ],
    )?;
    ip(
        client,
        &[
            "addr add 172.19.0.100/24 dev eth1".to_owned(),
            "addr add fd00:172:19::100/64 dev eth1 nodad".to_owned(),
            "link set eth1 up".to_owned(),
        ],
    )?;
    let stage = stage(lab)?;
    is_uplink(&stage, "eth1", "with an address of the node")?;
    let lab = &stage.lab;
    let (here, there) = (lab.pod(1, 2), lab.pod(2, 1));
    for (ip, own, far) in [
        ("172.19.0.2", "172.19.0.100", lab.node(1).v4.into()),
        ("fd00:172:19::2", "fd00:172:19::100", lab.node(1).v6.into()),
    ] {
        let addr = SocketAddr::new(ip.parse()?, NODE_PORT);
        let own: std::net::IpAddr = own.parse()?;
        let capture = Capture::start(lab.client(), "eth1")?;
        ask_all(lab.client(), addr, &[here, there], |answer| {
            let expected: std::net::IpAddr = if answer.server == here.name { own } else { far };
            ensure!(answer.client.ip() == expected, "the endpoint must see {expected}");
            Ok(())
        })?;
        let seen = capture.stop()?;
        let answers = seen.iter().filter(|packet| packet.src == addr).count();
        ensure!(answers > 100, "only {answers} answers came in by eth1");
    }
    // The first network is served as before.
    works(&stage, node1())
}
