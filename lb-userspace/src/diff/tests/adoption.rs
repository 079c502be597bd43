//! Restarts, on kernels in order and out of order.

use super::*;
use crate::plan::{Op, TableRef};

/// Starts the agent anew on the kernel of `node`, and tells how many operations it took to reach `wanted`.
#[track_caller]
fn restart(node: Node, wanted: &Wanted) -> (Node, usize) {
    let mut node = node.restart(LIMITS);
    let applied = node.reach(wanted);
    (node, applied)
}

fn state() -> Wanted {
    let mut state = wanted(&[("a", &[1], &[1, 2, 3]), ("b", &[2, 3], &[4]), ("c", &[4], &[])]);
    for (protocol, family) in [
        (Protocol::Udp, Family::V4),
        (Protocol::Tcp, Family::V6),
        (Protocol::Udp, Family::V6),
    ] {
        let key = key("a", protocol, family);
        state.insert(key.clone(), port(&key, &[1], &[1, 2]));
    }
    state
}

fn settled() -> Node {
    let mut node = Node::new(LIMITS);
    node.reach(&wanted(&[("old", &[9], &[9])]));
    node.reach(&state());
    node
}

#[test]
fn a_restart_without_changes_takes_no_operation() {
    assert_eq!(restart(settled(), &state()).1, 0);
}

#[test]
fn a_restart_takes_only_the_operations_of_what_has_changed_meanwhile() {
    let mut next = state();
    next.insert(tcp("b"), port(&tcp("b"), &[2, 3], &[5]));
    next.remove(&tcp("c"));
    let (node, _) = restart(settled(), &next);
    let log: Vec<_> = node.model.log.iter().rev().take(6).rev().collect();
    assert!(
        matches!(
            log[..],
            [
                Op::PutBackend { .. },
                Op::WriteTable { .. },
                Op::PutService { .. },
                Op::DeleteFrontend { .. },
                Op::FreeBackend { .. },
                _
            ] | [
                _,
                Op::PutBackend { .. },
                Op::WriteTable { .. },
                Op::PutService { .. },
                Op::DeleteFrontend { .. },
                Op::FreeBackend { .. }
            ]
        ),
        "{log:?}"
    );
}

#[test]
fn generations_go_on_after_a_restart() {
    let mut node = Node::new(LIMITS);
    node.reach(&wanted(&[("a", &[1], &[1])]));
    node.reach(&wanted(&[("a", &[1], &[])]));
    let freed = node
        .model
        .backends
        .values()
        .map(SnapshotBackend::generation)
        .max();
    let (node, _) = restart(node, &wanted(&[("a", &[1], &[2])]));
    assert_eq!(node.model.backends.len(), 1);
    assert!(
        node.model
            .backends
            .values()
            .map(SnapshotBackend::generation)
            .max()
            > freed
    );
}

#[test]
fn a_service_is_known_by_most_of_its_frontends() {
    let mut node = Node::new(LIMITS);
    node.reach(&wanted(&[("a", &[1, 2, 3], &[1]), ("b", &[4], &[2])]));
    let (id, _) = node.model.frontends.values().next().copied().unwrap();
    let next = wanted(&[("a", &[2, 3, 5], &[1]), ("b", &[1, 4], &[2])]);
    let (node, applied) = restart(node, &next);
    assert_eq!(applied, 3, "one frontend moves, one is new, with its address");
    assert_eq!(
        node.model
            .frontends
            .values()
            .filter(|(service, _)| *service == id)
            .count(),
        3
    );
}

/// A kernel that somebody damaged. Frontends that were right stay right after every operation, and in the end all is.
#[track_caller]
fn mend(damage: impl FnOnce(&mut Model), right: &[&str]) {
    let mut node = settled();
    damage(&mut node.model);
    node.model.strict = false;
    let right: Wanted = state()
        .into_iter()
        .filter(|(key, _)| right.contains(&key.to_string().as_str()))
        .collect();
    assert!(!right.is_empty());
    node.model.promise(&right, &right);
    let (node, _) = restart(node, &state());
    assert_eq!(restart(node, &state()).1, 0);
}

