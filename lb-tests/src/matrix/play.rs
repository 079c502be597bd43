//! Plays the cells of the matrix.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Map, MapData, PerCpuArray};
use lb_common::{abi::map, verdict::Reason};
use lb_testkit::{Answer, Host, Lab, Server, Wiring, addresses, http_get, http_get_within, output, udp_ask};
use lb_userspace::apply::read_counters;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, getpeername, socket_with, sockopt},
};

use super::{
    Client, Family, Frontend, Place, Protocol,
    rules::{Outcome, Promise, Rule, Source, promise},
    services::{ROUTED_NETWORKS, Service, TARGET},
};
use crate::agent::{Agent, Folder, at_once, eventually};

/// How often is asked at most until all endpoints have answered that may. One of five equal ones is then missed once in
/// 10^14 times.
const ASKS: usize = 150;
/// How long a packet may take to be counted, and the manifests to show.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long an answer may take where another attempt follows.
const SOON: Duration = Duration::from_millis(300);
/// After so many wrong cells no more are played.
const ENOUGH: usize = 20;

/// A lab with agents, and a server at each [`Place`].
pub struct Theatre {
    // Dropped from top to bottom: servers and agents before the lab.
    _servers: Vec<Server>,
    /// The agents, that of node 1 first.
    pub agents: Vec<Agent>,
    /// The manifests.
    pub folder: Folder,
    /// The lab.
    pub lab: Lab,
    /// How often the manifests were written.
    scenes: u16,
}

impl Theatre {
    /// Builds it; there are no services yet.
    ///
    /// # Errors
    ///
    /// If the lab cannot be built or an agent does not come to serve.
    pub fn new(wiring: Wiring) -> Result<Self> {
        let lab = Lab::builder().wiring(wiring).pods_per_node(2).build()?;
        for network in ROUTED_NETWORKS {
            let way = if network.contains(':') {
                lab.node(1).v6.to_string()
            } else {
                lab.node(1).v4.to_string()
            };
            output(
                lab.client()
                    .command("ip")
                    .args(["route", "add", network, "via", &way]),
            )?;
        }
        let folder = Folder::new(&lab)?;
        let servers = Place::ALL
            .iter()
            .map(|place| Server::start(place.host(&lab), TARGET))
            .collect::<lb_testkit::Result<_>>()?;
        let agents = (1..=2)
            .map(|node| Agent::start(&lab, node, folder.path()))
            .collect::<Result<_>>()?;
        Ok(Self {
            _servers: servers,
            agents,
            folder,
            lab,
            scenes: 0,
        })
    }

    /// Brings both nodes to these services.
    ///
    /// # Errors
    ///
    /// If the manifests do not show.
    pub fn set(&mut self, services: &[Service]) -> Result<()> {
        /// Numbers of the services that only tell that all others of their file are in force.
        const CURTAINS: u16 = 1_000;
        self.scenes += 1;
        let curtain = Service::plain(
            &format!("curtain-{}", self.scenes),
            CURTAINS + self.scenes,
            &[(Place::Host1, super::services::State::Ready)],
        );
        let all: Vec<Service> = services.iter().chain([&curtain]).cloned().collect();
        self.write(&all)?;
        for client in [Client::Node1, Client::Node2] {
            let addr = curtain.address(&self.lab, Frontend::ClusterIp, Family::V4);
            let host = client.host(&self.lab);
            // A connection that begins too early goes nowhere, whatever happens later.
            eventually(PATIENCE, || Ok(http_get_within(host, addr, SOON).map(drop)?))
                .with_context(|| format!("the manifests do not show on {client}"))?;
        }
        Ok(())
    }

    /// Writes the manifests without waiting for anything.
    ///
    /// # Errors
    ///
    /// If they cannot be written.
    pub fn write(&self, services: &[Service]) -> Result<()> {
        let texts: Vec<String> = services.iter().map(|service| service.yaml(&self.lab)).collect();
        self.folder.write("services.yaml", &texts.join("---\n"))
    }

    /// How often a node has counted a reason.
    ///
    /// # Errors
    ///
    /// If the counters cannot be read.
    pub fn counted(&self, node: u8, reason: Reason) -> Result<u64> {
        let pin = self.lab.bpffs(node.into()).join("v1/maps").join(map::COUNTERS);
        let data = MapData::from_pin(&pin).with_context(|| format!("open {}", pin.display()))?;
        let counters = PerCpuArray::try_from(Map::PerCpuArray(data))?;
        let counted = read_counters(&counters)?;
        Ok(counted
            .iter()
            .find(|(other, _)| *other == reason)
            .map_or(0, |(_, counted)| counted.packets))
    }
}

