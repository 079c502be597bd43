//! XDP on uplinks: packets that leave by an uplink again are dealt with before the stack. Real packets, in native mode on
//! veth wires whose far ends run a program of the tests', and in generic mode.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Capture, Direction, Host, Lab, Server, Wiring, http_get, output, transfer, udp_ask};
use lb_tests::{
    agent::{Agent, command, eventually},
    manifests::Manifest,
    stage::{LOCAL_NODE_PORT, NODE_PORT, Stage, address, ask_all, at, web},
    wires::Passing,
};

/// NodePort of a service with its one endpoint on node 2.
const FAR: u16 = 31_700;
/// How long to wait for what takes milliseconds on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// A stage whose agents run with these arguments; the switch's ports run programs of their own, so that native mode works.
fn stage(wiring: Wiring, more: &[&str]) -> Result<(Stage, Passing)> {
    let lab = Lab::builder().wiring(wiring).build()?;
    let passing = Passing::attach(&lab)?;
    let stage = Stage::with(lab, more)?;
    let far = Manifest::new("far", 20)
        .port(80, 8080, Some(FAR))
        .endpoint(stage.lab.pod(2, 1), "node2");
    stage.folder.write("far.yaml", &far.yaml())?;
    Ok((stage, passing))
}

/// The NodePort `port` of a node, in both families.
fn on(node: &Host, port: u16) -> [SocketAddr; 2] {
    [at(node.v4, port), at(node.v6, port)]
}

/// What `fairlead status` says on a node.
fn status(lab: &Lab, node: usize) -> Result<String> {
    let mut command = command(lab.node(node), &["status"])?;
    Ok(output(command.arg("--bpffs").arg(lab.bpffs(node)))?)
}

/// What `ip link` says of a node's uplink.
fn uplink(lab: &Lab, node: usize) -> Result<String> {
    let mut ip = lab.node(node).command("ip");
    Ok(output(ip.args(["-details", "link", "show", "eth0"]))?)
}

/// Nothing that is sent to or from `addr` during `work` reaches the stack of node 1: a capture there sees none of it. The
/// first packets may (a neighbour must be asked for), so it is tried again.
fn passes_before_the_stack(stage: &Stage, addr: SocketAddr, work: impl Fn() -> Result<()>) -> Result<()> {
    eventually(PATIENCE, || {
        work()?;
        let capture = Capture::start(stage.lab.node(1), "eth0")?;
        work()?;
        let seen = capture.stop()?;
        let reached = seen
            .iter()
            .find(|packet| [packet.src, packet.dst].contains(&addr));
        ensure!(reached.is_none(), "on the node's device: {reached:?}");
        Ok(())
    })
    .map(drop)
}

fn everybody_reaches_everything(wiring: Wiring, mode: &str) -> Result<()> {
    let (stage, _passing) = stage(wiring, &["--xdp", mode])?;
    let lab = &stage.lab;
    for node in [1, 2] {
        let text = status(lab, node)?;
        ensure!(text.contains(&format!("{mode} (as --xdp says)")), "{text}");
    }
    let servers = [lab.pod(1, 2), lab.pod(2, 1)];
    let answers = |client: &Host, addr: SocketAddr, servers: &[&Host]| {
        ask_all(client, addr, servers, |answer| {
            ensure!(answer.peer == addr, "the answer must come from {addr}");
            Ok(())
        })
    };
    for node in [lab.node(1), lab.node(2)] {
        for addr in on(node, NODE_PORT) {
            for client in [lab.client(), lab.pod(1, 1), lab.pod(2, 2)] {
                answers(client, addr, &servers)?;
            }
        }
        for addr in on(node, LOCAL_NODE_PORT) {
            answers(lab.client(), addr, &[lab.pod(1, 3)])?;
        }
    }
    for addr in web() {
        for client in [lab.pod(1, 1), lab.pod(2, 2), lab.node(1)] {
            ask_all(client, addr, &servers, |_| Ok(()))?;
        }
    }
    // Over another node: the client is told nothing of it, the endpoint sees the node, the stack nothing at all.
    for addr in on(lab.node(1), FAR) {
        eventually(PATIENCE, || Ok(http_get(lab.client(), addr).map(drop)?))?;
        passes_before_the_stack(&stage, addr, || {
            ask_all(lab.client(), addr, &[lab.pod(2, 1)], |answer| {
                ensure!(answer.peer == addr, "the answer must come from {addr}");
                ensure!(
                    answer.client.ip() == address(lab.node(1), addr),
                    "the endpoint must see the node"
                );
                Ok(())
            })
        })?;
    }
    Ok(())
}

