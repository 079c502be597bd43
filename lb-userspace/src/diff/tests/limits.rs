//! What happens where there is no room.

use super::*;
use crate::diff::DiffError;

fn errors(report: &Report<&'static str>) -> Vec<String> {
    assert!(report.failures.is_empty(), "{report:?}");
    report.errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_service_too_many_is_told_and_programmed_when_room_appears() {
    let mut node = Node::new(Limits {
        max_services: 2,
        ..LIMITS
    });
    let all = wanted(&[("a", &[1], &[1]), ("b", &[2], &[2]), ("c", &[3], &[3])]);
    let report = node.sync(&all);
    assert_eq!(
        errors(&report),
        [
            "Service ns/c (TCP, IPv4) is not programmed: all 2 services are taken; raise --max-services or remove Services"
        ]
    );
    assert_eq!(report.errors[0].service(), &tcp("c"));
    assert_eq!(node.model.frontends.len(), 2, "the others are programmed");
    assert_eq!(errors(&node.again()), [""; 0], "it is told once");
    assert_eq!(node.ledger.next_wakeup(), None, "nothing is about to become free");

    let fewer = wanted(&[("a", &[1], &[1]), ("c", &[3], &[3])]);
    node.sync(&fewer);
    assert_eq!(node.model.frontends.len(), 1, "the identifier of b rests");
    assert_eq!(node.ledger.next_wakeup(), Some(node.model.now + LIMITS.grace));
    node.model.pass(LIMITS.grace);
    node.reach(&fewer);
}

#[test]
fn with_too_few_backends_a_service_is_served_by_those_that_fit() {
    let mut node = Node::new(Limits {
        max_backends: 3,
        ..LIMITS
    });
    let all = wanted(&[("a", &[1], &[1, 2]), ("b", &[2], &[3, 4])]);
    let report = node.sync(&all);
    assert_eq!(
        errors(&report),
        [
            "Service ns/b (TCP, IPv4) is served without 1 of its endpoints: all 3 IPv4 backends are taken; raise \
          --max-backends or remove Services"
        ]
    );
    node.model
        .assert_is(&wanted(&[("a", &[1], &[1, 2]), ("b", &[2], &[3])]));
    let fewer = wanted(&[("a", &[1], &[1]), ("b", &[2], &[3, 4])]);
    node.sync(&fewer);
    node.model.pass(LIMITS.grace);
    node.reach(&fewer);
}

#[test]
fn without_any_backend_a_new_service_is_left_out_and_an_old_one_rejects() {
    let mut node = Node::new(Limits {
        max_backends: 2,
        ..LIMITS
    });
    node.reach(&wanted(&[("a", &[1], &[1, 2])]));
    let report = node.sync(&wanted(&[("a", &[1], &[1, 2]), ("b", &[2], &[3])]));
    assert!(
        matches!(report.errors[..], [DiffError::Backends { missing: 1, .. }]),
        "{report:?}"
    );
    node.model.assert_is(&wanted(&[("a", &[1], &[1, 2])]));

    let mut node = Node::new(Limits {
        max_backends: 2,
        ..LIMITS
    });
    node.reach(&wanted(&[("a", &[1], &[1, 2])]));
    let moved = wanted(&[("a", &[1], &[3, 4])]);
    assert_eq!(node.sync(&moved).errors.len(), 1);
    node.model.assert_is(&wanted(&[("a", &[1], &[])]));
    node.model.pass(LIMITS.grace);
    node.reach(&moved);
}

#[test]
fn without_any_space_for_a_table_a_service_keeps_what_it_had_and_a_new_one_is_not_served() {
    let mut node = Node::new(Limits {
        maglev_slots: 2,
        ..LIMITS
    });
    let before = wanted(&[("a", &[1], &[1]), ("b", &[2], &[3])]);
    node.reach(&before);
    let report = node.sync(&wanted(&[("a", &[1], &[1]), ("b", &[2], &[3, 4, 5])]));
    assert_eq!(
        errors(&report),
        [
            "Service ns/b (TCP, IPv4) keeps the endpoints that it had: no room for a Maglev table of 256 slots, nor for a \
             smaller one, among 2; raise --maglev-slots or remove Services"
        ]
    );
    node.model.assert_is(&before);
    let report = node.sync(&wanted(&[
        ("a", &[1], &[1]),
        ("b", &[2], &[3]),
        ("c", &[3], &[1, 2]),
    ]));
    assert_eq!(
        errors(&report),
        [
            "Service ns/c (TCP, IPv4) is not served: no room for a Maglev table of 128 slots, nor for a smaller one, among \
             2; raise --maglev-slots or remove Services"
        ]
    );
    node.model.assert_is(&before);
    node.reach(&before);
}

/// The endpoints that the slots of a frontend lead to, and how many slots there are.
fn spread(node: &Node, host: u8) -> (Vec<IpAddr>, usize) {
    let frontend = FrontendAddr {
        addr: addr(Family::V4, 0, host),
        port: 80,
        protocol: Protocol::Tcp,
    };
    let slots = node.model.resolve(&frontend).expect("a frontend");
    let mut endpoints: Vec<IpAddr> = slots.iter().map(|slot| slot.expect("in use").addr).collect();
    let number = endpoints.len();
    endpoints.sort_unstable();
    endpoints.dedup();
    (endpoints, number)
}

#[test]
fn with_little_space_a_table_is_smaller_until_its_service_changes_and_there_is_room() {
    let limits = Limits {
        maglev_slots: 512,
        ..LIMITS
    };
    let mut node = Node::new(limits);
    let all = wanted(&[
        ("a", &[1], &[1, 2, 3]),
        ("b", &[2], &[4]),
        ("c", &[3], &[5, 6, 7]),
    ]);
    let report = node.sync(&all);
    assert_eq!(
        errors(&report),
        [
            "Service ns/c (TCP, IPv4) has a Maglev table of 128 slots in place of 256, for little is left of 512: new \
             connections are spread less evenly, and other nodes may choose other endpoints for them; raise \
             --maglev-slots or remove Services"
        ]
    );
    assert!(node.ledger.is_settled(), "nothing is waited for");
    let endpoints = [5, 6, 7].map(|host| addr(Family::V4, 1, host)).to_vec();
    assert_eq!(spread(&node, 3), (endpoints, 128));
    assert_eq!(errors(&node.again()), [""; 0], "it is told once");
    let written = node.model.log.len();
    assert_eq!(node.audit().to_string(), "", "it is what it is meant to be");
    assert_eq!(node.model.log.len(), written);

    // A restart finds nothing wrong with it, and tells it again.
    node = node.restart(limits);
    let report = node.sync(&all);
    assert_eq!((report.applied, report.errors.len()), (0, 1));

    let fewer = wanted(&[("b", &[2], &[4]), ("c", &[3], &[5, 6, 7])]);
    node.sync(&fewer);
    node.model.pass(LIMITS.grace);
    let changed = wanted(&[("b", &[2], &[4]), ("c", &[3], &[5, 6, 8])]);
    node.reach(&changed);
    assert_eq!(spread(&node, 3).1, 256);
}

#[test]
fn what_rests_is_waited_for_before_a_smaller_table_is_told() {
    let mut node = Node::new(Limits {
        maglev_slots: 512,
        ..LIMITS
    });
    node.reach(&wanted(&[("a", &[1], &[1, 2, 3]), ("b", &[2], &[4])]));
    // The new table of a comes before the old one goes.
    let changed = wanted(&[("a", &[1], &[1, 2, 5]), ("b", &[2], &[4])]);
    let report = node.sync(&changed);
    assert_eq!(errors(&report), [""; 0]);
    let endpoints = [1, 2, 5].map(|host| addr(Family::V4, 1, host)).to_vec();
    assert_eq!(spread(&node, 1), (endpoints, 128), "the right endpoints at once");
    assert_eq!(node.ledger.next_wakeup(), Some(node.model.now + LIMITS.grace));
    node.model.pass(LIMITS.grace);
    node.reach(&changed);
}

#[test]
fn the_less_space_there_is_the_smaller_tables_get_and_all_services_are_served() {
    let mut node = Node::new(Limits {
        max_backends: 1_000,
        ..LIMITS
    });
    let hosts: Vec<u8> = (1..=10).collect();
    let all: Wanted = (1..=25)
        .map(|n| {
            let key = tcp(&format!("s{n:02}"));
            (key.clone(), port(&key, &[n], &hosts))
        })
        .collect();
    // Of 1,024 slots each, there is room for 16.
    let report = node.sync(&all);
    assert!(
        report
            .errors
            .iter()
            .all(|error| matches!(error, DiffError::SmallTable { .. })),
        "{report:?}"
    );
    let sizes: Vec<usize> = (1..=25).map(|n| spread(&node, n).1).collect();
    assert_eq!(sizes[..14], [1_024; 14], "as long as an eighth is free");
    assert!(sizes.is_sorted_by(|a, b| a >= b) && sizes[24] >= 16, "{sizes:?}");
    assert!((1..=25).all(|n| spread(&node, n).0.len() == 10));
    node.sync(&Wanted::new());
    node.model.pass(LIMITS.grace);
    node.reach(&Wanted::new());
    assert_eq!(node.ledger.usage().table_slots, 0);
}

#[test]
fn a_frontend_too_many_is_told_and_added_when_room_appears() {
    let mut node = Node::new(Limits {
        max_frontends: 2,
        ..LIMITS
    });
    let wanted = |services: &[(&str, &[u8], &[u8])]| {
        let mut wanted = wanted(services);
        for port in wanted.values_mut() {
            port.addresses.clear();
        }
        wanted
    };
    let report = node.sync(&wanted(&[("a", &[1], &[1]), ("b", &[2, 3], &[2])]));
    assert_eq!(
        errors(&report),
        [
            "Service ns/b (TCP, IPv4) is not reached at 10.0.0.3:80/TCP: all 2 frontends of the family are taken; raise \
          --max-frontends or remove Services"
        ]
    );
    node.model
        .assert_is(&wanted(&[("a", &[1], &[1]), ("b", &[2], &[2])]));
    node.sync(&wanted(&[("b", &[2, 3], &[2])]));
    node.reach(&wanted(&[("b", &[2, 3], &[2])]));
}

#[test]
fn addresses_come_after_frontends_where_room_is_short() {
    let mut node = Node::new(Limits {
        max_frontends: 3,
        ..LIMITS
    });
    let both = wanted(&[("a", &[1], &[1]), ("b", &[2], &[2])]);
    let report = node.sync(&both);
    assert_eq!(
        errors(&report),
        [
            "Service ns/b (TCP, IPv4): connections to other ports of 10.0.0.2 are not refused, because all 3 frontends of \
             the family are taken; raise --max-frontends or remove Services"
        ]
    );
    assert_eq!((node.model.frontends.len(), node.model.addresses.len()), (2, 1));
    assert_eq!(errors(&node.again()), [""; 0], "it is told once");
    node.sync(&wanted(&[("b", &[2], &[2])]));
    node.reach(&wanted(&[("b", &[2], &[2])]));
}

#[test]
fn ranges_too_many_refuse_rather_than_allow() {
    let mut node = Node::new(Limits {
        max_ranges: 1,
        ..LIMITS
    });
    let mut state = wanted(&[("a", &[1], &[1])]);
    for port in state.values_mut() {
        for kind in port.frontends.values_mut() {
            *kind = FrontendKind::LoadBalancer;
        }
        port.addresses.clear();
        port.sources = Some(crate::desired::Sources {
            ranges: ["192.0.2.0/24", "198.51.100.0/24"]
                .map(|net| net.parse().unwrap())
                .into(),
            node: false,
        });
    }
    let report = node.sync(&state);
    assert_eq!(
        errors(&report),
        [
            "Service ns/a (TCP, IPv4) refuses clients in 1 of its loadBalancerSourceRanges: all 1 source ranges of the \
             family are taken; join ranges or remove some"
        ]
    );
    assert_eq!(
        node.model.flags.len(),
        1,
        "the frontend goes by ranges all the same"
    );
    assert_eq!(
        node.model
            .ranges
            .values()
            .map(std::collections::BTreeSet::len)
            .sum::<usize>(),
        1
    );
    assert_eq!(errors(&node.again()), [""; 0], "it is told once");
}

#[test]
fn families_have_their_own_limits() {
    let mut node = Node::new(Limits {
        max_backends: 2,
        max_frontends: 2,
        ..LIMITS
    });
    let mut state = Wanted::new();
    for family in Family::ALL {
        let key = key("a", Protocol::Tcp, family);
        state.insert(key.clone(), port(&key, &[1], &[1, 2]));
    }
    node.reach(&state);
}

#[test]
fn a_frontend_of_a_service_that_is_gone_does_not_linger_when_its_new_owner_has_no_room() {
    let mut node = Node::new(Limits {
        max_services: 1,
        ..LIMITS
    });
    node.reach(&wanted(&[("a", &[1], &[1])]));
    let next = wanted(&[("b", &[1], &[2])]);
    let report = node.sync(&next);
    assert_eq!(report.errors.len(), 1);
    assert!(
        node.model.frontends.is_empty(),
        "it must not lead to endpoints that nobody wants"
    );
    node.model.pass(LIMITS.grace);
    node.reach(&next);
}