const A: &str = "ns/a (TCP, IPv4)";
const B: &str = "ns/b (TCP, IPv4)";

fn service_of(model: &Model, key: &str) -> u32 {
    let state = state();
    let (_, port) = state.iter().find(|(found, _)| found.to_string() == key).unwrap();
    model.frontends[port.frontends.keys().next().unwrap()].0
}

#[test]
fn a_table_outside_of_maglev_is_made_anew() {
    mend(
        |model| {
            model
                .services
                .insert(service_of(model, A), TableRef::new(16 * 1024, 256));
        },
        &[B],
    );
    mend(
        |model| {
            model
                .services
                .insert(service_of(model, A), TableRef::new(u32::MAX - 3, 1 << 23));
        },
        &[B],
    );
}

#[test]
fn tables_that_overlap_are_taken_apart() {
    mend(
        |model| {
            let other = model.services[&service_of(model, B)];
            model
                .services
                .insert(service_of(model, A), TableRef::new(other.offset() & !255, 256));
        },
        &[B],
    );
    mend(
        |model| {
            let other = model.services[&service_of(model, B)];
            model.services.insert(service_of(model, A), other);
        },
        &["ns/a (UDP, IPv4)"],
    );
}

#[test]
fn a_table_that_is_not_aligned_works_until_its_successor_is_in_place() {
    mend(
        |model| {
            let id = service_of(model, A);
            let old = model.services[&id];
            for i in 0..256 {
                model.maglev[8_001 + i] = model.maglev[old.offset() as usize + i];
            }
            model.services.insert(id, TableRef::new(8_001, 256));
        },
        &[A, B],
    );
}

#[test]
fn a_table_with_wrong_content_is_made_anew() {
    mend(
        |model| {
            let table = model.services[&service_of(model, A)];
            model.maglev[table.offset() as usize] = u32::MAX;
        },
        &[B],
    );
    mend(
        |model| {
            let at = model.services[&service_of(model, A)].offset() as usize;
            model.maglev.swap(at, at + 1);
            model.maglev[at] = model.maglev[at + 2];
        },
        &[A, B],
    );
}

#[test]
fn a_backend_that_is_free_or_of_another_protocol_is_made_anew() {
    for change in [0, 1, 2] {
        mend(
            |model| {
                let table = model.services[&service_of(model, A)];
                let place = (Family::V4, model.maglev[table.offset() as usize]);
                let Some(SnapshotBackend::InUse(slot)) = model.backends.get_mut(&place) else {
                    panic!()
                };
                match change {
                    0 => slot.protocol = Protocol::Udp,
                    1 => slot.port = 1,
                    _ => {
                        let generation = slot.generation;
                        model.backends.insert(place, SnapshotBackend::Free { generation });
                    }
                }
            },
            &[B],
        );
    }
}

#[test]
fn leftovers_are_removed() {
    mend(
        |model| {
            let frontend = *model.frontends.keys().next().unwrap();
            let slot = model.resolve(&frontend).unwrap()[0].unwrap();
            model
                .backends
                .insert((Family::V4, 40), SnapshotBackend::InUse(slot));
            let stranger = FrontendAddr { port: 81, ..frontend };
            model.frontends.insert(stranger, (17, FrontendKind::NodePort));
            model.frontends.insert(
                FrontendAddr { port: 82, ..frontend },
                (u32::MAX, FrontendKind::NodePort),
            );
            model
                .frontends
                .insert(FrontendAddr { port: 83, ..frontend }, model.frontends[&frontend]);
        },
        &[A, B],
    );
}

#[test]
fn a_frontend_that_leads_to_the_wrong_service_is_put_right() {
    mend(
        |model| {
            let (a, b) = (service_of(model, A), service_of(model, B));
            let (frontend, _) = model.frontends.iter().find(|(_, (id, _))| *id == b).unwrap();
            model.frontends.insert(*frontend, (a, FrontendKind::LoadBalancer));
        },
        &[A],
    );
}
