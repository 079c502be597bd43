//! What becomes of open flows when endpoints change: connections stay, datagrams follow.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_testkit::{Connection, Host};

use super::{
    Client, Family, Frontend, Place, Protocol,
    play::{Theatre, ask, connections_refused, is_refused},
    services::{Service, State},
};
use crate::agent::eventually;

/// How often is asked at most until the wanted endpoint answers; one of two is missed once in 10^30 times.
const ASKS: usize = 100;
/// How often new flows are opened to see where they go.
const NEW: usize = 10;
/// How long a datagram's flow may take to move.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// After so many wrong flows no more are looked at.
const ENOUGH: usize = 10;

/// An open flow.
pub struct Held {
    client: Client,
    frontend: Frontend,
    kind: Kind,
}

enum Kind {
    Tcp(Connection),
    Udp(UdpSocket, SocketAddr),
    Connected(UdpSocket),
}

impl Kind {
    fn open(host: &Host, protocol: Protocol, addr: SocketAddr) -> Result<Self> {
        Ok(match protocol {
            Protocol::Tcp => Self::Tcp(Connection::open(host, addr)?),
            Protocol::Udp => Self::Udp(Self::socket(host, addr)?, addr),
        })
    }

    fn connect(host: &Host, addr: SocketAddr) -> Result<Self> {
        let socket = Self::socket(host, addr)?;
        host.run(|| socket.connect(addr))??;
        Ok(Self::Connected(socket))
    }

    /// A UDP socket for what is sent to that address.
    fn socket(host: &Host, addr: SocketAddr) -> Result<UdpSocket> {
        let any: SocketAddr = if addr.is_ipv4() {
            ([0; 4], 0).into()
        } else {
            ([0_u16; 8], 0).into()
        };
        let socket = host.run(|| UdpSocket::bind(any))??;
        socket.set_read_timeout(Some(ANSWER))?;
        Ok(socket)
    }

    /// Who answers on it.
    fn ask(&mut self) -> Result<String> {
        match self {
            Self::Tcp(connection) => Ok(connection.ask()?.server),
            Self::Udp(socket, addr) => {
                socket.send_to(b"ask", *addr)?;
                let mut buffer = [0; 256];
                let (len, from) = socket.recv_from(&mut buffer)?;
                ensure!(from == *addr, "the answer came from {from}");
                name_in(&buffer[..len])
            }
            Self::Connected(socket) => {
                socket.send(b"ask")?;
                let mut buffer = [0; 256];
                let len = socket.recv(&mut buffer)?;
                name_in(&buffer[..len])
            }
        }
    }
}

/// The server's name in its answer to a datagram.
fn name_in(answer: &[u8]) -> Result<String> {
    let text = String::from_utf8_lossy(answer).into_owned();
    let name = text.split(' ').next().context("an empty answer")?;
    Ok(name.to_owned())
}

impl Held {
    /// Whether it is a connection.
    pub const fn is_tcp(&self) -> bool {
        matches!(self.kind, Kind::Tcp(_))
    }

    /// Whether a socket hook decides where it goes, and no packet: a process of a node asks, and not for another node's
    /// NodePort.
    pub fn is_by_socket(&self) -> bool {
        let node = match self.frontend {
            Frontend::NodePort(node) => Some(node),
            _ => self.client.node(),
        };
        self.client.is_process() && self.client.node() == node
    }

    /// Makes sure that it is closed, or soon is.
    ///
    /// # Errors
    ///
    /// If it still works.
    pub fn is_closed(&mut self) -> Result<()> {
        eventually(PATIENCE, || {
            let answer = self.kind.ask();
            ensure!(
                answer.is_err(),
                "{} has {answer:?} of the {}",
                self.client,
                self.frontend
            );
            Ok(())
        })
        .map(drop)
    }

    /// Makes sure that `server` answers on it.
    ///
    /// # Errors
    ///
    /// If nobody or somebody else does.
    pub fn is_with(&mut self, server: &str) -> Result<()> {
        let protocol = if self.is_tcp() { "TCP" } else { "UDP" };
        let told = || {
            format!(
                "open {protocol} flow from {} to the {}",
                self.client, self.frontend
            )
        };
        let told = told();
        let answered = self.kind.ask().with_context(|| told.clone())?;
        ensure!(answered == server, "{told}: {answered} answered, not {server}");
        Ok(())
    }
}

/// Opens a flow to `place` from every client to every frontend of the service.
///
/// # Errors
///
/// If a client does not get there.
pub fn hold(theatre: &Theatre, service: &Service, place: Place) -> Result<Vec<Held>> {
    let mut held = Vec::new();
    let lab = &theatre.lab;
    let wanted = &place.host(lab).name;
    for client in Client::ALL {
        for frontend in client.frontends() {
            for family in [Family::V4, Family::V6] {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    let addr = service.address(lab, frontend, family);
                    let kind = to(wanted, || Kind::open(client.host(lab), protocol, addr))
                        .with_context(|| format!("{protocol:?} from {client} to the {frontend} at {addr}"))?;
                    held.push(Held {
                        client,
                        frontend,
                        kind,
                    });
                }
            }
        }
    }
    Ok(held)
}

