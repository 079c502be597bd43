//! Session affinity: a client stays with its endpoint, from whatever port it comes.

use lb_common::{
    abi::{Address, Either, FrontendKind, Policies, from_ip},
    maglev::{affinity_hash, table_size},
    verdict::Reason,
};
use lb_testkit::packet::addr;

use super::{Addresses, FROM_WORKLOAD, WITH_SCTP, first, rewritten, service, services::with_port};
use crate::packets::{
    case::Case,
    native,
    world::{AffinitySpec, GENERATION, World, backend_index},
};

const TIMEOUT_S: u32 = 600;
const NS: u64 = 1_000_000_000;
const ENDPOINTS: u16 = 5;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (a, name, proto) in WITH_SCTP {
        let label = |rule: &str| format!("{name}_over_{}_{rule}", a.name);
        cases.extend(remembered(a, proto, &label));
        cases.extend(chosen(a, proto, &label));
    }
    cases
}

/// A service with affinity and five endpoints, told apart by their ports.
fn world(a: Addresses, proto: u8) -> World {
    let mut world = service(proto, FrontendKind::ClusterIp, a.cluster_ip, a.remote, false);
    let endpoints = (0..ENDPOINTS).map(|nth| (addr(&endpoint(a, nth)), false));
    world.services[0].endpoints = endpoints.collect();
    world.services[0].policies = Policies {
        affinity: TIMEOUT_S,
        ..Policies::default()
    };
    world
}

fn endpoint(a: Addresses, nth: u16) -> String {
    with_port(a.remote, 8_080 + nth)
}

fn known(a: Addresses, nth: u16, age: u64) -> AffinitySpec {
    AffinitySpec {
        client: addr(a.pod).ip(),
        index: backend_index(nth.into()),
        generation: GENERATION,
        epoch: 0,
        age,
    }
}

fn remembered(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let mut cases = Vec::new();
    for nth in 0..ENDPOINTS {
        let mut world = world(a, proto);
        world
            .affinities
            .push(known(a, nth, (u64::from(TIMEOUT_S) - 1) * NS));
        let packet = first(proto, &with_port(a.pod, 1_234 + nth), a.cluster_ip);
        cases.push(rewritten(
            label(&format!("affinity_keeps_the_client_with_endpoint_{nth}")),
            FROM_WORKLOAD,
            world,
            &packet,
            Reason::NewFlow,
            &packet.clone().to(&endpoint(a, nth)),
        ));
    }
    cases
}

/// The endpoint that the client's address gives in an epoch, by the table that the world has.
fn by_address(a: Addresses, proto: u8, epoch: u32) -> u16 {
    fn slot<A: Address>(client: A, epoch: u32) -> u32 {
        affinity_hash(client, epoch) & (table_size(ENDPOINTS.into()) - 1)
    }
    let slot = match from_ip(addr(a.pod).ip()) {
        Either::V4(client) => slot(client, epoch),
        Either::V6(client) => slot(client, epoch),
    };
    let tables = native::tables(&world(a, proto), 0);
    let begin = tables.services.borrow()[&0].table.offset();
    let index = tables.slots.borrow()[&(begin + slot)];
    (index - backend_index(0)) as u16
}

fn chosen(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let packet = first(proto, a.pod, a.cluster_ip);
    let to = |epoch| packet.clone().to(&endpoint(a, by_address(a, proto, epoch)));
    let other = (by_address(a, proto, 0) + 1) % ENDPOINTS;
    let with = |change: &dyn Fn(&mut AffinitySpec)| {
        let mut world = world(a, proto);
        let mut spec = known(a, other, 0);
        change(&mut spec);
        world.affinities.push(spec);
        world
    };
    vec![
        rewritten(
            label("affinity_sends_a_new_client_by_its_address"),
            FROM_WORKLOAD,
            world(a, proto),
            &packet,
            Reason::NewFlow,
            &to(0),
        ),
        rewritten(
            label("affinity_ends_with_its_timeout_and_a_new_epoch_begins"),
            FROM_WORKLOAD,
            with(&|spec| spec.age = (u64::from(TIMEOUT_S) + 1) * NS),
            &packet,
            Reason::NewFlow,
            &to(1),
        ),
        rewritten(
            label("affinity_to_an_endpoint_that_is_gone_does_not_count"),
            FROM_WORKLOAD,
            with(&|spec| spec.generation = GENERATION - 1),
            &packet,
            Reason::NewFlow,
            &to(0),
        ),
        rewritten(
            label("affinity_of_another_client_does_not_count"),
            FROM_WORKLOAD,
            with(&|spec| spec.client = addr(a.outside).ip()),
            &packet,
            Reason::NewFlow,
            &to(0),
        ),
    ]
}
