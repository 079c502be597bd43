//! What the agent asks of an API server in a run that touches everything it does there, beside the role in `deploy/`.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{
    Lab, Wiring,
    api::{Access, Asked, Verb},
};
use lb_tests::{
    agent::{Agent, command, eventually},
    cluster::Cluster,
    deploy,
    manifests::Manifest,
    stage::NODE_PORT,
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);
const TOKEN: &str = "token-of-the-agent";
/// The ServiceAccount of `deploy/base`.
const USER: &str = "system:serviceaccount:kube-system:fairlead";
const EVENTS: &str = "events.events.k8s.io";
/// A health check port that somebody else has.
const CHECK: u16 = 32_100;

#[test]
fn the_role_in_deploy_allows_what_the_agent_was_seen_to_ask_for_and_nothing_else() {
    recorded().unwrap();
}

fn recorded() -> Result<()> {
    let cluster = Cluster::on(Lab::builder().wiring(Wiring::Routed).build()?)?;
    let (lab, api) = (&cluster.lab, &cluster.api);
    let (role, rights) = deploy::role()?;
    api.user(TOKEN, USER, Access::rules(&role));
    let kubeconfig = lab.folder().join("of-the-agent");
    api.kubeconfig(&kubeconfig, TOKEN, &api.urls())?;
    everything(&cluster, || Agent::start_for(lab, 1, &kubeconfig, &[]))?;

    let asked = api.asked(USER);
    let used: BTreeSet<deploy::Right> = asked
        .iter()
        .map(|one| (one.group.to_owned(), one.resource.clone(), one.verb.to_owned()))
        .collect();
    let (missing, unused): (Vec<_>, Vec<_>) = (
        used.difference(&rights).collect(),
        rights.difference(&used).collect(),
    );
    ensure!(
        missing.is_empty() && unused.is_empty(),
        "the role lacks {missing:?}, and nobody needs {unused:?}"
    );
    // A role for some namespaces alone would not do: everything is watched at once, and Events are where their Services are.
    let namespaces = |of_events: bool| -> BTreeSet<Option<&str>> {
        let found = asked.iter().filter(|one| (one.resource == "events") == of_events);
        found.map(|one: &Asked| one.namespace.as_deref()).collect()
    };
    ensure!(namespaces(false) == [None].into(), "{asked:?}");
    ensure!(
        namespaces(true) == [Some("default"), Some("other")].into(),
        "{asked:?}"
    );
    ensure!(
        api.asked("system:anonymous").is_empty(),
        "every request has a token"
    );
    Ok(())
}

/// Everything that an agent does at an API server: it lists and watches, goes on after watches that end, break and expire,
/// tells Events, tells them again, and is restarted.
fn everything(cluster: &Cluster, start: impl Fn() -> Result<Agent>) -> Result<()> {
    let (lab, api) = (&cluster.lab, &cluster.api);
    let node = lab.node(1);
    let _holder = node.run(|| std::net::TcpListener::bind((node.v4, CHECK)))??;
    let mut agent = start()?;
    let web = Manifest::new("web", 10)
        .port(80, 8080, Some(NODE_PORT))
        .balancer(&["198.51.100.7"])
        .with("externalTrafficPolicy: Local")
        .with(&format!("healthCheckNodePort: {CHECK}"))
        .endpoint(lab.pod(1, 1), "node1");
    let bad = web.clone().with("loadBalancerSourceRanges: ['192.0.2/24']");
    cluster.apply(&bad)?;
    api.create(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "sctp", "namespace": "other"},
        "spec": {
            "clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"], "ipFamilies": ["IPv4"],
            "ports": [{"port": 9, "protocol": "SCTP"}],
        },
    }))?;
    for reason in [
        "FailedToStartServiceHealthcheck",
        "InvalidSourceRange",
        "SCTPNotForNodes",
    ] {
        eventually(SOON, || {
            let events = api.list(EVENTS);
            ensure!(
                events.iter().any(|event| event["reason"] == reason),
                "no {reason} in {events:?}\n{}",
                agent.log()
            );
            Ok(())
        })?;
    }
    // What comes again is counted in the Event that there is.
    eventually(SOON, || {
        cluster.apply(&web)?;
        std::thread::sleep(Duration::from_millis(300));
        cluster.apply(&bad)?;
        std::thread::sleep(Duration::from_millis(300));
        ensure!(api.requests(Verb::Patch, EVENTS) > 0, "{}", agent.log());
        Ok(())
    })?;
    for (mishap, what) in [
        ((|cluster| cluster.api.end_watches(None)) as fn(&Cluster), "ended"),
        (|cluster| cluster.api.tear_watches(None), "torn"),
        (|cluster| cluster.api.expire_watches(None), "expired"),
    ] {
        let before = api.requests(Verb::Watch, "services");
        mishap(cluster);
        eventually(SOON, || {
            ensure!(
                api.requests(Verb::Watch, "services") > before,
                "watches that were {what} begin again"
            );
            Ok(())
        })?;
    }
    ensure!(api.requests(Verb::List, "services") > 1, "it listed anew");
    agent.stop()?;
    agent = start()?;
    ensure!(!agent.log().contains("RBAC"), "{}", agent.log());
    agent.stop()?;
    // These do not need the API server.
    for words in [&["status"][..], &["cleanup"]] {
        let mut other = command(node, words)?;
        lb_testkit::output(other.arg("--bpffs").arg(lab.bpffs(1))).with_context(|| words.join(" "))?;
    }
    Ok(())
}
