//! What clients of a cluster see, waited for as Kubernetes' own tests wait for it.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_testkit::{Answer, Host, Lab, http_get_within, output, udp_ask_within};
use serde_json::json;

use super::addresses;
use crate::{
    agent::{at_once, eventually},
    http::get,
};

/// How long Kubernetes' own tests wait for a change of endpoints (`KubeProxyEndpointLagTimeout`).
pub const WITHIN: Duration = Duration::from_secs(30);
/// How long an answer may take that is expected.
const ANSWER: Duration = Duration::from_secs(2);
/// How long is listened for one that is not.
const SILENCE: Duration = Duration::from_millis(300);

/// Port of an agent's `/healthz`.
const HEALTHZ: u16 = 10_256;
/// Port of its `/metrics`, at the loopback address.
const METRICS: u16 = 10_249;

/// How clients ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// By a new connection.
    Tcp,
    /// By a datagram of a new socket, which is connected.
    Udp,
    /// By a datagram of a new socket that is not connected. It hears of no ICMP error: of a refusal only where the call
    /// itself is refused, which is that of a process of the node.
    Datagram,
}

impl Over {
    /// Those of clients that hear of a refusal.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// Asks once.
    ///
    /// # Errors
    ///
    /// If there is no answer within that time.
    pub fn ask(self, client: &Host, addr: SocketAddr, limit: Duration) -> Result<Answer> {
        let answer = match self {
            Self::Tcp => http_get_within(client, addr, limit),
            Self::Udp => udp_ask_within(client, addr, true, limit),
            Self::Datagram => udp_ask_within(client, addr, false, limit),
        };
        answer.with_context(|| format!("{} asks {addr} over {self:?}", client.name))
    }

    /// Who answers, asked often enough that each of a few endpoints does.
    fn who(self, client: &Host, addr: SocketAddr) -> Result<BTreeSet<String>> {
        (0..24)
            .map(|_| Ok(self.ask(client, addr, ANSWER)?.server))
            .collect()
    }
}

/// Waits until just these answer over TCP, to each of the clients at each of the addresses.
///
/// # Errors
///
/// If it does not come to that within half a minute, which is what Kubernetes' own tests allow for endpoints.
pub fn answered_by(clients: &[&Host], addrs: &[SocketAddr], servers: &[&Host]) -> Result<()> {
    answered_over(&[Over::Tcp], clients, addrs, servers)
}

