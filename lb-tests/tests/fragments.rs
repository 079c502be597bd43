//! Datagrams that are larger than a packet, in both directions: over the services' addresses, to endpoints on this node and on
//! another one, in both wirings, with connection tracking on the nodes and without.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Host, Lab, Wiring};
use lb_tests::{
    agent::eventually,
    stage::{NODE_PORT, Stage, at, web},
};

/// As large as datagrams get, with room for what the server says before it repeats them.
const BYTES: usize = 60_000;
/// How long a client tries: a fragment may get lost on a busy machine, and then the datagram is.
const PATIENCE: Duration = Duration::from_secs(30);

/// Rules that make the nodes track connections, which puts datagrams together; and what counts the packets that cross the
/// node's stack and are larger than any wire takes.
const TRACKED: &str = "
    table inet lab {
        counter whole { }
        chain forward {
            type filter hook forward priority 0;
            ct state established,related,new accept
        }
        chain late {
            type filter hook forward priority 10;
            meta length > 9000 counter name whole
        }
    }";

/// The same counter without anything that tracks.
const UNTRACKED: &str = "
    table inet lab {
        counter whole { }
        chain late {
            type filter hook forward priority 10;
            meta length > 9000 counter name whole
        }
    }";

/// Sends a datagram from a new socket, and says who answered. The answer must be whole, and come from the address that was
/// asked.
fn ask(client: &Host, addr: SocketAddr, seed: u8) -> Result<String> {
    let bytes: Vec<u8> = (0..BYTES)
        .map(|at| (at.wrapping_mul(at >> 3) >> 2) as u8 ^ seed)
        .collect();
    let any: IpAddr = if addr.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let (answer, from) = client.run(|| -> Result<_> {
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send_to(&bytes, addr)?;
        let mut buffer = vec![0; 65_536];
        let (len, from) = socket.recv_from(&mut buffer)?;
        buffer.truncate(len);
        Ok((buffer, from))
    })??;
    ensure!(from == addr, "the answer came from {from}");
    ensure!(answer.ends_with(&bytes), "the answer differs from what was sent");
    let line = answer.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let words = String::from_utf8_lossy(line).into_owned();
    Ok(words
        .split(' ')
        .next()
        .context("the answer has no name")?
        .to_owned())
}

/// Asks until each of the servers has answered a few times.
fn ask_everybody(client: &Host, addr: SocketAddr, servers: [&Host; 2]) -> Result<()> {
    let mut answered = BTreeSet::new();
    for seed in 0..12 {
        eventually(PATIENCE, || {
            answered.insert(ask(client, addr, seed)?);
            Ok(())
        })
        .with_context(|| format!("{BYTES} bytes from {} to {addr}", client.name))?;
    }
    // Twelve flows that all go to one of two endpoints are one in two thousand: a few more, then.
    eventually(PATIENCE, || {
        answered.insert(ask(client, addr, 0)?);
        let expected: BTreeSet<String> = servers.iter().map(|host| host.name.clone()).collect();
        ensure!(
            answered == expected,
            "{addr} was answered by {answered:?}, not by {expected:?}"
        );
        Ok(())
    })?;
    Ok(())
}

/// How many packets were counted by the rules on a node.
fn whole_packets(node: &Host) -> Result<u64> {
    let output = node
        .command("nft")
        .args(["list", "counter", "inet", "lab", "whole"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace()
        .skip_while(|word| *word != "packets")
        .nth(1)
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("nft said {text:?}"))
}

fn large_datagrams(wiring: Wiring, rules: &str) -> Result<()> {
    let stage = Stage::new(wiring)?;
    let lab: &Lab = &stage.lab;
    for node in [lab.node(1), lab.node(2)] {
        let output = node.command("nft").arg(rules).output()?;
        ensure!(
            output.status.success(),
            "nft: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    // One endpoint on the client's (or the asked) node, one on the other.
    let servers = [lab.pod(1, 2), lab.pod(2, 1)];
    for addr in web() {
        ask_everybody(lab.pod(1, 1), addr, servers).context("from a pod")?;
    }
    let node = lab.node(1);
    for addr in [at(node.v4, NODE_PORT), at(node.v6, NODE_PORT)] {
        ask_everybody(lab.client(), addr, servers).context("from outside")?;
    }
    let whole = whole_packets(node)?;
    if rules == TRACKED {
        ensure!(whole > 0, "connection tracking put no datagram together");
    } else {
        ensure!(whole == 0, "{whole} datagrams were put together on the way");
    }
    Ok(())
}

#[test]
fn large_datagrams_reach_routed_pods() {
    large_datagrams(Wiring::Routed, UNTRACKED).unwrap();
}

#[test]
fn large_datagrams_reach_bridged_pods() {
    large_datagrams(Wiring::Bridged, UNTRACKED).unwrap();
}

#[test]
fn large_datagrams_reach_routed_pods_of_nodes_that_track_connections() {
    large_datagrams(Wiring::Routed, TRACKED).unwrap();
}

#[test]
fn large_datagrams_reach_bridged_pods_of_nodes_that_track_connections() {
    large_datagrams(Wiring::Bridged, TRACKED).unwrap();
}
