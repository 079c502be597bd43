//! Forwarding goes on without an agent: open flows and new ones, of every client, to every kind of address; and the next
//! agent goes on from there, also if the manifests have changed meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::Wiring;
use lb_tests::{
    agent::Agent,
    matrix::{
        Place,
        flows::{Of, all_with, hold, new_ones_with},
        play::{Theatre, play},
        services::{self, Service, State},
    },
};
use rustix::process::Signal;

/// For how long there is no agent, at least.
const WITHOUT: Duration = Duration::from_secs(5);
/// Number of the service that open flows are of.
const NUMBER: u16 = 200;

fn gone(wiring: Wiring) -> Result<()> {
    let mut theatre = Theatre::new(wiring)?;
    let both = [(Place::Pod1, State::Ready), (Place::Pod2, State::Ready)];
    let service = Service::plain("flows", NUMBER, &both);
    let mut services: Vec<Service> = services::all()
        .into_iter()
        .filter(|service| service.name.starts_with("cluster-") || service.name.ends_with("-pod-2"))
        .collect();
    services.push(service.clone());
    theatre.set(&services)?;
    let mut held = hold(&theatre, &service, Place::Pod2)?;
    let leaves = theatre.lab.pod(2, 1).name.clone();
    let stays = theatre.lab.pod(1, 2).name.clone();

    for agent in &mut theatre.agents {
        agent.process().signal(Signal::KILL)?;
        agent.process().wait(Duration::from_secs(10))?;
    }
    let begin = Instant::now();
    let mut rounds = 0;
    while rounds == 0 || begin.elapsed() < WITHOUT {
        play(&theatre, &services).context("new flows without an agent")?;
        all_with(&mut held, Of::Tcp, &leaves).context("open connections without an agent")?;
        all_with(&mut held, Of::Udp, &leaves).context("open UDP flows without an agent")?;
        rounds += 1;
    }

    // Other manifests than those that the kernel works by.
    let now = Service::plain("flows", NUMBER, &both[..1]);
    services.pop();
    services.push(now.clone());
    theatre.write(&services)?;
    for node in [1, 2] {
        let agent = Agent::start(&theatre.lab, node, theatre.folder.path())?;
        ensure!(
            agent.log().contains("going on from what is pinned"),
            "{}",
            agent.log()
        );
        theatre.agents[node - 1] = agent;
    }
    theatre.set(&services)?;
    play(&theatre, &services).context("with new agents")?;
    new_ones_with(&theatre, &now, Some(&stays)).context("with new agents and manifests")?;
    all_with(&mut held, Of::Tcp, &leaves).context("open connections with new agents")?;
    all_with(&mut held, Of::Udp, &stays).context("open UDP flows with new agents")
}

#[test]
fn everything_is_forwarded_without_an_agent_with_routed_pods() {
    gone(Wiring::Routed).unwrap();
}

#[test]
fn everything_is_forwarded_without_an_agent_with_bridged_pods() {
    gone(Wiring::Bridged).unwrap();
}

#[test]
fn everything_is_forwarded_without_an_agent_with_pods_on_an_overlay() {
    gone(Wiring::Overlay).unwrap();
}