/// As [`answered_by`], in each of these ways.
///
/// # Errors
///
/// As [`answered_by`].
pub fn answered_over(
    ways: &[Over],
    clients: &[&Host],
    addrs: &[SocketAddr],
    servers: &[&Host],
) -> Result<()> {
    let wanted: BTreeSet<String> = servers.iter().map(|host| host.name.clone()).collect();
    for (way, client, addr) in questions(ways, clients, addrs) {
        eventually(WITHIN, || {
            let found = way.who(client, addr)?;
            ensure!(
                found == wanted,
                "{} asks {addr} over {way:?}: {found:?} answer, not {wanted:?}",
                client.name
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// Waits until the clients are refused over TCP, at each of the addresses.
///
/// # Errors
///
/// If it does not come to that within half a minute.
pub fn refused(clients: &[&Host], addrs: &[SocketAddr]) -> Result<()> {
    refused_over(&[Over::Tcp], clients, addrs)
}

/// As [`refused`], in each of these ways. All ask at once: IPv6 takes a second to tell of some refusals.
///
/// # Errors
///
/// As [`refused`].
pub fn refused_over(ways: &[Over], clients: &[&Host], addrs: &[SocketAddr]) -> Result<()> {
    let asked = at_once(questions(ways, clients, addrs), |(way, client, addr)| {
        eventually(WITHIN, || {
            let refusal = match way.ask(client, addr, ANSWER) {
                Ok(answer) => bail!("{} asks {addr}: {} answers", client.name, answer.server),
                Err(refusal) => refusal,
            };
            // Not what it shows of itself: a backtrace names this function.
            ensure!(format!("{refusal:#}").contains("refused"), "{refusal:#}");
            Ok(())
        })
    });
    asked.into_iter().try_for_each(|one| one.map(drop))
}

/// Waits until nothing answers the clients over TCP or UDP, at each of the addresses, whatever they hear instead.
///
/// # Errors
///
/// If it does not come to that within half a minute.
pub fn unanswered(clients: &[&Host], addrs: &[SocketAddr]) -> Result<()> {
    let asked = at_once(questions(&Over::ALL, clients, addrs), |(way, client, addr)| {
        eventually(WITHIN, || {
            let answer = way.ask(client, addr, SILENCE);
            ensure!(
                answer.is_err(),
                "{} asks {addr} over {way:?}: {answer:?}",
                client.name
            );
            Ok(())
        })
    });
    asked.into_iter().try_for_each(|one| one.map(drop))
}

/// Each client at each address in each way.
fn questions<'a>(
    ways: &[Over],
    clients: &[&'a Host],
    addrs: &[SocketAddr],
) -> Vec<(Over, &'a Host, SocketAddr)> {
    let mut questions = Vec::new();
    for client in clients {
        for addr in addrs {
            questions.extend(ways.iter().map(|way| (*way, *client, *addr)));
        }
    }
    questions
}

/// The one server that answers fifteen connections in a row, as Kubernetes' own tests of session affinity ask.
///
/// # Errors
///
/// If there is more than one, or no answer.
pub fn stays(client: &Host, addr: SocketAddr) -> Result<String> {
    stays_over(Over::Tcp, client, addr)
}

/// As [`stays`], in one of the ways to ask.
///
/// # Errors
///
/// As [`stays`].
pub fn stays_over(way: Over, client: &Host, addr: SocketAddr) -> Result<String> {
    let mut servers = BTreeSet::new();
    for _ in 0..15 {
        servers.insert(way.ask(client, addr, ANSWER)?.server);
    }
    ensure!(
        servers.len() == 1,
        "{} was answered by {servers:?} at {addr} over {way:?}",
        client.name
    );
    Ok(servers.pop_first().unwrap_or_default())
}

/// Waits until a load balancer is told by a node, counted from 1, that it has so many ready endpoints of the Service `web`.
///
/// # Errors
///
/// If it does not come to that within half a minute, or something else is wrong with the answer.
pub fn health_checks(lab: &Lab, node: usize, port: u16, endpoints: u64) -> Result<()> {
    for addr in addresses(lab.node(node), port) {
        eventually(WITHIN, || {
            let answer = get(lab.client(), addr, "/any/path")?;
            let told = (answer.status, answer.json()?);
            let status = if endpoints > 0 { 200 } else { 503 };
            let body = json!({
                "service": {"namespace": "default", "name": "web"},
                "localEndpoints": endpoints,
                "serviceProxyHealthy": true,
            });
            ensure!(
                told == (status, body),
                "{addr}, {endpoints} endpoints: {answer:?}"
            );
            let header = |name| answer.header(name).unwrap_or_default();
            ensure!(
                header("x-load-balancing-endpoint-weight") == endpoints.to_string(),
                "{answer:?}"
            );
            ensure!(header("x-content-type-options") == "nosniff", "{answer:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// What the agent of a node says of the API server, at `/healthz` and in its metrics: `connecting`, `reached` or `away`. What it
/// serves is right all the while.
///
/// # Errors
///
/// If it says something else.
pub fn api_is(node: &Host, state: &str) -> Result<()> {
    let health = get(node, (node.v4, HEALTHZ).into(), "/healthz")?;
    ensure!(health.status == 200, "what is served is right still: {health:?}");
    let health = health.json()?;
    ensure!(health["api"]["state"] == state, "{health}");
    ensure!(health["serving"] == "current", "{health}");
    let metrics = get(node, (Ipv4Addr::LOCALHOST, METRICS).into(), "/metrics")?;
    let line = format!("fairlead_api_state{{state=\"{state}\"}} 1\n");
    ensure!(metrics.body.contains(&line), "no {line} in {}", metrics.body);
    Ok(())
}

/// What curl gets from a host: status and body, in that order, apart by a space.
///
/// # Errors
///
/// If there is no answer.
pub fn curl(host: &Host, url: &str) -> Result<(u16, String)> {
    let text = output(
        host.command("curl")
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                "10",
                "--globoff",
                "--write-out",
                "\n%{http_code}",
            ])
            .arg(url),
    )?;
    let (body, status) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    Ok((
        status.parse().with_context(|| format!("{url}: {text}"))?,
        body.to_owned(),
    ))
}