#[test]
fn in_native_mode_everybody_reaches_everything_with_routed_pods() {
    everybody_reaches_everything(Wiring::Routed, "native").unwrap();
}

#[test]
fn in_native_mode_everybody_reaches_everything_with_bridged_pods() {
    everybody_reaches_everything(Wiring::Bridged, "native").unwrap();
}

#[test]
fn in_generic_mode_everybody_reaches_everything() {
    everybody_reaches_everything(Wiring::Routed, "generic").unwrap();
}

/// Large transfers from outside over node 1 to a pod of node 2, with wires of that MTU.
fn large_transfers(mode: &str, mtu: Option<u32>) -> Result<()> {
    const BYTES: usize = 10_000_000;
    let (stage, _passing) = stage(Wiring::Routed, &["--xdp", mode])?;
    let lab = &stage.lab;
    let server = lab.pod(2, 2);
    if let Some(mtu) = mtu {
        let pod = format!("veth-{}", server.name);
        for (host, device) in [
            (lab.switch(), "client"),
            (lab.switch(), "node1"),
            (lab.switch(), "node2"),
            (lab.client(), "eth0"),
            (lab.node(1), "eth0"),
            (lab.node(2), "eth0"),
            (lab.node(2), pod.as_str()),
            (server, "eth0"),
        ] {
            let mut ip = host.command("ip");
            output(ip.args(["link", "set", device, "mtu", &mtu.to_string()]))
                .with_context(|| format!("{device} of {}", host.name))?;
        }
    }
    let bulk = Manifest::new("bulk", 21)
        .port(9000, 9001, Some(31_600))
        .endpoint(server, "node2");
    stage.folder.write("bulk.yaml", &bulk.yaml())?;
    for addr in on(lab.node(1), 31_600) {
        {
            let _listening = Server::start(server, 9001)?;
            eventually(PATIENCE, || Ok(http_get(lab.client(), addr).map(drop)?))?;
        }
        passes_before_the_stack(&stage, addr, || {
            for direction in [Direction::Up, Direction::Down] {
                transfer(lab.client(), addr, server, 9001, BYTES, direction)
                    .with_context(|| format!("{direction:?} by {addr}"))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn in_native_mode_large_transfers_arrive_intact() {
    large_transfers("native", None).unwrap();
}

#[test]
fn in_native_mode_jumbo_frames_arrive_intact() {
    large_transfers("native", Some(9_000)).unwrap();
}

#[test]
fn in_generic_mode_large_transfers_arrive_intact() {
    large_transfers("generic", None).unwrap();
}

#[test]
fn a_service_without_endpoints_is_refused_before_the_stack() {
    refused().unwrap();
}

fn refused() -> Result<()> {
    let (stage, _passing) = stage(Wiring::Routed, &["--xdp", "native"])?;
    let empty = Manifest::new("empty", 22).port(80, 8080, Some(31_610));
    stage.folder.write("empty.yaml", &empty.yaml())?;
    let client = stage.lab.client();
    let refusal = |asked: Option<lb_testkit::Error>, addr| {
        let text = asked.map_or_else(String::new, |error| format!("{:#}", anyhow::Error::from(error)));
        ensure!(text.contains("refused"), "{addr}: {text:?} instead of a refusal");
        Ok(())
    };
    // An answer over IPv4 is shorter than a SYN; whatever is shorter than its answer is left to tc.
    let v4 = at(stage.lab.node(1).v4, 31_610);
    passes_before_the_stack(&stage, v4, || refusal(http_get(client, v4).err(), v4))?;
    for addr in on(stage.lab.node(1), 31_610) {
        eventually(PATIENCE, || {
            refusal(http_get(client, addr).err(), addr)?;
            refusal(udp_ask(client, addr, true).err(), addr)
        })?;
    }
    Ok(())
}

#[test]
fn a_restart_changes_the_mode_and_cleanup_detaches() {
    restarts().unwrap();
}

fn restarts() -> Result<()> {
    let (mut stage, _passing) = stage(Wiring::Routed, &["--xdp", "native"])?;
    let addr = at(stage.lab.node(1).v4, FAR);
    for (mode, shown) in [
        ("native", Some(" xdp ")),
        ("native", Some(" xdp ")),
        ("generic", Some(" xdpgeneric ")),
        ("off,eth*=native", Some(" xdp ")),
        ("off", None),
        ("auto", None),
        ("generic", Some(" xdpgeneric ")),
    ] {
        stage.agents.remove(0);
        let agent = Agent::start_with(&stage.lab, 1, stage.folder.path(), &["--xdp", mode])?;
        stage.agents.insert(0, agent);
        let link = uplink(&stage.lab, 1)?;
        match shown {
            Some(word) => ensure!(link.contains(word), "{mode}: {link}"),
            None => ensure!(!link.contains("xdp"), "{mode}: {link}"),
        }
        let words = if shown.is_some() { "as --xdp says" } else { "off (" };
        let text = status(&stage.lab, 1)?;
        ensure!(text.contains(words), "{mode}: {text}");
        eventually(PATIENCE, || Ok(http_get(stage.lab.client(), addr).map(drop)?))
            .with_context(|| mode.to_owned())?;
    }
    stage.agents.remove(0);
    ensure!(
        uplink(&stage.lab, 1)?.contains("xdpgeneric"),
        "it outlives the agent"
    );
    let mut cleanup = command(stage.lab.node(1), &["cleanup"])?;
    output(cleanup.arg("--bpffs").arg(stage.lab.bpffs(1)))?;
    let link = uplink(&stage.lab, 1)?;
    ensure!(!link.contains("xdp"), "{link}");
    Ok(())
}

#[test]
fn another_program_is_left_alone_until_it_is_gone() {
    occupied().unwrap();
}

fn occupied() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _passing = Passing::attach(&lab)?;
    let other = Passing::attach_to(lab.node(1), &["eth0"], aya::programs::XdpMode::Driver)?;
    let before = uplink(&lab, 1)?;
    let stage = Stage::with(lab, &["--xdp", "native"])?;
    let lab = &stage.lab;
    let same_program = |text: &str| {
        text.split_whitespace()
            .skip_while(|word| *word != "prog/xdp")
            .nth(2)
            .map(str::to_owned)
    };
    let after = uplink(lab, 1)?;
    ensure!(
        same_program(&before).is_some() && same_program(&before) == same_program(&after),
        "{before}\n{after}"
    );
    let log = stage.agents[0].log();
    ensure!(log.contains("another XDP program is attached"), "{log}");
    let text = status(lab, 1)?;
    ensure!(text.contains("off (another XDP program"), "{text}");
    let addr = at(lab.node(1).v4, NODE_PORT);
    ask_all(lab.client(), addr, &[lab.pod(1, 2), lab.pod(2, 1)], |_| Ok(()))?;
    drop(other);
    // It is looked at every 10 s.
    eventually(2 * PATIENCE, || {
        let text = status(lab, 1)?;
        ensure!(text.contains("native (as --xdp says)"), "{text}");
        Ok(())
    })?;
    ask_all(lab.client(), addr, &[lab.pod(1, 2), lab.pod(2, 1)], |_| Ok(()))
}

/// Frames for other machines, which a switch floods, are none of the node's: nothing of the service answers twice.
#[test]
fn frames_for_other_machines_are_left_alone() {
    flooded().unwrap();
}

fn flooded() -> Result<()> {
    let (stage, _passing) = stage(Wiring::Routed, &["--xdp", "native"])?;
    let lab = &stage.lab;
    let addr: SocketAddr = on(lab.node(1), FAR)[0];
    eventually(PATIENCE, || Ok(http_get(lab.client(), addr).map(drop)?))?;
    // The client takes another hardware address for node 1's: nobody has it, so it is flooded to all ports.
    let ip: IpAddr = addr.ip();
    let mut neigh = lab.client().command("ip");
    output(neigh.args([
        "neigh",
        "replace",
        &ip.to_string(),
        "lladdr",
        "02:00:00:00:99:99",
        "dev",
        "eth0",
        "nud",
        "permanent",
    ]))?;
    ensure!(
        udp_ask(lab.client(), addr, true).is_err(),
        "nobody has that address"
    );
    Ok(())
}
