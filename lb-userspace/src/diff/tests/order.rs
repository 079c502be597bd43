//! The order of operations, and what costs none.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::*;
use crate::{desired::Sources, plan::Op};

fn names(ops: &[Op]) -> Vec<&'static str> {
    ops.iter()
        .map(|op| match op {
            Op::PutBackend { .. } => "put backend",
            Op::FreeBackend { .. } => "free backend",
            Op::WriteTable { .. } => "write table",
            Op::PutService { .. } => "put service",
            Op::PutFrontend { .. } => "put frontend",
            Op::ClearMeter { .. } => "clear meter",
            Op::DeleteFrontend { .. } => "delete frontend",
            Op::PutRange { .. } => "put range",
            Op::DeleteRange { .. } => "delete range",
            Op::PutAddress { .. } => "put address",
            Op::DeleteAddress { .. } => "delete address",
        })
        .collect()
}

/// The operations that a change takes.
fn ops(node: &mut Node, wanted: &Wanted) -> Vec<&'static str> {
    node.model.log.clear();
    node.reach(wanted);
    names(&node.model.log)
}

#[test]
fn a_service_is_made_from_the_back_and_removed_from_the_front() {
    let mut node = Node::new(LIMITS);
    assert_eq!(
        ops(&mut node, &wanted(&[("a", &[1], &[1, 2])])),
        [
            "put backend",
            "put backend",
            "write table",
            "put service",
            "clear meter",
            "put frontend",
            "put address"
        ]
    );
    assert_eq!(
        ops(&mut node, &wanted(&[])),
        [
            "delete frontend",
            "put service",
            "free backend",
            "free backend",
            "delete address"
        ]
    );
}

#[test]
fn a_change_of_endpoints_flips_one_word_between_making_and_freeing() {
    let mut node = Node::new(LIMITS);
    node.reach(&wanted(&[("a", &[1], &[1, 2])]));
    assert_eq!(
        ops(&mut node, &wanted(&[("a", &[1], &[2, 3])])),
        ["put backend", "write table", "put service", "free backend"]
    );
    assert_eq!(
        ops(&mut node, &wanted(&[("a", &[1], &[])])),
        ["put service", "free backend", "free backend"],
        "without endpoints the frontend stays, to reject"
    );
}

#[test]
fn what_stays_as_it_is_costs_nothing() {
    let mut node = Node::new(LIMITS);
    let state = wanted(&[("a", &[1], &[1, 2]), ("b", &[2], &[3])]);
    node.reach(&state);
    assert_eq!(ops(&mut node, &state), [""; 0]);
    assert_eq!(
        ops(&mut node, &wanted(&[("a", &[1], &[1, 2]), ("b", &[2, 3], &[3])])),
        ["put frontend", "put address"],
        "no table is written when the endpoints stay"
    );
}

#[test]
fn a_change_of_locality_updates_the_slot_and_keeps_its_generation() {
    let mut node = Node::new(LIMITS);
    let mut state = wanted(&[("a", &[1], &[1, 2])]);
    node.reach(&state);
    let before = node.model.backends.clone();
    for port in state.values_mut() {
        port.endpoints.values_mut().next().unwrap().local = true;
    }
    assert_eq!(ops(&mut node, &state), ["put backend"]);
    for (place, backend) in &node.model.backends {
        assert_eq!(backend.generation(), before[place].generation());
    }
}

#[test]
fn a_frontend_that_changes_hands_is_never_away() {
    let mut node = Node::new(LIMITS);
    node.reach(&wanted(&[("a", &[1], &[1])]));
    assert_eq!(
        ops(&mut node, &wanted(&[("b", &[1], &[2])])),
        [
            "put backend",
            "write table",
            "put service",
            "clear meter",
            "put frontend",
            "put service",
            "free backend"
        ]
    );
}

/// A service with those addresses and no endpoints, its frontends of that kind.
fn addressed(name: &str, kind: FrontendKind, port_number: u16, addresses: &[u8]) -> Wanted {
    let key = tcp(name);
    let plain = port(&key, addresses, &[]);
    let frontends = plain.frontends.keys().map(|frontend| {
        (
            FrontendAddr {
                port: port_number,
                ..*frontend
            },
            kind,
        )
    });
    let port = ServicePort {
        frontends: frontends.collect(),
        addresses: plain.addresses.keys().map(|addr| (*addr, kind)).collect(),
        ..plain
    };
    Wanted::from([(key, port)])
}

#[test]
fn an_address_that_services_share_goes_with_the_last_of_them() {
    let mut node = Node::new(LIMITS);
    let mut both = addressed("a", FrontendKind::ExternalIp, 80, &[1]);
    let other = addressed("b", FrontendKind::LoadBalancer, 81, &[1]);
    both.extend(other.clone());
    node.reach(&both);
    assert_eq!(
        node.model.addresses.values().copied().collect::<Vec<_>>(),
        [FrontendKind::ExternalIp],
        "the first of its kinds counts"
    );
    assert_eq!(
        ops(&mut node, &other),
        ["put address", "delete frontend"],
        "it stays, as what it is for the other one"
    );
    assert_eq!(
        ops(&mut node, &wanted(&[])),
        ["delete frontend", "delete address"]
    );
}

/// A load balancer that allows networks 10.n.0.0/16, and the node or not.
fn guarded(networks: Option<&[u8]>, node: bool) -> Wanted {
    let mut wanted = addressed("a", FrontendKind::LoadBalancer, 80, &[1]);
    for port in wanted.values_mut() {
        port.sources = networks.map(|networks| Sources {
            ranges: networks
                .iter()
                .map(|n| IpNet::new([10, *n, 0, 0].into(), 16).unwrap())
                .collect(),
            node,
        });
    }
    wanted
}

