//! Endpoints that keep the flows that they have and get no new ones.

use super::*;
use crate::plan::Op;

/// TCP services of IPv4: name, frontend, endpoints, and those that are kept.
fn keeping(services: &[(&str, u8, &[u8], &[u8])]) -> Wanted {
    let service = |(name, frontend, endpoints, kept): &(&str, u8, &[u8], &[u8])| {
        let key = tcp(name);
        let kept = port(&key, &[], kept).endpoints;
        let port = port(&key, &[*frontend], endpoints);
        (key, ServicePort { kept, ..port })
    };
    services.iter().map(service).collect()
}

/// The operations that a change takes; what is put without new flows is told apart.
fn ops(node: &mut Node, wanted: &Wanted) -> Vec<&'static str> {
    node.model.log.clear();
    node.reach(wanted);
    let name = |op: &Op| match op {
        Op::PutBackend { slot, .. } if slot.kept => "keep backend",
        Op::PutBackend { .. } => "put backend",
        Op::FreeBackend { .. } => "free backend",
        Op::WriteTable { .. } => "write table",
        Op::PutService { .. } => "put service",
        _ => "something else",
    };
    node.model.log.iter().map(name).collect()
}

#[test]
fn an_endpoint_is_kept_once_no_table_names_it_and_comes_back_before_one_does() {
    let mut node = Node::new(LIMITS);
    let both = keeping(&[("a", 1, &[1, 2], &[])]);
    node.reach(&both);
    assert_eq!(
        ops(&mut node, &keeping(&[("a", 1, &[1], &[2])])),
        ["write table", "put service", "keep backend"]
    );
    assert_eq!(
        ops(&mut node, &both),
        ["put backend", "write table", "put service"]
    );
}

#[test]
fn an_endpoint_that_serves_no_longer_is_freed() {
    let mut node = Node::new(LIMITS);
    node.reach(&keeping(&[("a", 1, &[1, 2], &[])]));
    node.reach(&keeping(&[("a", 1, &[1], &[2])]));
    assert_eq!(ops(&mut node, &keeping(&[("a", 1, &[1], &[])])), ["free backend"]);
}

#[test]
fn the_last_endpoint_of_a_service_is_kept_too() {
    let mut node = Node::new(LIMITS);
    node.reach(&keeping(&[("a", 1, &[1], &[])]));
    let none = keeping(&[("a", 1, &[], &[1])]);
    assert_eq!(ops(&mut node, &none), ["put service", "keep backend"]);
    let mut node = node.restart(LIMITS);
    assert_eq!(node.reach(&none), 0);
}

#[test]
fn an_endpoint_without_flows_gets_no_slot() {
    let mut node = Node::new(LIMITS);
    node.reach(&keeping(&[("a", 1, &[1], &[])]));
    assert_eq!(ops(&mut node, &keeping(&[("a", 1, &[1], &[2])])), [""; 0]);
}

#[test]
fn what_is_kept_goes_with_its_service() {
    let mut node = Node::new(LIMITS);
    node.reach(&keeping(&[("a", 1, &[1, 2], &[])]));
    node.reach(&keeping(&[("a", 1, &[1], &[2])]));
    node.reach(&Wanted::new());
}

#[test]
fn a_change_of_its_place_updates_the_slot() {
    let mut node = Node::new(LIMITS);
    node.reach(&keeping(&[("a", 1, &[1, 2], &[])]));
    let mut kept = keeping(&[("a", 1, &[1], &[2])]);
    node.reach(&kept);
    for endpoint in kept.values_mut().flat_map(|port| port.kept.values_mut()) {
        endpoint.local = true;
    }
    assert_eq!(ops(&mut node, &kept), ["keep backend"]);
}

#[test]
fn a_mark_that_failed_is_tried_again() {
    for happens in [false, true] {
        let mut node = Node::new(LIMITS);
        let both = keeping(&[("a", 1, &[1, 2], &[])]);
        node.reach(&both);
        let kept = keeping(&[("a", 1, &[1], &[2])]);
        for (state, after) in [(&kept, 2), (&both, 0)] {
            node.model.failure = Some(model::Failure { after, happens });
            assert_eq!(node.sync(state).failures.len(), 1);
            node.reach(state);
        }
    }
}

#[test]
fn kept_endpoints_are_known_again_after_a_restart() {
    let mut node = Node::new(LIMITS);
    node.reach(&keeping(&[("a", 1, &[1, 2], &[]), ("b", 2, &[1, 2], &[])]));
    let kept = keeping(&[("a", 1, &[1], &[2]), ("b", 2, &[1], &[2])]);
    node.reach(&kept);
    let mut node = node.restart(LIMITS);
    assert_eq!(node.reach(&kept), 0, "each has its own");
    // Only one of them keeps it, whichever of the two slots that is.
    let mut node = node.restart(LIMITS);
    assert_eq!(
        ops(&mut node, &keeping(&[("a", 1, &[1], &[2]), ("b", 2, &[1], &[])])),
        ["free backend"]
    );
}

#[test]
fn what_was_kept_comes_back_into_the_table_after_a_restart_as_something_new() {
    let mut node = Node::new(LIMITS);
    let both = keeping(&[("a", 1, &[1, 2], &[])]);
    node.reach(&both);
    node.reach(&keeping(&[("a", 1, &[1], &[2])]));
    let mut node = node.restart(LIMITS);
    assert_eq!(
        ops(&mut node, &both),
        ["put backend", "write table", "put service", "free backend"]
    );
}

#[test]
fn without_room_for_its_table_an_endpoint_that_comes_back_is_kept() {
    let limits = Limits {
        maglev_slots: 256 + 128,
        ..LIMITS
    };
    let mut node = Node::new(limits);
    node.reach(&keeping(&[("a", 1, &[1, 2, 3], &[])]));
    let kept = keeping(&[("a", 1, &[1, 2], &[3])]);
    node.reach(&kept);
    let before = node.slots();
    let both = keeping(&[("a", 1, &[1, 2, 3], &[])]);
    let report = node.sync(&both);
    assert_eq!(report.applied, 0, "what the last table left still rests");
    assert_eq!(node.slots(), before);
    node.model.pass(limits.grace);
    node.reach(&both);
    assert_eq!(node.slots(), before);
}
