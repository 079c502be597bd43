//! Open flows of every client to every kind of address while endpoints change, by the rules of Kubernetes: a connection
//! stays with its endpoint whatever becomes of it; datagrams go where somebody serves; nothing new goes to an endpoint
//! that leaves.

use std::time::Duration;

use anyhow::{Context as _, Result};
use lb_testkit::{Server, Wiring};
use lb_tests::{
    agent::Agent,
    matrix::{
        Place,
        flows::{Held, Of, all_with, hold, hold_connected, new_ones_with, two_pods},
        play::Theatre,
        services::State::{Ready, Terminating, Unready},
    },
};
use rustix::process::Signal;

/// How long an agent may take to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Number of the service.
const NUMBER: u16 = 200;
/// The other port of the endpoints, and the name of the server that listens there.
const OTHER_PORT: u16 = 8_081;
const OTHER: &str = "n2-a-other";

fn changes(wiring: Wiring) -> Result<()> {
    let mut theatre = Theatre::new(wiring)?;
    let mut other = theatre.lab.pod(2, 1).clone();
    OTHER.clone_into(&mut other.name);
    let stays = theatre.lab.pod(1, 2).name.clone();
    let leaves = theatre.lab.pod(2, 1).name.clone();
    let service = |first, second| two_pods("flows", NUMBER, first, second);
    theatre.set(&[service(Some(Ready), Some(Ready))])?;
    let mut held = hold(&theatre, &service(Some(Ready), Some(Ready)), Place::Pod2)?;

    for (state, name) in [(Some(Unready), "unready"), (None, "removed")] {
        let now = service(Some(Ready), state);
        theatre.set(std::slice::from_ref(&now))?;
        let told = || format!("{leaves} is {name}");
        all_with(&mut held, Of::Tcp, &leaves).with_context(told)?;
        all_with(&mut held, Of::Udp, &stays).with_context(told)?;
        new_ones_with(&theatre, &now, Some(&stays)).with_context(told)?;
    }

    let nobody = service(None, None);
    theatre.set(std::slice::from_ref(&nobody))?;
    let told = "no endpoint is left";
    all_with(&mut held, Of::Tcp, &leaves).context(told)?;
    new_ones_with(&theatre, &nobody, None).context(told)?;

    let back = service(None, Some(Ready));
    theatre.set(std::slice::from_ref(&back))?;
    let told = "a service without endpoints gains one";
    all_with(&mut held, Of::Udp, &leaves).context(told)?;
    all_with(&mut held, Of::Tcp, &leaves).context(told)?;

    let _other = Server::start(&other, OTHER_PORT)?;
    let mut moved = back;
    moved.target = OTHER_PORT;
    theatre.set(&[moved])?;
    let told = "the target port changes";
    all_with(&mut held, Of::Tcp, &leaves).context(told)?;
    all_with(&mut held, Of::Udp, OTHER).context(told)
}

#[test]
fn connections_stay_and_datagrams_follow_the_endpoints_with_routed_pods() {
    changes(Wiring::Routed).unwrap();
}

#[test]
fn connections_stay_and_datagrams_follow_the_endpoints_with_bridged_pods() {
    changes(Wiring::Bridged).unwrap();
}

#[test]
fn connections_stay_and_datagrams_follow_the_endpoints_with_pods_on_an_overlay() {
    changes(Wiring::Overlay).unwrap();
}

/// A terminating endpoint that still serves keeps its connections and datagrams, and gets no new ones. Datagrams move once
/// it serves no longer. A restart of the agents makes no difference.
#[test]
fn a_terminating_endpoint_keeps_its_flows_and_gets_no_new_ones_with_routed_pods() {
    terminating(Wiring::Routed).unwrap();
}

#[test]
fn a_terminating_endpoint_keeps_its_flows_and_gets_no_new_ones_with_bridged_pods() {
    terminating(Wiring::Bridged).unwrap();
}

fn terminating(wiring: Wiring) -> Result<()> {
    let mut theatre = Theatre::new(wiring)?;
    let both = two_pods("flows", NUMBER, Some(Ready), Some(Ready));
    theatre.set(std::slice::from_ref(&both))?;
    let held = hold(&theatre, &both, Place::Pod2)?;
    // Each datagram of a process's socket that is not connected asks anew.
    let (mut unconnected, mut held): (Vec<Held>, Vec<Held>) = held
        .into_iter()
        .partition(|flow| flow.is_by_socket() && !flow.is_tcp());
    held.extend(hold_connected(&theatre, &both, Place::Pod2)?);
    let now = two_pods("flows", NUMBER, Some(Ready), Some(Terminating));
    theatre.set(std::slice::from_ref(&now))?;
    let (stays, leaves) = (
        theatre.lab.pod(1, 2).name.clone(),
        theatre.lab.pod(2, 1).name.clone(),
    );
    for time in 0..2 {
        if time == 1 {
            restart(&mut theatre)?;
        }
        all_with(&mut held, Of::Tcp, &leaves)?;
        all_with(&mut held, Of::Udp, &leaves)?;
        all_with(&mut unconnected, Of::Udp, &stays)?;
        new_ones_with(&theatre, &now, Some(&stays))?;
    }

    theatre.set(&[two_pods("flows", NUMBER, Some(Ready), Some(Unready))])?;
    let (mut sockets, mut held): (Vec<Held>, Vec<Held>) = held
        .into_iter()
        .partition(|flow| flow.is_by_socket() && !flow.is_tcp());
    sockets.iter_mut().try_for_each(Held::is_closed)?;
    all_with(&mut held, Of::Tcp, &leaves)?;
    all_with(&mut held, Of::Udp, &stays)
}

/// Kills the agents and starts them anew.
fn restart(theatre: &mut Theatre) -> Result<()> {
    for (agent, node) in theatre.agents.iter_mut().zip(1..) {
        let process = agent.process();
        process.signal(Signal::KILL)?;
        process.wait(PATIENCE)?;
        *agent = Agent::start(&theatre.lab, node, theatre.folder.path())?;
    }
    Ok(())
}

/// The first datagrams go nowhere; once the service is there they are answered, and so is the same socket.
#[test]
fn datagrams_reach_a_service_that_came_after_them() {
    before_the_service().unwrap();
}

fn before_the_service() -> Result<()> {
    let mut theatre = Theatre::new(Wiring::Routed)?;
    let service = two_pods("flows", NUMBER, Some(Ready), None);
    let mut held = lb_tests::matrix::flows::hold_unanswered(&theatre, &service)?;
    theatre.set(std::slice::from_ref(&service))?;
    let server = theatre.lab.pod(1, 2).name.clone();
    all_with(&mut held, Of::Udp, &server)
}
