//! How API servers are reached: several of them, one that comes back without a change, one whose address is no good.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{
    Server,
    api::{ADMIN, Fault, Order, Verb},
};
use lb_tests::{
    agent::{Agent, eventually},
    cluster::{Cluster, api_is, web_at, web_served_by, with_web},
    stage::web,
    traffic::without_a_lost_request,
};

/// How long a change may take that comes while one server fails: kube waits up to half a minute between two attempts.
const BACK: Duration = Duration::from_secs(60);
/// How long the agent may take to see that nobody listens.
const NOTICED: Duration = Duration::from_secs(30);

/// A cluster with `web` at pod 2, and a second API server on node 2. The kubeconfig names the first one alone.
fn with_two() -> Result<(Cluster, Vec<Server>)> {
    let (cluster, servers) = with_web(2)?;
    let second = cluster.lab.node(2);
    cluster.api.listen(second, (second.v4, 6443).into())?;
    ensure!(cluster.api.urls().len() == 2);
    Ok((cluster, servers))
}

/// Moves the endpoint of `web` to a pod, and waits until that is so.
fn moves(cluster: &Cluster, agent: &Agent, pod: usize) -> Result<()> {
    cluster.apply(&web_at(&cluster.lab, pod))?;
    let (client, server) = (cluster.lab.pod(1, 1), &cluster.lab.pod(1, pod).name);
    eventually(BACK, || web_served_by(client, server)).with_context(|| agent.log())?;
    Ok(())
}

#[test]
fn one_of_two_servers_goes_away_and_the_other_is_followed() {
    goes_away().unwrap();
}

fn goes_away() -> Result<()> {
    let (cluster, _servers) = with_two()?;
    let api = &cluster.api;
    let urls = api.urls();
    let agent = cluster.agent(1, &["--master", &urls[0], "--master", &urls[1]])?;
    let (node, client) = (cluster.lab.node(1), cluster.lab.pod(1, 1));
    without_a_lost_request(&[(client, web()[0])], || {
        web_served_by(client, "n1-b")?;
        for (gone, pod) in [(0, 3), (1, 2)] {
            api.refuse_at(gone);
            api.cut_at(gone)?;
            moves(&cluster, &agent, pod)?;
            eventually(BACK, || api_is(node, "reached"))?;
            api.accept_again()?;
        }
        Ok(())
    })
    .with_context(|| agent.log())
}

#[test]
fn one_of_two_servers_cannot_answer_and_the_other_is_followed() {
    cannot_answer().unwrap();
}

fn cannot_answer() -> Result<()> {
    let (cluster, _servers) = with_two()?;
    let api = &cluster.api;
    let config = cluster.lab.folder().join("config.yaml");
    let masters: String = api.urls().iter().map(|url| format!("  - {url}\n")).collect();
    fs::write(
        &config,
        format!("apiVersion: fairlead.dev/v1alpha1\nkind: FairleadConfiguration\nmaster:\n{masters}"),
    )?;
    let agent = cluster.agent(1, &["--config", &config.display().to_string()])?;
    let (node, client) = (cluster.lab.node(1), cluster.lab.pod(1, 1));
    without_a_lost_request(&[(client, web()[0])], || {
        for (broken, pod) in [(0, 3), (1, 2)] {
            let code = if broken == 0 { 503 } else { 500 };
            let fault = Fault::Status {
                code,
                retry_after: None,
            };
            let order = api.order(Order::new(fault).at(broken));
            // Their time is over, and new ones are asked for.
            api.end_watches(None);
            moves(&cluster, &agent, pod).with_context(|| format!("with {code}"))?;
            eventually(BACK, || api_is(node, "reached"))?;
            api.lift(order);
        }
        Ok(())
    })
    .with_context(|| agent.log())?;
    let lists = api.requests(Verb::List, "services");
    ensure!(
        lists == 1,
        "{lists} lists: one is enough, watches went on from where they were"
    );
    Ok(())
}

#[test]
fn a_server_that_comes_back_is_reached_again_though_nothing_has_changed() {
    comes_back().unwrap();
}

fn comes_back() -> Result<()> {
    let (cluster, _servers) = with_web(2)?;
    let api = &cluster.api;
    let agent = cluster.agent(1, &[])?;
    let node = cluster.lab.node(1);
    eventually(NOTICED, || api_is(node, "reached"))?;
    api.refuse();
    api.cut()?;
    eventually(NOTICED, || api_is(node, "away"))?;
    api.accept_again()?;
    eventually(BACK, || api_is(node, "reached")).with_context(|| agent.log())?;
    eventually(BACK, || {
        let told = agent.log().matches("the API server answers again").count();
        ensure!(told == 1, "told {told} times");
        Ok(())
    })
    .with_context(|| agent.log())?;
    let lists = api.requests(Verb::List, "services");
    ensure!(lists == 1, "{lists} lists: nothing else has told that it is back");
    web_served_by(cluster.lab.pod(1, 1), "n1-b")
}

#[test]
fn an_address_of_a_server_that_is_a_cluster_ip_is_said_to_be_one() {
    cluster_ip().unwrap();
}

fn cluster_ip() -> Result<()> {
    let (cluster, _servers) = with_web(2)?;
    let path = cluster.lab.folder().join("pods");
    cluster
        .api
        .kubeconfig(&path, ADMIN, &["https://10.96.0.1:443".to_owned()])?;
    let more = ["--service-cidr", "10.96.0.0/16,fd00:10:96::/112"];
    let mut agent = Agent::spawn_for(&cluster.lab, 1, &path, &more)?;
    agent
        .process()
        .wait_for("10.96.0.1 is a cluster IP, which nobody may serve", NOTICED)?;
    ensure!(agent.log().contains("--master"), "{}", agent.log());
    Ok(())
}
