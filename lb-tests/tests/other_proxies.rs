//! Other proxies on the node, netfilter's: what Fairlead does not know yet, or is not to serve, is left to them.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{
    Server, Wiring,
    api::{Access, Fault, Order, Verb},
    http_get, http_get_within,
};
use lb_tests::{
    agent::{Agent, counted, eventually},
    cluster::Cluster,
    stage::at,
};

/// How long anything may take that must happen at once.
const SOON: Duration = Duration::from_secs(20);
/// How long an answer is waited for where none comes.
const LATE: Duration = Duration::from_secs(2);
/// Cluster IPs inside the ServiceCIDRs, which the other proxy serves.
const ITS: [&str; 2] = ["10.96.7.7", "fd00:10:96::707"];
const NOT_READY: Fault = Fault::Status {
    code: 503,
    retry_after: None,
};
const REASON: &str = "unallocated_address";

fn its() -> Result<Vec<SocketAddr>> {
    let addrs = ITS.iter().map(|text| Ok(at(text.parse::<IpAddr>()?, 80)));
    addrs.collect()
}

/// A cluster on whose first node rules of netfilter lead from [`ITS`] to a pod, for pods and for processes of the node.
fn cluster() -> Result<(Cluster, Server)> {
    let cluster = Cluster::new(Wiring::Routed)?;
    let pod = cluster.lab.pod(1, 2);
    let server = Server::start(pod, 8080)?;
    let lead = format!(
        "ip daddr {} tcp dport 80 dnat ip to {}:8080; ip6 daddr {} tcp dport 80 dnat ip6 to [{}]:8080;",
        ITS[0], pod.v4, ITS[1], pod.v6
    );
    let rules = format!(
        "table inet other {{
            chain pods {{ type nat hook prerouting priority -100; {lead} }}
            chain processes {{ type nat hook output priority -100; {lead} }}
        }}"
    );
    let output = cluster.lab.node(1).command("nft").arg(rules).output()?;
    ensure!(
        output.status.success(),
        "nft: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok((cluster, server))
}

/// Waits until the agent knows the ServiceCIDRs and its programs see the pods' packets.
fn is_there(cluster: &Cluster, agent: &Agent) -> Result<()> {
    eventually(SOON, || {
        ensure!(cluster.api.watches("servicecidrs") > 0, "no ServiceCIDRs");
        let log = agent.log();
        let attached = log.lines().filter(|line| line.contains(r#"role="workload""#));
        ensure!(
            attached.count() >= cluster.lab.pods().next().map_or(0, <[_]>::len),
            "{log}"
        );
        Ok(())
    })
    .map(drop)
}

/// Asks the other proxy's addresses from a pod and from the node.
fn others_serve(cluster: &Cluster) -> Result<()> {
    let lab = &cluster.lab;
    for host in [lab.pod(1, 1), lab.node(1)] {
        for addr in its()? {
            let answer = http_get(host, addr).with_context(|| format!("{} to {addr}", host.name))?;
            ensure!(answer.server == lab.pod(1, 2).name, "{answer:?}");
        }
    }
    Ok(())
}

#[test]
fn an_agent_that_cannot_list_services_takes_no_address_from_another_proxy() -> Result<()> {
    let (cluster, _server) = cluster()?;
    let (api, lab) = (&cluster.api, &cluster.lab);
    others_serve(&cluster).context("without an agent")?;
    let access = Access::everything().without("list", "services");
    api.user("poor", "poor", access);
    let file = lab.folder().join("poor");
    api.kubeconfig(&file, "poor", &api.urls())?;
    let mut agent = Agent::spawn_for(lab, 1, &file, &["--service-cidr=10.96.0.0/16"])?;
    agent
        .process()
        .wait_for("may not list and watch services", SOON)?;
    is_there(&cluster, &agent)?;
    others_serve(&cluster)?;
    ensure!(counted(lab, 1, REASON)? == 0, "something was dropped");
    Ok(())
}

#[test]
fn slices_that_are_listed_late_leave_the_addresses_to_another_proxy_meanwhile() -> Result<()> {
    let (cluster, _server) = cluster()?;
    let (api, lab) = (&cluster.api, &cluster.lab);
    let fault = api.order(Order::new(NOT_READY).verb(Verb::List).resource("endpointslices"));
    let mut agent = Agent::spawn_for(lab, 1, cluster.kubeconfig(), &[])?;
    is_there(&cluster, &agent)?;
    ensure!(api.watches("services") > 0, "no Services");
    others_serve(&cluster)?;
    ensure!(counted(lab, 1, REASON)? == 0, "something was dropped");
    api.lift(fault);
    agent.process().wait_for("fairlead is ready", SOON)?;
    // Nobody's addresses now, as far as Fairlead is told.
    eventually(SOON, || {
        let answer = http_get_within(lab.pod(1, 1), its()?[0], LATE);
        ensure!(answer.is_err(), "{answer:?}");
        ensure!(counted(lab, 1, REASON)? > 0, "nothing was dropped");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn addresses_of_no_service_are_left_to_another_proxy_where_that_is_asked_for() -> Result<()> {
    let (cluster, _server) = cluster()?;
    let _agent = cluster.agent(1, &["--drop-unallocated=false", "--service-cidr=10.96.0.0/16"])?;
    others_serve(&cluster)?;
    ensure!(counted(&cluster.lab, 1, REASON)? == 0, "something was dropped");
    Ok(())
}
