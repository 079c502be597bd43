//! What probes and load balancers are told.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Lab, Server, Wiring, http_get};
use lb_tests::{
    agent::{Agent, Folder, eventually},
    cluster::{Cluster, addresses, health_checks},
    http::get,
    manifests::Manifest,
    stage::{NODE_PORT, Stage, at, web},
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// How soon a change must be told; a machine may be slow.
const SOON: Duration = Duration::from_secs(20);
const HEALTHZ: u16 = 10_256;
const METRICS: u16 = 10_249;
/// The health check port of the service `web`.
const CHECK: u16 = 32_100;
/// Bytes of a frame that begins a TCP connection: the headers, and 20 bytes of options (Linux).
const SYN: RangeInclusive<f64> = 74.0..=94.0;

#[test]
fn probes_are_answered_over_both_families_and_operators_on_the_node_alone() {
    probes().unwrap();
}

fn probes() -> Result<()> {
    let stage = Stage::new(Wiring::Routed)?;
    let node = stage.lab.node(1);
    for addr in addresses(node, HEALTHZ) {
        let answer = get(stage.lab.client(), addr, "/healthz")?;
        ensure!(answer.status == 200, "{answer:?}");
        let body = answer.json()?;
        ensure!(
            body["healthy"] == true && body["serving"] == "current",
            "{answer:?}"
        );
        ensure!(body["status"]["IPv4"]["healthy"] == true, "{answer:?}");
        ensure!(get(stage.lab.client(), addr, "/livez")?.status == 200);
    }
    let local: SocketAddr = format!("127.0.0.1:{METRICS}").parse()?;
    ensure!(get(node, local, "/proxyMode")?.body == "fairlead");
    let configuration = get(node, local, "/configz")?.json()?;
    ensure!(
        configuration["fairlead.dev"]["hostnameOverride"] == node.name,
        "{configuration}"
    );
    let [web, _] = web();
    http_get(stage.lab.pod(1, 1), web)?;
    // What the kernel counts is read at most every 10 s, and flows are counted as often.
    eventually(SOON, || {
        let answer = get(node, local, "/metrics")?;
        ensure!(answer.status == 200, "{answer:?}");
        let kind = answer.header("content-type").unwrap_or_default();
        ensure!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        for wanted in [
            r#"fairlead_packets_total{reason="new_flow",action="forward"} "#,
            r#"fairlead_flow_table_capacity{ip_family="IPv6"} "#,
            r#"fairlead_map_entries{map="FRONTENDS4"} "#,
            r#"fairlead_map_capacity{map="AFFINITY6"} "#,
            r#"fairlead_map_capacity{map="RANGES4"} "#,
            r#"fairlead_serving{state="current"} 1"#,
            r#"kubeproxy_proxy_healthz_total{code="200"} "#,
            r#"kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"} "#,
        ] {
            ensure!(answer.body.contains(wanted), "{wanted} in\n{}", answer.body);
        }
        let value = |name: &str| {
            let mut lines = answer.body.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
            value.unwrap_or(0.0)
        };
        let flows = value(r#"fairlead_packets_total{reason="new_flow",action="forward"}"#);
        let bytes = value(r#"fairlead_bytes_total{reason="new_flow",action="forward"}"#);
        ensure!(flows > 0.0 && SYN.contains(&(bytes / flows)), "{}", answer.body);
        ensure!(
            value(r#"fairlead_map_entries{map="FRONTENDS4"}"#) >= 8.0,
            "{}",
            answer.body
        );
        ensure!(
            value(r#"fairlead_programmed{kind="services"}"#) > 0.0,
            "{}",
            answer.body
        );
        Ok(())
    })?;
    for addr in addresses(node, METRICS) {
        ensure!(
            get(stage.lab.client(), addr, "/configz").is_err(),
            "{addr} is for the node alone"
        );
    }
    Ok(())
}

#[test]
fn a_health_check_port_tells_each_nodes_ready_endpoints_by_family() -> Result<()> {
    let stage = Stage::new(Wiring::Routed)?;
    let lab = &stage.lab;
    let check = format!("healthCheckNodePort: {CHECK}");
    let web = stage
        .web
        .clone()
        .balancer(&["198.51.100.7", "2001:db8:51::7"])
        .with("externalTrafficPolicy: Local")
        .with(&check);
    let expect = |node, endpoints| health_checks(lab, node, CHECK, endpoints);
    stage.folder.write("web.yaml", &web.yaml())?;
    expect(1, 1)?;
    expect(2, 1)?;
    // An endpoint that terminates still serves, but load balancers are to look elsewhere.
    stage
        .folder
        .write("web.yaml", &web.clone().terminating(lab.pod(2, 1)).yaml())?;
    expect(2, 0)?;
    expect(1, 1)?;
    let two = web.endpoint(lab.pod(1, 3), "node1");
    stage.folder.write("web.yaml", &two.yaml())?;
    expect(1, 2)?;
    // The policy Cluster asks for no health check: the port is closed.
    stage.folder.write("web.yaml", &stage.web.yaml())?;
    for addr in addresses(lab.node(1), CHECK) {
        eventually(SOON, || {
            ensure!(get(lab.client(), addr, "/").is_err(), "{addr} is still open");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_node_that_is_to_go_fails_its_probe_and_serves_on() -> Result<()> {
    let cluster = Cluster::new(Wiring::Routed)?;
    let (lab, api) = (&cluster.lab, &cluster.api);
    let (node, pod) = (lab.node(1), lab.pod(1, 2));
    let _server = Server::start(pod, 8080)?;
    let manifest = Manifest::new("web", 10)
        .port(80, 8080, Some(NODE_PORT))
        .endpoint(pod, &node.name)
        .balancer(&["198.51.100.7", "2001:db8:51::7"])
        .with("externalTrafficPolicy: Local")
        .with(&format!("healthCheckNodePort: {CHECK}"));
    cluster.apply(&manifest)?;
    let _agent = cluster.agent(1, &[])?;
    let tells = |eligible: bool| -> Result<()> {
        for addr in addresses(node, HEALTHZ) {
            eventually(SOON, || {
                let answer = get(lab.client(), addr, "/healthz")?;
                ensure!(answer.status == if eligible { 200 } else { 503 }, "{answer:?}");
                let body = answer.json()?;
                ensure!(body["nodeEligible"] == eligible, "{answer:?}");
                ensure!(body["healthy"] == true, "the proxy itself is well: {answer:?}");
                Ok(())
            })?;
            let live = get(lab.client(), addr, "/livez")?;
            ensure!(live.status == 200, "the agent is not to be restarted: {live:?}");
            ensure!(live.json()?["nodeEligible"] == Value::Null, "{live:?}");
        }
        // Load balancers learn it by /healthz; a Service's port tells of endpoints and of the proxy.
        health_checks(lab, 1, CHECK, 1)?;
        for addr in web().into_iter().chain(addresses(node, NODE_PORT)) {
            http_get(lab.pod(1, 1), addr)?;
        }
        for addr in addresses(node, NODE_PORT) {
            http_get(lab.client(), addr)?;
        }
        Ok(())
    };
    let change = |change: Value| api.patch("nodes", &node.name, &change).map(drop);
    let taint = |key: &str| json!([{"key": key, "effect": "NoSchedule"}]);
    let doomed = "ToBeDeletedByClusterAutoscaler";

    tells(true).context("at first")?;
    change(json!({"spec": {"taints": taint(doomed)}}))?;
    tells(false).with_context(|| doomed.to_owned())?;
    change(json!({"spec": {"taints": taint("node.kubernetes.io/unschedulable")}}))?;
    tells(true).context("another taint")?;
    change(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"taints": null}}))?;
    tells(false).context("being deleted")?;
    api.delete("nodes", &node.name)?;
    api.create_node(&node.name, &[node.v4.into(), node.v6.into()], None)?;
    tells(true).context("a new one of its name")?;
    api.delete("nodes", &node.name)?;
    tells(false).context("missing")?;
    api.create_node(&node.name, &[node.v4.into(), node.v6.into()], None)?;
    tells(true).context("here again")
}

#[test]
fn a_port_that_is_taken_is_told_with_the_remedy_and_had_when_it_is_free() {
    taken().unwrap();
}

fn taken() -> Result<()> {
    let lab = Lab::builder().build()?;
    let folder = Folder::new(&lab)?;
    folder.write("web.yaml", &Manifest::new("web", 10).port(80, 8080, None).yaml())?;
    let node = lab.node(1);
    let addr = at(node.v4, HEALTHZ);
    let holder = node.run(|| std::net::TcpListener::bind(("::", HEALTHZ)))??;
    let mut agent = Agent::start(&lab, 1, folder.path())?;
    agent.process().wait_for("--healthz-bind-address", SOON)?;
    drop(holder);
    eventually(SOON, || {
        ensure!(get(node, addr, "/livez")?.status == 200);
        Ok(())
    })?;
    Ok(())
}

#[test]
fn an_agent_that_goes_on_from_what_is_pinned_says_so() {
    pinned().unwrap();
}

fn pinned() -> Result<()> {
    let lab = Lab::builder().build()?;
    let folder = Folder::new(&lab)?;
    let web = Manifest::new("web", 10).port(80, 8080, None);
    folder.write("web.yaml", &web.yaml())?;
    let node = lab.node(1);
    let addr = at(node.v4, HEALTHZ);
    let mut agent = Agent::start(&lab, 1, folder.path())?;
    agent.process().signal(Signal::TERM)?;
    ensure!(agent.process().wait(SOON)?.success());
    folder.write("web.yaml", "kind: nonsense")?;
    let _agent = Agent::spawn(&lab, 1, folder.path(), &[])?;
    let serving = |wanted: &str| {
        eventually(SOON, || {
            let answer = get(node, addr, "/healthz")?;
            ensure!(answer.status == 200, "{answer:?}");
            ensure!(answer.json()?["serving"] == wanted, "{answer:?}");
            Ok(())
        })
    };
    serving("pinned")?;
    folder.write("web.yaml", &web.yaml())?;
    serving("current")?;
    Ok(())
}

#[test]
fn what_a_service_does_not_get_is_an_event_on_it() {
    events().unwrap();
}

fn events() -> Result<()> {
    let cluster = Cluster::new(Wiring::Routed)?;
    let node = cluster.lab.node(1);
    let _holder = node.run(|| std::net::TcpListener::bind((node.v4, CHECK)))??;
    let _agent = cluster.agent(1, &[])?;
    let web = Manifest::new("web", 10)
        .port(80, 8080, Some(NODE_PORT))
        .balancer(&["198.51.100.7"])
        .with("externalTrafficPolicy: Local")
        .with(&format!("healthCheckNodePort: {CHECK}"))
        .with("loadBalancerSourceRanges: ['192.0.2/24']");
    cluster.apply(&web)?;
    let service = cluster.api.get("services", "default/web");
    let uid = service.as_ref().map(|service| &service["metadata"]["uid"]);
    for reason in ["FailedToStartServiceHealthcheck", "InvalidSourceRange"] {
        eventually(SOON, || {
            let events = cluster.api.list("events.events.k8s.io");
            let found = events.iter().find(|event| event["reason"] == reason);
            let Some(event) = found else {
                anyhow::bail!("no {reason} in {events:?}")
            };
            ensure!(event["regarding"]["name"] == "web", "{event}");
            ensure!(uid == Some(&event["regarding"]["uid"]), "{event} beside {uid:?}");
            ensure!(event["reportingInstance"] == node.name, "{event}");
            Ok(())
        })?;
    }
    // The other family has its port, and so has the rest of the agent.
    let answer = get(cluster.lab.client(), at(node.v6, CHECK), "/")?;
    ensure!(answer.status == 503, "{answer:?}");
    let health = get(node, at(node.v4, HEALTHZ), "/healthz")?;
    ensure!(health.json()?["api"]["state"] == "reached", "{health:?}");
    Ok(())
}
