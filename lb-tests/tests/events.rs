//! Events over the restart of an agent.

use std::time::Duration;

use anyhow::{Result, ensure};
use lb_testkit::{Lab, Wiring};
use lb_tests::{agent::eventually, cluster::Cluster, manifests::Manifest};

const SOON: Duration = Duration::from_secs(30);

/// Events of that reason.
fn told(cluster: &Cluster, reason: &str) -> usize {
    let events = cluster.api.list("events.events.k8s.io");
    events.iter().filter(|event| event["reason"] == reason).count()
}

#[test]
fn a_restart_repeats_warnings_and_not_what_is_only_good_to_know() {
    over_a_restart().unwrap();
}

fn over_a_restart() -> Result<()> {
    let cluster = Cluster::on(Lab::builder().wiring(Wiring::Routed).build()?)?;
    let mut agent = cluster.agent(1, &[])?;
    // Told in the order of their names.
    let sctp = Manifest::new("a-sctp", 10).sctp(9, 9, None);
    let bad = Manifest::new("b-bad", 11)
        .port(80, 8080, None)
        .balancer(&["198.51.100.7"])
        .with("loadBalancerSourceRanges: ['192.0.2/24']");
    cluster.apply(&sctp)?;
    cluster.apply(&bad)?;
    let warned = |times: usize| {
        eventually(SOON, || {
            let (normal, warnings) = (
                told(&cluster, "SCTPNotForNodes"),
                told(&cluster, "InvalidSourceRange"),
            );
            ensure!((normal, warnings) == (1, times), "{normal} and {warnings} Events");
            Ok(())
        })
    };
    warned(1)?;
    agent.stop()?;
    agent = cluster.agent(1, &[])?;
    warned(2)?;
    ensure!(agent.log().contains("reach its SCTP ports"), "it is in the log");
    // Another Service has them later.
    cluster.apply(&Manifest::new("c-sctp", 12).sctp(9, 9, None))?;
    eventually(SOON, || {
        ensure!(told(&cluster, "SCTPNotForNodes") == 2);
        Ok(())
    })?;
    Ok(())
}
