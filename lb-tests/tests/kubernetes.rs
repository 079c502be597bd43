//! The Kubernetes API as a source: what it says is served, whatever else it does.

use std::{cell::Cell, net::SocketAddr, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{
    api::{Access, Fault, Order, Verb},
    http_get,
};
use lb_tests::{
    agent::{Agent, eventually},
    cluster::{curl, web_at, web_served_by, with_web},
    manifests::Manifest,
    stage::web,
    traffic::without_a_lost_request,
};

/// How long a change may take to be seen; that of SEMANTICS is 30 s, our own goal 1 s.
const SOON: Duration = Duration::from_secs(10);

/// A server that does not answer is given up after this time.
const IMPATIENT: [&str; 2] = ["--api-timeout", "2s"];

#[test]
fn services_of_the_api_are_served_and_their_changes_followed() {
    followed().unwrap();
}

fn followed() -> Result<()> {
    let (cluster, _servers) = with_web(2)?;
    let agent = cluster.agent(1, &[])?;
    let client = cluster.lab.pod(1, 1);
    web_served_by(client, "n1-b").with_context(|| agent.log())?;
    cluster.apply(&web_at(&cluster.lab, 3))?;
    eventually(SOON, || web_served_by(client, "n1-c"))?;
    cluster.delete(&web_at(&cluster.lab, 3))?;
    eventually(SOON, || {
        ensure!(http_get(client, web()[0]).is_err(), "it still answers");
        Ok(())
    })?;
    // Lists and watches carry the selectors of a proxy: other objects are never sent.
    ensure!(
        cluster.api.requests(Verb::List, "services") == 1,
        "one list is enough"
    );
    ensure!(
        cluster.api.requests(Verb::List, "pods") == 0,
        "pods are nothing to a proxy"
    );
    ensure!(!agent.log().contains("ERROR"), "{}", agent.log());
    Ok(())
}

#[test]
fn an_agent_that_starts_without_the_api_serves_what_is_pinned_and_says_so() {
    pinned_without_api().unwrap();
}

fn pinned_without_api() -> Result<()> {
    let (cluster, _servers) = with_web(2)?;
    let client = cluster.lab.pod(1, 1);
    cluster.agent(1, &[])?.stop()?;
    cluster.api.refuse();
    cluster.api.cut()?;
    let node = cluster.lab.node(1);
    let mut agent = Agent::spawn_for(&cluster.lab, 1, cluster.kubeconfig(), &[])?;
    agent.process().wait_for("cannot reach the API server", SOON)?;
    agent.process().wait_for("going on from what is pinned", SOON)?;
    web_served_by(client, "n1-b")?;
    let url = format!("http://{}:10256/healthz", node.v4);
    let health = || -> Result<serde_json::Value> {
        let (_, body) = curl(node, &url)?;
        serde_json::from_str(&body).with_context(|| body.clone())
    };
    eventually(SOON, || {
        let health = health()?;
        ensure!(health["serving"] == "pinned", "{health}");
        Ok(())
    })?;
    // And goes on when the API server is back.
    cluster.apply(&web_at(&cluster.lab, 3))?;
    cluster.api.accept_again()?;
    eventually(Duration::from_secs(40), || web_served_by(client, "n1-c")).with_context(|| agent.log())?;
    let health = health()?;
    ensure!(health["serving"] != "pinned", "{health}");
    Ok(())
}

#[test]
fn whatever_the_api_server_does_a_working_service_stays() {
    misbehaviour().unwrap();
}

fn misbehaviour() -> Result<()> {
    let (cluster, _servers) = with_web(2)?;
    let api = &cluster.api;
    let agent = cluster.agent(1, &IMPATIENT)?;
    let client = cluster.lab.pod(1, 1);
    let turn = Cell::new(2);
    // After each mishap a change must still come through: the endpoint moves to the other pod.
    let moves = |what: &str| -> Result<()> {
        let next = if turn.get() == 2 { 3 } else { 2 };
        cluster.apply(&web_at(&cluster.lab, next))?;
        let name = if next == 2 { "n1-b" } else { "n1-c" };
        eventually(Duration::from_secs(60), || web_served_by(client, name))
            .with_context(|| format!("after {what}:\n{}", agent.log()))?;
        turn.set(next);
        Ok(())
    };
    without_a_lost_request(&[(client, web()[0])], || {
        api.end_watches(None);
        moves("watches that ended")?;
        api.tear_watches(None);
        moves("watches that were torn")?;
        api.expire_watches(None);
        moves("410 in the middle of watches")?;
        let order = api.order(Order::new(Fault::Expired).times(4));
        api.end_watches(None);
        moves("410 at the start of watches")?;
        api.lift(order);
        // 404 is what a proxy may say that stands before servers which restart.
        for (code, what) in [(429, "429"), (500, "500"), (503, "503"), (404, "404")] {
            let order = api.order(Order::new(Fault::Status {
                code,
                retry_after: Some(1),
            }));
            api.tear_watches(None);
            thread::sleep(Duration::from_secs(1));
            api.lift(order);
            moves(what)?;
        }
        let order = api.order(Order::new(Fault::Hang).verb(Verb::Watch));
        api.end_watches(None);
        thread::sleep(Duration::from_secs(1));
        api.lift(order);
        moves("watches that did not start")?;
        let order = api.order(Order::new(Fault::Hang).verb(Verb::List));
        api.expire_watches(None);
        thread::sleep(Duration::from_secs(3));
        api.lift(order);
        moves("lists that did not answer")?;
        api.refuse();
        api.cut()?;
        thread::sleep(Duration::from_secs(1));
        api.accept_again()?;
        moves("an absence")?;
        let order = api.order(Order::new(Fault::Twice));
        api.end_watches(None);
        moves("events that come twice")?;
        api.lift(order);
        api.end_watches(None);
        moves("what was before")?;
        api.show_older("endpointslices", "default/web-ipv4")?;
        // It shows the endpoint that was before; the next change tells that it was taken in or left out by now.
        cluster.apply(
            &Manifest::new("other", 11)
                .port(80, 8080, None)
                .endpoint(cluster.lab.pod(1, 1), "node1"),
        )?;
        let name = if turn.get() == 2 { "n1-b" } else { "n1-c" };
        for _ in 0..20 {
            web_served_by(client, name).context("after an event out of order")?;
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    })
    .with_context(|| agent.log())?;
    Ok(())
}

#[test]
fn a_server_that_comes_back_with_an_empty_list_and_then_the_full_one_takes_nothing_away() {
    empty_then_full().unwrap();
}

fn empty_then_full() -> Result<()> {
    let (cluster, _servers) = with_web(2)?;
    let api = &cluster.api;
    let mut agent = cluster.agent(1, &[])?;
    let client = cluster.lab.pod(1, 1);
    without_a_lost_request(&[(client, web()[0])], || {
        let order = api.order(Order::new(Fault::Short(0)).verb(Verb::List));
        api.expire_watches(None);
        agent
            .process()
            .wait_for("new list of Service objects lacks", SOON)?;
        thread::sleep(Duration::from_secs(1));
        api.lift(order);
        eventually(SOON, || {
            ensure!(api.requests(Verb::List, "services") >= 3, "it is listed again");
            Ok(())
        })?;
        // Over an agent's restart as well: what is pinned is not given up for an empty list.
        agent.stop()?;
        let order = api.order(Order::new(Fault::Short(0)).verb(Verb::List));
        agent = cluster.agent(1, &[])?;
        ensure!(agent.log().contains("less than half"), "{}", agent.log());
        api.lift(order);
        agent.process().wait_for("are believed now", SOON)?;
        Ok(())
    })
    .with_context(|| agent.log())?;
    cluster.apply(&web_at(&cluster.lab, 3))?;
    eventually(SOON, || web_served_by(client, "n1-c"))?;
    // What is really gone goes.
    cluster.delete(&web_at(&cluster.lab, 3))?;
    eventually(SOON, || {
        ensure!(http_get(client, web()[0]).is_err(), "it still answers");
        Ok(())
    })?;
    Ok(())
}

/// The lines of a log that tell of an error.
fn errors(agent: &Agent) -> Vec<String> {
    let log = agent.log();
    log.lines()
        .filter(|line| line.contains("ERROR"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_way_to_be_turned_away_is_one_clear_error() {
    turned_away().unwrap();
}

fn turned_away() -> Result<()> {
    let (cluster, _servers) = with_web(2)?;
    let (api, lab) = (&cluster.api, &cluster.lab);
    let folder = lab.folder();
    let kubeconfig = |name: &str, token: &str, urls: &[String]| -> Result<std::path::PathBuf> {
        let path = folder.join(name);
        api.kubeconfig(&path, token, urls)?;
        Ok(path)
    };
    api.user(
        "poor",
        "poor",
        Access::everything().without("list", "endpointslices.discovery.k8s.io"),
    );
    let nobody: SocketAddr = (lab.client().v4, 6444).into();
    for (name, token, url, words) in [
        (
            "stranger",
            "no-such-token",
            api.url(),
            ["does not accept the agent's credentials", "renew"],
        ),
        (
            "poor",
            "poor",
            api.url(),
            ["may not list and watch endpointslices", "RBAC"],
        ),
        (
            "lost",
            "poor",
            format!("https://{nobody}"),
            ["cannot reach the API server", "check that it runs"],
        ),
    ] {
        let file = kubeconfig(name, token, &[url])?;
        let mut agent = Agent::spawn_for(lab, 1, &file, &[])?;
        agent
            .process()
            .wait_for("ERROR", SOON)
            .with_context(|| name.to_owned())?;
        // Some further attempts say nothing new.
        thread::sleep(Duration::from_secs(3));
        let told = errors(&agent);
        ensure!(told.len() == 1, "{name}: one error is told once: {told:?}");
        for word in words {
            ensure!(told[0].contains(word), "{name}: {told:?}");
        }
        ensure!(agent.process().ended()?.is_none(), "{name}: it goes on trying");
    }
    let file = folder.join("malformed");
    std::fs::write(&file, "apiVersion: v1\nkind: Config\nclusters: 7\n")?;
    let mut agent = Agent::spawn_for(lab, 1, &file, &[])?;
    let status = agent.process().wait(SOON)?;
    ensure!(status.code() == Some(1), "{status}");
    let log = agent.log();
    ensure!(
        log.contains("cannot use the kubeconfig") && log.contains("malformed") && log.lines().count() == 1,
        "{log}"
    );
    Ok(())
}
