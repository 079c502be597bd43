//! What the agent does with a large cluster: how much memory it takes, how soon it serves, and how soon a change of endpoints is
//! in the kernel.
//!
//! The agent watches the testkit's API server, as it would watch a real one. A change is timed from before it is written to the
//! API server until SERVICES, read here beside the agent, names another table: all that is between them counts, the server
//! included.

use std::{
    fs,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::abi::{Frontend, FrontendKey, map, port_to_wire};
use lb_testkit::Wiring;
use lb_tests::{agent::Agent, cluster::Cluster, flow_tables};
use lb_userspace::plan::Protocol;
use serde_json::{Value, json};

use super::{
    args::Extent,
    figures::{Control, Memory},
};

/// Endpoints of each service.
const ENDPOINTS: u32 = 10;
/// Nodes that they are on.
const NODES: u32 = 500;
/// Room for a hundred thousand endpoints and their tables.
const ROOM: [&str; 2] = ["--max-backends=262144", "--maglev-slots=16777216"];
/// What the lab asks the agent to log would be measured as well.
const QUIET: &str = "--log-level=info";
/// How long a change may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the agent does after it has told that it serves is over by then.
const REST: Duration = Duration::from_secs(3);

/// Measures the agent with so many services.
pub(crate) fn measure(extent: &Extent) -> Result<Control> {
    let services = u32::try_from(extent.control)?;
    eprintln!("agent: {services} services of {ENDPOINTS} endpoints");
    let cluster = Cluster::new(Wiring::Routed)?;
    for nth in 0..services {
        cluster.api.create(service(nth))?;
        cluster.api.create(slice(nth, ENDPOINTS))?;
    }
    let mut control = Control {
        services: extent.control,
        endpoints: extent.control * ENDPOINTS as usize,
        ..Control::default()
    };
    let (mut agent, took) = start(&cluster)?;
    control.ready = took;
    control.memory = memory(&mut agent)?;
    let watched = Watched::open(&cluster)?;
    for nth in 0..extent.changes {
        // Spread over the cluster; each takes an endpoint away or brings it back.
        let service = (nth as u32).wrapping_mul(7_919) % services;
        let endpoints = if (nth as u32 / services).is_multiple_of(2) {
            ENDPOINTS - 1
        } else {
            ENDPOINTS
        };
        let took = watched.time(service, || {
            cluster.api.update(slice(service, endpoints)).map(drop)?;
            Ok(())
        })?;
        control.changes.push(took.as_secs_f64() * 1e3);
        // No faster than pods come and go: the agent is to be found at rest.
        thread::sleep(Duration::from_millis(20));
    }
    agent.stop()?;
    drop(agent);
    let (mut agent, took) = start(&cluster)?;
    control.ready_again = took;
    control.memory_again = memory(&mut agent)?;
    agent.stop()?;
    Ok(control)
}

/// Starts the agent of the first node, and waits until it serves.
fn start(cluster: &Cluster) -> Result<(Agent, Duration)> {
    let begin = Instant::now();
    let agent = cluster.agent(1, &[&ROOM[..], &[QUIET]].concat())?;
    Ok((agent, begin.elapsed()))
}

/// What the kernel says of the agent's memory (`proc_pid_status(5)`).
fn memory(agent: &mut Agent) -> Result<Memory> {
    thread::sleep(REST);
    let status = fs::read_to_string(format!("/proc/{}/status", agent.process().id()))?;
    let field = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim_matches([':', ' ', '\t']).split(' ').next());
        let kib = kib.with_context(|| format!("no {name} in the agent's status"))?;
        // MB as in the targets: 10^6 bytes.
        Ok(kib.parse::<f64>()? * 1024.0 / 1e6)
    };
    Ok(Memory {
        resident: field("VmRSS")?,
        own: field("RssAnon")?,
        peak: field("VmHWM")?,
    })
}

/// The maps that show what a frontend leads to.
struct Watched {
    frontends: HashMap<MapData, FrontendKey<u32>, Frontend>,
    services: Array<MapData, u64>,
}

impl Watched {
    fn open(cluster: &Cluster) -> Result<Self> {
        let folder = flow_tables::maps(&cluster.lab, 1);
        let pinned = |name: &str| MapData::from_pin(folder.join(name));
        Ok(Self {
            frontends: Map::HashMap(pinned(map::FRONTENDS4)?).try_into()?,
            services: Map::Array(pinned(map::SERVICES)?).try_into()?,
        })
    }

    /// How long it takes until a change of a service is in the kernel.
    fn time(&self, service: u32, change: impl FnOnce() -> Result<()>) -> Result<Duration> {
        let addr = u32::from_ne_bytes(cluster_ip(service).octets());
        let key = FrontendKey::new(addr, port_to_wire(80), Protocol::Tcp.number());
        let id = self.frontends.get(&key, 0)?.service;
        let before = self.services.get(&id, 0)?;
        let begin = Instant::now();
        change()?;
        while self.services.get(&id, 0)? == before {
            ensure!(
                begin.elapsed() < PATIENCE,
                "a change of service {service} is not in the kernel after {PATIENCE:?}"
            );
            thread::sleep(Duration::from_micros(100));
        }
        Ok(begin.elapsed())
    }
}

fn cluster_ip(nth: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + nth)
}

fn name(nth: u32) -> String {
    format!("service-{nth}")
}

fn service(nth: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name(nth), "namespace": "default", "labels": {"app": name(nth)}},
        "spec": {
            "clusterIP": cluster_ip(nth),
            "selector": {"app": name(nth)},
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        },
    })
}

/// The slice of a service with so many of its endpoints.
fn slice(nth: u32, endpoints: u32) -> Value {
    let endpoint = |of: u32| {
        let number = nth * ENDPOINTS + of;
        // Beside the lab's pods; addresses that nobody has.
        let addr = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 1)) + number);
        json!({
            "addresses": [addr],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", number % NODES),
            "zone": "a",
            "targetRef": {
                "kind": "Pod", "namespace": "default",
                "name": format!("{}-7d9f8c6b5d-{of:05}", name(nth)),
                "uid": format!("0b1f6c3e-0000-4000-8000-{number:012}"),
            },
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-x7k2p", name(nth)), "namespace": "default",
            "labels": {"kubernetes.io/service-name": name(nth)},
        },
        "addressType": "IPv4",
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}
