//! Fifty thousand changes of endpoints, told as fast as an agent takes them: what works goes on, and in the end the kernel has
//! what the server has.
//!
//! `cargo nextest run -p lb-tests --test flood --no-capture` shows how fast they went (docs/benchmarks.md).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Host, Lab, Server, Wiring, api::Verb, output};
use lb_tests::{
    agent::{counted, eventually},
    cluster::Cluster,
    http::get,
    kernel_view,
    manifests::Manifest,
    stage::{at, web},
    traffic::without_a_lost_request,
};
use serde_json::{Value, json};

/// Changes of slices.
const EVENTS: u64 = 50_000;
/// Services whose endpoints change.
const RESTLESS: u64 = 50;
/// Endpoints of each of them in each family; a change replaces one.
const ENDPOINTS: u64 = 3;
/// So many requests of the pod at least, or nothing was shown.
const ASKED: u64 = 20;
/// How long the agent may take for what it was told last; a machine may be slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the lab asks the agent to log would be measured as well.
const QUIET: [&str; 1] = ["--log-level=info"];

const METRICS: u16 = 10_249;

/// A device that comes meanwhile.
const LATE: &str = "veth-late";

fn name(number: u64) -> String {
    format!("restless{number}")
}

/// What becomes of a slice by the event of a number: families take turns, and then Services.
fn change(event: u64) -> (&'static str, String, Value) {
    let (family, service) = (event % 2, event / 2 % RESTLESS);
    let round = event / 2 / RESTLESS;
    let endpoints = (round..round + ENDPOINTS).map(|number| {
        // Not those that another Service has at the same time, and none that this one had lately.
        let (high, low) = (service, number % 250 + 1);
        let addr = if family == 0 {
            format!("10.2.{high}.{low}")
        } else {
            format!("fd00:10:2:{high:x}::{low:x}")
        };
        json!({"addresses": [addr], "conditions": {"ready": true}})
    });
    let slice = format!("default/{}-{}", name(service), ["ipv4", "ipv6"][family as usize]);
    let endpoints: Vec<Value> = endpoints.collect();
    ("endpointslices", slice, json!({"endpoints": endpoints}))
}

/// What the agent of a node has counted.
#[derive(Clone, Copy)]
struct Counted {
    /// Changes of slices that it has heard of.
    heard: f64,
    /// Seconds that it has kept a CPU busy.
    busy: f64,
}

impl Counted {
    fn of(node: &Host) -> Result<Self> {
        let metrics = get(node, at([127, 0, 0, 1], METRICS), "/metrics")?;
        let value = |name: &str| -> Result<f64> {
            let mut lines = metrics.body.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            Ok(value.with_context(|| format!("no {name}"))?.parse()?)
        };
        Ok(Self {
            heard: value("kubeproxy_sync_proxy_rules_endpoint_changes_total")?,
            busy: value("process_cpu_seconds_total")?,
        })
    }
}

#[test]
fn fifty_thousand_changes_of_endpoints_lose_no_request_and_end_in_the_server_s_state() {
    flood().unwrap();
}

fn flood() -> Result<()> {
    let cluster = Cluster::on(Lab::builder().wiring(Wiring::Routed).build()?)?;
    let (lab, api) = (&cluster.lab, &cluster.api);
    let servers = [lab.pod(1, 2), lab.pod(2, 1)];
    let _servers = servers
        .map(|pod| Server::start(pod, 8080))
        .into_iter()
        .collect::<lb_testkit::Result<Vec<_>>>()?;
    let untouched = Manifest::new("web", 10)
        .port(80, 8080, None)
        .endpoint(servers[0], "node1")
        .endpoint(servers[1], "node2");
    cluster.apply(&untouched)?;
    for number in 0..RESTLESS {
        let service = Manifest::new(&name(number), 100 + number as u16);
        cluster.apply(&service.port(80, 8080, None).endpoint(servers[0], "node1"))?;
    }
    let agent = cluster.agent(1, &QUIET)?;
    let (node, pod) = (lab.node(1), lab.pod(1, 1));
    eventually(PATIENCE, || kernel_view::agrees(&cluster, 1))?;
    let (before, flows) = (Counted::of(node)?, counted(lab, 1, "new_flow")?);
    let asking = [
        (pod, web()[0]),
        (pod, web()[1]),
        (node, web()[0]),
        (node, web()[1]),
    ];
    let (took, after) = without_a_lost_request(&asking, || {
        let begin = Instant::now();
        let late = ["link", "add", LATE, "type", "veth", "peer", "name", "late"];
        output(node.command("ip").args(late))?;
        output(node.command("ip").args(["link", "set", LATE, "up"]))?;
        api.burst(EVENTS, change)?;
        let took = begin.elapsed();
        ensure!(
            agent.log().contains(&format!("device=\"{LATE}\"")),
            "a new device has to wait"
        );
        Ok((took, eventually(PATIENCE, || kernel_view::agrees(&cluster, 1))?))
    })
    .with_context(|| agent.log())?;
    // Each was an event of a watch: no list stood in for those before it.
    let agents = Counted::of(node)?;
    let heard = (agents.heard - before.heard) as u64;
    ensure!(heard == EVENTS, "the agent heard of {heard} changes");
    let asked = counted(lab, 1, "new_flow")? - flows;
    ensure!(asked >= ASKED, "only {asked} requests were packets");
    let lists = api.requests(Verb::List, "endpointslices");
    ensure!(lists == 1, "{lists} lists");
    eprintln!(
        "{EVENTS} changes were taken in {took:.1?}, {:.0} a second, beside {asked} requests of a pod; the kernel had the \
         last of them {after:.1?} later; the agent used {:.1} s of a CPU",
        EVENTS as f64 / took.as_secs_f64(),
        agents.busy - before.busy
    );
    Ok(())
}