/// A question.
#[derive(Clone, Copy, Debug)]
struct Cell<'a> {
    client: Client,
    frontend: Frontend,
    service: &'a Service,
    protocol: Protocol,
    family: Family,
}

/// Plays all cells of these services; says how often each rule was seen kept.
///
/// # Errors
///
/// All cells that were not as promised.
pub fn play(theatre: &Theatre, services: &[Service]) -> Result<BTreeMap<Rule, usize>> {
    let mut kept = BTreeMap::new();
    let mut wrong = Vec::new();
    for service in services {
        for (cell, promise, played) in play_service(theatre, service) {
            match played {
                Err(error) => wrong.push(format!(
                    "{cell}: {error:#}; promised: {:?} by {:?}",
                    promise.outcome, promise.rules
                )),
                Ok(()) => {
                    for rule in promise.rules {
                        *kept.entry(rule).or_default() += 1;
                    }
                }
            }
        }
        ensure!(
            wrong.len() < ENOUGH,
            "{} cells are wrong, further services were not played:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
    }
    ensure!(
        wrong.is_empty(),
        "{} cells are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    Ok(kept)
}

/// Plays all cells of a service: first the connections that are refused, all at once, then the others.
fn play_service<'a>(theatre: &Theatre, service: &'a Service) -> Vec<(Cell<'a>, Promise, Result<()>)> {
    let lab = &theatre.lab;
    let cells: Vec<(Cell<'_>, Promise)> = Cell::all(service)
        .map(|cell| {
            let promise = promise(lab.wiring(), cell.client, cell.frontend, service);
            (cell, promise)
        })
        .collect();
    let is_refused = |(cell, promise): &(Cell<'_>, Promise)| {
        cell.protocol == Protocol::Tcp && promise.outcome == Outcome::Refused
    };
    let (refused, others): (Vec<_>, Vec<_>) = cells.into_iter().partition(is_refused);
    let asked = refused.iter().map(|(cell, _)| {
        (
            cell.client.host(lab),
            service.address(lab, cell.frontend, cell.family),
        )
    });
    let answers = connections_refused(asked);
    let others = others.into_iter().map(|(cell, promise)| {
        let played = cell.play(theatre, &promise.outcome);
        (cell, promise, played)
    });
    let refused = refused
        .into_iter()
        .zip(answers)
        .map(|((cell, promise), played)| (cell, promise, played));
    refused.chain(others).collect()
}

/// Makes sure that clients are told that nobody listens, all of them at once: the kernel lets a connection of IPv6 end
/// a second later only, if it is refused so quickly that `connect` is still sending.
pub fn connections_refused<'a>(asked: impl IntoIterator<Item = (&'a Host, SocketAddr)>) -> Vec<Result<()>> {
    at_once(asked, |(host, addr)| is_refused(http_get(host, addr)))
}

impl<'a> Cell<'a> {
    /// All questions to a service.
    fn all(service: &'a Service) -> impl Iterator<Item = Self> {
        Client::ALL.into_iter().flat_map(move |client| {
            client.frontends().into_iter().flat_map(move |frontend| {
                [Protocol::Tcp, Protocol::Udp]
                    .into_iter()
                    .flat_map(move |protocol| {
                        [Family::V4, Family::V6].map(|family| Self {
                            client,
                            frontend,
                            service,
                            protocol,
                            family,
                        })
                    })
            })
        })
    }
}

impl fmt::Display for Cell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            client,
            frontend,
            service,
            protocol,
            family,
        } = self;
        write!(
            f,
            "{protocol:?} {family:?} from {client} to the {frontend} of {service}"
        )
    }
}

impl Cell<'_> {
    fn play(&self, theatre: &Theatre, promised: &Outcome) -> Result<()> {
        let lab = &theatre.lab;
        let host = self.client.host(lab);
        let addr = self.service.address(lab, self.frontend, self.family);
        match promised {
            Outcome::Answers(sources) => {
                let mut answered = BTreeSet::new();
                let asks = if self.service.affinity { 5 } else { ASKS };
                for _ in 0..asks {
                    let answer = ask(host, self.protocol, addr)?;
                    answered.insert(check(lab, host, addr, sources, &answer)?);
                    if answered.len() == sources.len() {
                        break;
                    }
                }
                if self.service.affinity {
                    ensure!(answered.len() == 1, "{answered:?} answered one client");
                } else {
                    ensure!(
                        answered.iter().eq(sources.keys()),
                        "only {answered:?} answered {ASKS} questions"
                    );
                }
                Ok(())
            }
            Outcome::Refused => is_refused(ask(host, self.protocol, addr)),
            Outcome::Dropped(node, reason) => {
                let before = theatre.counted(*node, *reason)?;
                let is_counted = || Ok(theatre.counted(*node, *reason)? > before);
                if *reason == Reason::SocketNoLocalEndpoints {
                    let answer = ask(host, self.protocol, addr);
                    ensure!(answer.is_err(), "{answer:?}");
                    ensure!(is_counted()?, "it was not counted as {}", reason.name());
                    return Ok(());
                }
                is_dropped(host, self.protocol, addr, is_counted)
                    .with_context(|| format!("{} on node{node}", reason.name()))
            }
        }
    }
}

