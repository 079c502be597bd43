//! Which of a node's addresses NodePorts and health check ports are served on.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Host, Lab, Server, http_get, output};
use lb_tests::{
    agent::{Agent, Folder, eventually},
    cluster::{WITHIN, addresses, answered_by, refused},
    http::get,
    manifests::Manifest,
    stage::{NODE_PORT, at},
};

/// Addresses that node 1 has on its uplink beside its first ones.
const FURTHER: [&str; 2] = ["172.18.0.50", "fd00:172:18::50"];
/// The health check port of the service `web`.
const CHECK: u16 = 32_100;

fn further(port: u16) -> [SocketAddr; 2] {
    FURTHER.map(|ip| at(ip.parse::<IpAddr>().expect("an address"), port))
}

/// Waits until the clients are served at these addresses and told there how many endpoints the node has, and refused at
/// those for both.
fn served_at_alone(
    clients: &[&Host],
    server: &Host,
    at: [SocketAddr; 2],
    not_at: [SocketAddr; 2],
) -> Result<()> {
    answered_by(clients, &at, &[server])?;
    refused(clients, &not_at)?;
    for client in clients {
        for addr in at.map(|addr| SocketAddr::new(addr.ip(), CHECK)) {
            eventually(WITHIN, || {
                let answer = get(client, addr, "/")?;
                ensure!(answer.status == 200, "{addr}: {answer:?}");
                Ok(())
            })?;
        }
        for addr in not_at.map(|addr| SocketAddr::new(addr.ip(), CHECK)) {
            let answer = get(client, addr, "/");
            ensure!(answer.is_err(), "{addr}: {answer:?}");
        }
    }
    Ok(())
}

#[test]
fn the_networks_that_are_named_say_where_node_ports_are_served() -> Result<()> {
    let lab = Lab::builder().build()?;
    let (node, server) = (lab.node(1), lab.pod(1, 2));
    for (ip, length) in FURTHER.iter().zip(["24", "64"]) {
        let addr = format!("{ip}/{length}");
        // Nobody else has it: there is no need to ask around first.
        let mut command = node.command("ip");
        output(command.args(["addr", "add", &addr, "dev", "eth0", "nodad"]))?;
    }
    let folder = Folder::new(&lab)?;
    let web = Manifest::new("web", 10)
        .port(80, 8080, Some(NODE_PORT))
        .endpoint(server, "node1")
        .balancer(&["198.51.100.7"])
        .with("externalTrafficPolicy: Local")
        .with(&format!("healthCheckNodePort: {CHECK}"));
    folder.write("web.yaml", &web.yaml())?;
    let _server = Server::start(server, 8080)?;
    let clients = [lab.pod(1, 1), node, lab.client()];
    let (first, further) = (addresses(node, NODE_PORT), further(NODE_PORT));
    let started = |networks: &str| -> Result<Agent> {
        let more = ["--nodeport-addresses", networks];
        Agent::start_with(&lab, 1, folder.path(), &more)
    };

    let mut agent = started("172.18.0.48/28,fd00:172:18::50/128")?;
    served_at_alone(&clients, server, further, first).context("the further ones are named")?;
    // Whatever is named: this is for the node's own processes.
    http_get(node, at([127, 0, 0, 1], NODE_PORT)).context("localhost")?;

    // What an agent finds that another one left is no reason to go on with it.
    agent.stop()?;
    let mut agent = started("172.18.0.2/32,fd00:172:18::2/128")?;
    served_at_alone(&clients, server, first, further).context("the first ones are named")?;
    agent.stop()?;
    let _agent = started("primary")?;
    let all = [first, further].concat();
    answered_by(&clients, &all, &[server]).context("none is named")?;
    for addr in all {
        let check = SocketAddr::new(addr.ip(), CHECK);
        eventually(WITHIN, || {
            let answer = get(lab.client(), check, "/")?;
            ensure!(answer.status == 200, "{check}: {answer:?}");
            Ok(())
        })?;
    }
    Ok(())
}