/// Connects UDP sockets of the nodes' processes to `place`, at every frontend of the service.
///
/// # Errors
///
/// If one does not get there.
pub fn hold_connected(theatre: &Theatre, service: &Service, place: Place) -> Result<Vec<Held>> {
    let mut held = Vec::new();
    let lab = &theatre.lab;
    let wanted = &place.host(lab).name;
    for client in Client::ALL.into_iter().filter(|client| client.is_process()) {
        for frontend in client.frontends() {
            for family in [Family::V4, Family::V6] {
                let addr = service.address(lab, frontend, family);
                let kind = to(wanted, || Kind::connect(client.host(lab), addr))
                    .with_context(|| format!("socket of {client} to the {frontend} at {addr}"))?;
                held.push(Held {
                    client,
                    frontend,
                    kind,
                });
            }
        }
    }
    Ok(held)
}

/// Opens UDP flows from every client to every frontend of a service that is not there yet; a first datagram is sent.
///
/// # Errors
///
/// If a socket cannot be made, or somebody answers.
pub fn hold_unanswered(theatre: &Theatre, service: &Service) -> Result<Vec<Held>> {
    let mut held = Vec::new();
    for client in Client::ALL {
        for frontend in client.frontends() {
            for family in [Family::V4, Family::V6] {
                let addr = service.address(&theatre.lab, frontend, family);
                let kind = Kind::open(client.host(&theatre.lab), Protocol::Udp, addr)?;
                let Kind::Udp(socket, _) = &kind else {
                    continue;
                };
                socket.set_read_timeout(Some(Duration::from_millis(1)))?;
                // There may be no way to it yet, which is no less of a beginning.
                let _ = socket.send_to(b"ask", addr);
                ensure!(socket.recv(&mut [0; 16]).is_err(), "somebody answers at {addr}");
                socket.set_read_timeout(Some(ANSWER))?;
                held.push(Held {
                    client,
                    frontend,
                    kind,
                });
            }
        }
    }
    Ok(held)
}

/// Opens flows until one is answered by `wanted`.
fn to(wanted: &str, open: impl Fn() -> Result<Kind>) -> Result<Kind> {
    for _ in 0..ASKS {
        let mut kind = open()?;
        if kind.ask()? == wanted {
            return Ok(kind);
        }
    }
    bail!("{wanted} did not answer {ASKS} questions");
}

/// Which open flows are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Makes sure that all these flows are with `server` now, or are soon if they may move.
///
/// # Errors
///
/// All that are not.
pub fn all_with(held: &mut [Held], of: Of, server: &str) -> Result<()> {
    let limit = if of == Of::Tcp { Duration::ZERO } else { PATIENCE };
    eventually(limit, || {
        let mut wrong = Vec::new();
        for flow in held.iter_mut().filter(|flow| flow.is_tcp() == (of == Of::Tcp)) {
            if let Err(error) = flow.is_with(server) {
                wrong.push(format!("{error:#}"));
            }
            ensure!(
                wrong.len() < ENOUGH,
                "{} flows are wrong:\n{}",
                wrong.len(),
                wrong.join("\n")
            );
        }
        ensure!(
            wrong.is_empty(),
            "{} flows are wrong:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        Ok(())
    })
    .map(drop)
}

/// Makes sure that new flows of every client to every frontend are answered by `server`; by none: refused.
///
/// # Errors
///
/// The first that is not.
pub fn new_ones_with(theatre: &Theatre, service: &Service, server: Option<&str>) -> Result<()> {
    let lab = &theatre.lab;
    let mut questions = Vec::new();
    for client in Client::ALL {
        for frontend in client.frontends() {
            for family in [Family::V4, Family::V6] {
                questions.push((client, frontend, service.address(lab, frontend, family)));
            }
        }
    }
    let told = |protocol, (client, frontend, addr): (Client, Frontend, SocketAddr)| {
        format!("new {protocol:?} flow from {client} to the {frontend} at {addr}")
    };
    let Some(server) = server else {
        let asked = questions
            .iter()
            .map(|(client, _, addr)| (client.host(lab), *addr));
        for (question, answer) in questions.iter().zip(connections_refused(asked)) {
            answer.with_context(|| told(Protocol::Tcp, *question))?;
        }
        for question @ (client, _, addr) in questions {
            is_refused(ask(client.host(lab), Protocol::Udp, addr))
                .with_context(|| told(Protocol::Udp, question))?;
        }
        return Ok(());
    };
    for question @ (client, _, addr) in questions {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for _ in 0..NEW {
                let answer =
                    ask(client.host(lab), protocol, addr).with_context(|| told(protocol, question))?;
                ensure!(
                    answer.server == server,
                    "{}: {} answered, not {server}",
                    told(protocol, question),
                    answer.server
                );
            }
        }
    }
    Ok(())
}

/// A service of two pods, by numbers that no other service of the matrix has.
pub fn two_pods(name: &str, number: u16, first: Option<State>, second: Option<State>) -> Service {
    let endpoints: Vec<(Place, State)> = [(Place::Pod1, first), (Place::Pod2, second)]
        .into_iter()
        .filter_map(|(place, state)| Some((place, state?)))
        .collect();
    Service::plain(name, number, &endpoints)
}
