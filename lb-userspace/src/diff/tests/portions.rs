//! Changes that are carried out in portions.

use super::*;
use crate::plan::Op;

/// One service at a time.
const SINGLY: Limits = Limits { portion: 1, ..LIMITS };

/// The place of the first operation of a kind among those that were carried out.
#[track_caller]
fn place(node: &Node, of: impl Fn(&Op) -> bool) -> usize {
    node.model.log.iter().position(of).expect("such an operation")
}

#[test]
fn a_service_that_loses_a_frontend_comes_with_the_one_that_takes_it() {
    let mut node = Node::new(SINGLY);
    let before = wanted(&[("a", &[1, 2], &[1]), ("z", &[3], &[2])]);
    node.reach(&before);
    let after = wanted(&[("a", &[2], &[3]), ("m", &[4], &[4]), ("z", &[1, 3], &[2])]);
    node.model.promise(&before, &after);
    node.model.log.clear();
    node.ledger.reset(after.clone());
    let first = node.ledger.portion(None);
    assert_eq!(
        (first.keys, first.next),
        (vec![tcp("a"), tcp("z")], Some(tcp("m")))
    );
    node.reach(&after);
    let id = node.ledger.id_of[&tcp("a")];
    let moved = place(&node, |op| matches!(op, Op::PutFrontend { .. }));
    let changed = place(
        &node,
        |op| matches!(op, Op::PutService { id: of, .. } if *of == id),
    );
    assert!(
        moved < changed,
        "the frontend never leads to an endpoint that it never had"
    );
}

#[test]
fn the_ports_of_a_service_come_together() {
    let mut node = Node::new(SINGLY);
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|protocol| {
        let key = key("a", protocol, Family::V4);
        (key.clone(), port(&key, &[1], &[1]))
    });
    let mut state: Wanted = all.into();
    state.extend(wanted(&[("b", &[2], &[2])]));
    node.ledger.reset(state.clone());
    let first = node.ledger.portion(None);
    assert_eq!((first.keys.len(), first.next.clone()), (3, Some(tcp("b"))));
    let last = node.ledger.portion(first.next.as_ref());
    assert_eq!((last.keys, last.next), (vec![tcp("b")], None));
    node.reach(&state);
}

#[test]
fn what_nobody_wants_goes_with_the_last_portion() {
    let mut node = Node::new(SINGLY);
    let before = wanted(&[("a", &[1], &[1]), ("b", &[2], &[2])]);
    node.reach(&before);
    node.model.log.clear();
    let after = wanted(&[("c", &[3], &[3]), ("d", &[4], &[4]), ("e", &[1], &[5])]);
    node.model.promise(&before, &after);
    node.reach(&after);
    let gone = place(&node, |op| {
        matches!(op, Op::DeleteFrontend { .. } | Op::FreeBackend { .. })
    });
    let last = node
        .model
        .log
        .iter()
        .rposition(|op| matches!(op, Op::PutFrontend { .. }));
    assert!(last < Some(gone), "{:?}", node.model.log);
}

#[test]
fn portions_lead_to_the_same_as_a_whole() {
    let names: Vec<String> = (0..20).map(|n| format!("s{n:02}")).collect();
    let state: Wanted = (1u8..)
        .zip(&names)
        .map(|(n, name)| (tcp(name), port(&tcp(name), &[n], &[n, n + 40])))
        .collect();
    let kernels = [1, 3, 7, 256].map(|portion| {
        let mut node = Node::new(Limits { portion, ..LIMITS });
        node.reach(&state);
        node.reach(&Wanted::new());
        node.model.pass(LIMITS.grace);
        node.reach(&state);
        (
            node.model.frontends,
            node.model.services.len(),
            node.model.backends.len(),
        )
    });
    assert!(kernels.iter().all(|kernel| *kernel == kernels[0]), "{kernels:?}");
}