/// Asks a server over that protocol.
///
/// # Errors
///
/// If there is no answer.
pub fn ask(host: &Host, protocol: Protocol, addr: SocketAddr) -> lb_testkit::Result<Answer> {
    match protocol {
        Protocol::Tcp => http_get(host, addr),
        Protocol::Udp => udp_ask(host, addr, true),
    }
}

/// Where the answer comes from, if it is one of those that may answer, sees the source that it should, and its client
/// the address that it asked.
fn check(
    lab: &Lab,
    client: &Host,
    addr: SocketAddr,
    sources: &BTreeMap<Place, Source>,
    answer: &Answer,
) -> Result<Place> {
    let found = sources
        .iter()
        .find(|(place, _)| place.host(lab).name == answer.server);
    let Some((place, source)) = found else {
        bail!("{} answered", answer.server);
    };
    let seen = answer.client.ip();
    let allowed = match source {
        Source::Client => vec![if addr.is_ipv4() {
            client.v4.into()
        } else {
            IpAddr::from(client.v6)
        }],
        Source::Node(node) => node_addresses(*node, addr.is_ipv4()),
    };
    ensure!(
        allowed.contains(&seen),
        "{} saw the source {seen}, not one of {allowed:?}",
        answer.server
    );
    ensure!(answer.peer == addr, "the answer came from {}", answer.peer);
    Ok(*place)
}

/// All addresses of a node.
fn node_addresses(node: u8, v4: bool) -> Vec<IpAddr> {
    use addresses::{bridge4, bridge6, node4, node6, overlay4, overlay6};
    if v4 {
        [node4(node), bridge4(node), overlay4(node)]
            .map(IpAddr::from)
            .into()
    } else {
        [node6(node), bridge6(node), overlay6(node)]
            .map(IpAddr::from)
            .into()
    }
}

/// Makes sure that the client was told that nobody listens.
///
/// # Errors
///
/// If it was told anything else.
pub fn is_refused(answer: lb_testkit::Result<Answer>) -> Result<()> {
    let Err(error) = answer else {
        bail!("{answer:?} instead of a refusal");
    };
    let text = format!("{:#}", anyhow::Error::from(error));
    ensure!(text.contains("refused"), "{text}");
    Ok(())
}

/// Sends one packet and waits until it is counted; nothing must have come back then.
fn is_dropped(
    host: &Host,
    protocol: Protocol,
    addr: SocketAddr,
    is_counted: impl Fn() -> Result<bool> + Send,
) -> Result<()> {
    host.run(|| match protocol {
        Protocol::Tcp => {
            let family = if addr.is_ipv4() {
                AddressFamily::INET
            } else {
                AddressFamily::INET6
            };
            let socket = socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK, None)?;
            let connecting = connect(&socket, &addr);
            ensure!(
                connecting == Err(Errno::INPROGRESS),
                "connect returned {connecting:?}"
            );
            wait_for_count(is_counted)?;
            let error = sockopt::socket_error(&socket)?;
            ensure!(error.is_ok(), "the client was told {error:?}");
            let peer = getpeername(&socket);
            ensure!(peer == Err(Errno::NOTCONN), "it was connected to {peer:?}");
            Ok(())
        }
        Protocol::Udp => {
            let any: SocketAddr = if addr.is_ipv4() {
                ([0; 4], 0).into()
            } else {
                ([0_u16; 8], 0).into()
            };
            let socket = UdpSocket::bind(any)?;
            socket.connect(addr)?;
            socket.send(b"ask")?;
            wait_for_count(is_counted)?;
            socket.set_nonblocking(true)?;
            let told = socket.recv(&mut [0; 64]).map_err(|error| error.kind());
            ensure!(told == Err(ErrorKind::WouldBlock), "the client was told {told:?}");
            Ok(())
        }
    })?
}

fn wait_for_count(is_counted: impl Fn() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !is_counted()? {
        ensure!(begin.elapsed() < PATIENCE, "it was not counted as dropped");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
