//! Two nodes with an agent each, services with servers behind them, and clients that ask.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Answer, Host, Lab, Server, Wiring, http_get, udp_ask};

use crate::{
    agent::{Agent, Folder},
    manifests::Manifest,
};

/// Addresses of the service `web` of [`Stage::new`].
const WEB4: &str = "10.96.0.10";
const WEB6: &str = "fd00:10:96::a";
/// NodePort of `web`.
pub const NODE_PORT: u16 = 31521;
/// NodePort of `local`.
pub const LOCAL_NODE_PORT: u16 = 31522;

/// A lab with agents and servers.
pub struct Stage {
    // Dropped from top to bottom: servers and agents before the lab.
    _servers: Vec<Server>,
    /// The agents, that of node 1 first.
    pub agents: Vec<Agent>,
    /// The manifests.
    pub folder: Folder,
    /// The service `web`.
    pub web: Manifest,
    /// The lab.
    pub lab: Lab,
}

impl Stage {
    /// Two nodes; `web` has an endpoint on each (`n1-b`, `n2-a`), `local` only one on node 1 (`n1-c`).
    ///
    /// # Errors
    ///
    /// If the lab cannot be built or an agent does not come to serve.
    pub fn new(wiring: Wiring) -> Result<Self> {
        Self::with(Lab::builder().wiring(wiring).build()?, &[])
    }

    /// The same in a given lab, with further arguments for both agents.
    ///
    /// # Errors
    ///
    /// If an agent does not come to serve.
    pub fn with(lab: Lab, more: &[&str]) -> Result<Self> {
        Self::on(lab, |lab, folder| {
            [1, 2]
                .iter()
                .map(|node| Agent::start_with(lab, *node, folder.path(), more))
                .collect()
        })
    }

    /// The same in a given lab, with the agents that `start` starts.
    ///
    /// # Errors
    ///
    /// If an agent does not come to serve.
    pub fn on(lab: Lab, start: impl FnOnce(&Lab, &Folder) -> Result<Vec<Agent>>) -> Result<Self> {
        let folder = Folder::new(&lab)?;
        let web = Manifest::new("web", 10)
            .port(80, 8080, Some(NODE_PORT))
            .endpoint(lab.pod(1, 2), "node1")
            .endpoint(lab.pod(2, 1), "node2");
        let local = Manifest::new("local", 11)
            .port(80, 8080, Some(LOCAL_NODE_PORT))
            .endpoint(lab.pod(1, 3), "node1");
        let remote = Manifest::new("remote", 12)
            .port(80, 8080, None)
            .endpoint(lab.pod(2, 1), "node2");
        folder.write("web.yaml", &web.yaml())?;
        folder.write("others.yaml", &format!("{}---\n{}", local.yaml(), remote.yaml()))?;
        let servers = vec![
            Server::start(lab.pod(1, 2), 8080)?,
            Server::start(lab.pod(1, 3), 8080)?,
            Server::start(lab.pod(2, 1), 8080)?,
        ];
        let agents = start(&lab, &folder)?;
        Ok(Self {
            _servers: servers,
            agents,
            folder,
            web,
            lab,
        })
    }
}

/// An address and port.
pub fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

/// The ClusterIPs of `web`.
pub fn web() -> [SocketAddr; 2] {
    [
        at(WEB4.parse::<IpAddr>().unwrap(), 80),
        at(WEB6.parse::<IpAddr>().unwrap(), 80),
    ]
}

/// Asks a server once.
pub type Ask = fn(&Host, SocketAddr) -> lb_testkit::Result<Answer>;

/// Ways to ask a server.
pub const ASKS: [(&str, Ask); 3] = [
    ("TCP", |host, addr| http_get(host, addr)),
    ("unconnected UDP", |host, addr| udp_ask(host, addr, false)),
    ("connected UDP", |host, addr| udp_ask(host, addr, true)),
];

/// Asks in every way, checks each answer, and makes sure that just these servers have answered.
///
/// # Errors
///
/// What was not as it should be, with the way and the client.
pub fn ask_all(
    client: &Host,
    addr: SocketAddr,
    servers: &[&Host],
    check: impl Fn(&Answer) -> Result<()>,
) -> Result<()> {
    for (name, ask) in ASKS {
        let mut answered: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..40 {
            let answer =
                ask(client, addr).with_context(|| format!("{name} from {} to {addr}", client.name))?;
            check(&answer).with_context(|| format!("{name} from {} to {addr}: {answer:?}", client.name))?;
            *answered.entry(answer.server).or_default() += 1;
        }
        let expected: Vec<&String> = servers.iter().map(|host| &host.name).collect();
        ensure!(
            answered.keys().collect::<Vec<_>>() == expected,
            "{name} from {} to {addr}: answers by {answered:?}, expected {expected:?}",
            client.name
        );
    }
    Ok(())
}

/// The address of a host in the family of another address.
pub fn address(host: &Host, like: SocketAddr) -> IpAddr {
    if like.is_ipv4() {
        host.v4.into()
    } else {
        host.v6.into()
    }
}

/// As [`ask_all`]; the endpoint must see the client's own address, and the client the service's.
///
/// # Errors
///
/// As [`ask_all`].
pub fn ask_all_openly(client: &Host, addr: SocketAddr, servers: &[&Host]) -> Result<()> {
    ask_all(client, addr, servers, |answer| {
        ensure!(
            answer.client.ip() == address(client, addr),
            "the endpoint must see the client's address"
        );
        ensure!(
            answer.peer == addr,
            "the answer must come from the service's address"
        );
        Ok(())
    })
}