#[test]
fn ranges_are_in_place_before_a_frontend_asks_for_them_and_go_afterwards() {
    let mut node = Node::new(LIMITS);
    assert_eq!(
        ops(&mut node, &guarded(Some(&[1, 2]), false)),
        [
            "put service",
            "put range",
            "put range",
            "clear meter",
            "put frontend",
            "put address"
        ]
    );
    assert_eq!(
        ops(&mut node, &guarded(Some(&[2, 3]), false)),
        ["put range", "delete range"],
        "both are allowed for a moment"
    );
    assert_eq!(ops(&mut node, &guarded(Some(&[2, 3]), true)), ["put frontend"]);
    assert_eq!(
        ops(&mut node, &guarded(None, false)),
        ["put frontend", "delete range", "delete range"]
    );
    assert_eq!(
        ops(&mut node, &guarded(Some(&[4]), false)),
        ["put range", "put frontend"]
    );
    assert_eq!(
        ops(&mut node, &Wanted::new()),
        ["delete frontend", "delete range", "delete address"]
    );
}

#[test]
fn ranges_are_known_again_after_a_restart() {
    let mut node = Node::new(LIMITS);
    node.reach(&guarded(Some(&[1, 2]), false));
    let mut node = node.restart(LIMITS);
    assert_eq!(node.reach(&guarded(Some(&[1, 2]), false)), 0);
    // Those of an identifier that nobody has any more do not wait there for the next one who gets it.
    node.model
        .ranges
        .insert(7, BTreeSet::from([IpNet::new([10, 9, 0, 0].into(), 16).unwrap()]));
    let mut node = node.restart(LIMITS);
    node.reach(&guarded(Some(&[1]), false));
}

#[test]
fn an_address_that_failed_is_tried_again() {
    for happens in [false, true] {
        let mut node = Node::new(LIMITS);
        let state = wanted(&[("a", &[1], &[])]);
        node.model.failure = Some(model::Failure { after: 2, happens });
        assert_eq!(node.sync(&state).failures.len(), 1);
        node.reach(&state);
        node.model.failure = Some(model::Failure { after: 1, happens });
        assert_eq!(node.sync(&wanted(&[])).failures.len(), 1);
        node.reach(&wanted(&[]));
    }
}

#[test]
fn an_endpoint_of_two_services_has_a_slot_for_each() {
    let mut node = Node::new(LIMITS);
    node.reach(&wanted(&[("a", &[1], &[1]), ("b", &[2], &[1])]));
    assert_eq!(
        ops(&mut node, &wanted(&[("a", &[1], &[]), ("b", &[2], &[1])])),
        ["put service", "free backend"],
        "flows of the one leave the endpoint, flows of the other stay"
    );
}

#[test]
fn an_endpoint_that_comes_back_has_another_generation() {
    let mut node = Node::new(LIMITS);
    let with = wanted(&[("a", &[1], &[1])]);
    node.reach(&with);
    let place = *node.model.backends.keys().next().unwrap();
    let first = node.model.backends[&place].generation();
    node.reach(&wanted(&[("a", &[1], &[])]));
    node.model.pass(LIMITS.grace);
    node.reach(&with);
    assert_eq!(
        node.model.backends.len(),
        1,
        "the slot is used again after its rest"
    );
    assert!(node.model.backends[&place].generation() > first);
}

#[test]
fn tables_depend_on_the_endpoints_alone() {
    let content = |node: &Node| -> Vec<_> {
        let frontend = *node.model.frontends.keys().next().unwrap();
        node.model
            .resolve(&frontend)
            .unwrap()
            .into_iter()
            .map(|slot| slot.unwrap().addr)
            .collect()
    };
    let mut one = Node::new(LIMITS);
    one.reach(&wanted(&[("a", &[1], &[1, 2, 3])]));
    let mut other = Node::new(LIMITS);
    for endpoints in [&[3][..], &[3, 5, 7], &[3, 1], &[2, 3, 1]] {
        other.reach(&wanted(&[("z", &[1], endpoints)]));
    }
    assert_eq!(content(&one), content(&other));
}

#[test]
fn a_service_that_fails_does_not_hold_up_the_others() {
    let mut node = Node::new(LIMITS);
    let state = wanted(&[("a", &[1], &[1, 2]), ("b", &[2], &[3]), ("c", &[3], &[4])]);
    node.model.failure = Some(model::Failure {
        after: 0,
        happens: false,
    });
    let report = node.sync(&state);
    assert_eq!(report.failures.len(), 1);
    assert_eq!(node.model.frontends.len(), 2, "b and c are served");
    let report = node.again();
    assert!(report.failures.is_empty());
    node.model.assert_is(&state);
    node.assert_no_leaks(&state);
}

#[test]
fn when_nothing_works_it_is_given_up_soon() {
    struct Broken(usize);
    impl crate::plan::Dataplane for Broken {
        type Error = ();
        fn apply(&mut self, _: &Op) -> Result<(), ()> {
            self.0 += 1;
            Err(())
        }
    }
    let mut ledger = Ledger::new(LIMITS);
    let services: Vec<String> = (0..50).map(|i| format!("s{i}")).collect();
    ledger.reset(
        services
            .iter()
            .map(|name| (tcp(name), port(&tcp(name), &[1], &[1])))
            .collect(),
    );
    let mut broken = Broken(0);
    let report = sync(&mut ledger, &mut broken, Instant::now);
    assert_eq!((report.applied, report.failures.len(), broken.0), (0, 8, 8));
}
