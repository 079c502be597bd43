//! Which meter each service port is counted by. The model refuses a frontend that names another one's.

use super::*;
use crate::plan::Op;

/// Whose each meter is by its name, and how many service ports have none.
fn told(node: &mut Node) -> Option<(Vec<(u16, String)>, usize)> {
    let (meters, left_out) = node.ledger.take_meters()?;
    let name = |(number, key): (u16, ServicePortKey)| (number, key.service.name.to_string());
    Some((meters.into_iter().map(name).collect(), left_out))
}

fn owned(meters: &[(u16, &str)]) -> Vec<(u16, String)> {
    meters
        .iter()
        .map(|(number, name)| (*number, (*name).to_owned()))
        .collect()
}

fn cleared(node: &Node) -> Vec<u16> {
    let clear = |op: &Op| match op {
        Op::ClearMeter { meter } => Some(*meter),
        _ => None,
    };
    node.model.log.iter().filter_map(clear).collect()
}

const FEW: Limits = Limits {
    max_meters: 2,
    ..LIMITS
};

#[test]
fn all_frontends_of_a_service_name_its_meter() {
    let mut node = Node::new(LIMITS);
    node.reach(&wanted(&[("a", &[1, 2, 3], &[1]), ("b", &[4], &[1])]));
    let numbers: Vec<u16> = node.model.meters.values().copied().collect();
    assert_eq!(numbers, [1, 1, 1, 2]);
    assert_eq!(told(&mut node), Some((owned(&[(1, "a"), (2, "b")]), 0)));
    assert_eq!(told(&mut node), None, "no news");
    node.reach(&wanted(&[("a", &[1], &[1, 2]), ("b", &[4, 5], &[1])]));
    assert_eq!(node.model.meters.values().max(), Some(&2));
    assert_eq!(told(&mut node), None, "no news");
}

#[test]
fn numbers_go_round_and_are_cleared_for_a_new_owner() {
    let limits = Limits {
        max_meters: 3,
        ..LIMITS
    };
    let mut node = Node::new(limits);
    for (name, number) in [("a", 1), ("b", 2), ("c", 3), ("d", 1)] {
        node.model.log.clear();
        node.reach(&wanted(&[(name, &[1], &[1])]));
        assert_eq!(cleared(&node), [number]);
        assert_eq!(told(&mut node), Some((owned(&[(number, name)]), 0)));
        node.model.pass(limits.grace);
    }
}

#[test]
fn a_service_that_found_no_meter_is_given_one_when_there_is() {
    let mut node = Node::new(FEW);
    node.reach(&wanted(&[
        ("a", &[1], &[1]),
        ("b", &[2], &[1]),
        ("c", &[3], &[1]),
    ]));
    assert_eq!(told(&mut node), Some((owned(&[(1, "a"), (2, "b")]), 1)));
    let two = wanted(&[("b", &[2], &[1]), ("c", &[3], &[1])]);
    node.reach(&two);
    assert_eq!(told(&mut node), Some((owned(&[(2, "b")]), 1)), "it rests first");
    node.model.pass(FEW.grace);
    node.again();
    assert_eq!(told(&mut node), Some((owned(&[(1, "c"), (2, "b")]), 0)));
    node.model.assert_is(&two);
    assert_eq!(node.reach(&two), 0);
}

#[test]
fn after_a_restart_everybody_has_the_meter_that_it_had() {
    let mut node = Node::new(FEW);
    let state = wanted(&[("b", &[1], &[1]), ("a", &[2, 3], &[1]), ("c", &[4], &[1])]);
    node.reach(&state);
    let before = told(&mut node);
    node.model.log.clear();
    node = node.restart(FEW);
    assert_eq!(node.reach(&state), 0);
    assert_eq!((told(&mut node), cleared(&node)), (before, Vec::new()));
}

#[test]
fn after_a_restart_with_fewer_meters_those_beyond_are_given_up() {
    let mut node = Node::new(LIMITS);
    let state = wanted(&[("a", &[1], &[1]), ("b", &[2], &[1]), ("c", &[3], &[1])]);
    node.reach(&state);
    node = node.restart(FEW);
    node.reach(&state);
    assert_eq!(told(&mut node), Some((owned(&[(1, "a"), (2, "b")]), 1)));
    assert_eq!(node.model.meters.len(), 2);
}
