//! Random sequences of desired states.

use std::time::Duration;

use lb_common::abi::Policies;
use proptest::prelude::*;

use ipnet::IpNet;

use super::{damage::damage, *};
use crate::{desired::Sources, diff::tests::model::Failure};

/// Keys of random states; several of each protocol and family, so that frontends can change hands.
fn keys() -> Vec<ServicePortKey> {
    let mut keys = Vec::new();
    for family in Family::ALL {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            keys.extend(["a", "b", "c"].map(|name| key(name, protocol, family)));
        }
    }
    keys
}

/// A state: who has each of four frontends (of every protocol and family), and which of five endpoints each has.
fn state() -> impl Strategy<Value = Wanted> {
    let owners = prop::collection::vec(prop::option::weighted(0.7, 0usize..3), 16);
    let endpoints = prop::collection::vec((0u8..32, 0u8..32, any::<(bool, bool)>(), any::<u8>()), 12);
    (owners, endpoints).prop_map(|(owners, endpoints)| {
        let mut state = Wanted::new();
        for (i, key) in keys().into_iter().enumerate() {
            let group = i / 3;
            let frontends: Vec<u8> = (0..4)
                .filter(|f| owners[group * 4 + usize::from(*f)] == Some(i % 3))
                .collect();
            let (present, local, (internal_local, external_local), serving) = endpoints[i];
            let numbers: Vec<u8> = (0..5).filter(|n| present >> n & 1 == 1).collect();
            let mut port = port(&key, &frontends, &numbers);
            for (n, endpoint) in port.endpoints.values_mut().enumerate() {
                endpoint.local = local >> n & 1 == 1;
            }
            port.policies = Policies {
                internal_local,
                external_local,
                affinity: u32::from(local) * 100,
            };
            if internal_local || external_local {
                let local = port.endpoints.iter().filter(|(_, endpoint)| endpoint.local);
                port.local = local.map(|(addr, _)| *addr).collect();
                // One that terminates, while others elsewhere are ready.
                if present & 0b11 == 0b11 && !local_ready(&port) {
                    port.local.insert(EndpointAddr {
                        addr: addr(key.family, 1, 77),
                        port: 8080,
                    });
                }
            }
            keep(&mut port, &key, serving);
            // Some frontends are a load balancer's, and go by some of five ranges.
            for (frontend, kind) in &mut port.frontends {
                if frontend.addr.is_ipv4() == (local & 2 == 0) {
                    *kind = FrontendKind::LoadBalancer;
                    port.addresses.insert(frontend.addr, *kind);
                }
            }
            if local & 1 == 1
                && port
                    .frontends
                    .values()
                    .any(|kind| *kind == FrontendKind::LoadBalancer)
            {
                let ranges = (0..5).filter(|n| (present ^ local) >> n & 1 == 1);
                port.sources = Some(Sources {
                    ranges: ranges
                        .map(|n| IpNet::new(addr(key.family, 7, n), 24).unwrap())
                        .collect(),
                    node: internal_local,
                });
            }
            if !port.frontends.is_empty() {
                state.insert(key, port);
            }
        }
        state
    })
}

/// Those that also serve, of all the endpoints that there ever are. An endpoint runs on one node, whoever asks.
fn keep(port: &mut ServicePort, key: &ServicePortKey, serving: u8) {
    let backends = port.backends();
    let numbers = [0, 1, 2, 3, 4, 77].into_iter().enumerate();
    let serving = numbers.filter(|(n, _)| serving >> n & 1 == 1);
    let endpoints = serving.map(|(n, number)| {
        let addr = addr(key.family, 1, number);
        let local = n % 2 == 0;
        (EndpointAddr { addr, port: 8080 }, Endpoint { local })
    });
    port.kept = endpoints
        .filter(|(endpoint, _)| !backends.contains_key(endpoint))
        .collect();
}

fn local_ready(port: &ServicePort) -> bool {
    port.endpoints.values().any(|endpoint| endpoint.local)
}

fn steps() -> impl Strategy<Value = Vec<(Wanted, u64)>> {
    prop::collection::vec((state(), 0u64..1_500), 1..8)
}

/// Room enough for what rests as well: nothing is ever short of it.
const ROOMY: Limits = Limits {
    max_services: 200,
    max_backends: 1_000,
    max_frontends: 100,
    maglev_slots: 256 * 1024,
    portion: 2,
    ..LIMITS
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// (a), (b), (d), (e): after every operation every frontend that stays leads to endpoints of its services; at the
    /// end of each change the kernel holds just what is wanted; nothing overlaps, leaks, or is used before its rest is
    /// over (the model checks that with every operation).
    #[test]
    fn every_prefix_of_every_plan_works(steps in steps(), portion in 1usize..9) {
        let mut node = Node::new(Limits { portion, ..ROOMY });
        let mut before = Wanted::new();
        for (state, wait) in steps {
            node.model.promise(&before, &state);
            node.reach(&state);
            node.model.pass(Duration::from_millis(wait));
            before = state;
        }
        node.model.promise(&before, &Wanted::new());
        node.reach(&Wanted::new());
        node.model.pass(ROOMY.grace);
        node.reach(&Wanted::new());
        prop_assert_eq!(node.ledger.usage().quarantined_slots, 0);
    }

    /// The same when changes come one by one and in any order, as the desired state tells them.
    #[test]
    fn single_changes_lead_to_the_same(steps in steps(), seed in any::<u64>()) {
        use crate::desired::Change;
        let mut node = Node::new(ROOMY);
        let mut before = Wanted::new();
        for (state, _) in steps {
            let gone = before.keys().filter(|key| !state.contains_key(*key)).cloned().map(Change::Delete);
            let changed = state.iter().filter(|(key, port)| before.get(*key) != Some(*port));
            let mut changes: Vec<Change> =
                gone.chain(changed.map(|(key, port)| Change::Apply(key.clone(), port.clone().into()))).collect();
            changes.sort_by_key(|change| {
                let (Change::Apply(key, _) | Change::Delete(key)) = change;
                let bytes = key.to_string().bytes().fold(seed, |hash, byte| hash.wrapping_mul(31) ^ u64::from(byte));
                lb_common::maglev::mix(bytes)
            });
            node.model.promise(&before, &state);
            node.ledger.apply(changes);
            let report = node.again();
            prop_assert!(report.errors.is_empty() && report.failures.is_empty());
            node.model.assert_is(&state);
            node.assert_no_leaks(&state);
            before = state;
        }
    }

    /// (c): a restart without changes takes no operation.
    #[test]
    fn a_restart_takes_no_operation(steps in steps()) {
        let mut node = Node::new(ROOMY);
        for (state, wait) in steps {
            node.reach(&state);
            node.model.pass(Duration::from_millis(wait));
            node = node.restart(ROOMY);
            prop_assert_eq!(node.reach(&state), 0);
        }
    }

    /// A kill in the middle of a plan, then a restart with yet another state.
    #[test]
    fn a_restart_in_the_middle_of_a_plan_goes_on(
        first in state(), second in state(), third in state(), after in 0usize..60, happens: bool,
    ) {
        let mut node = Node::new(ROOMY);
        node.reach(&first);
        node.model.promise(&first, &second);
        node.ledger.reset(second.clone());
        let plan = node.ledger.plan(node.model.now);
        for (i, step) in plan.steps.iter().enumerate() {
            if i < after || i == after && happens {
                let _ = crate::plan::Dataplane::apply(&mut node.model, step.op());
            }
        }
        node = node.restart(ROOMY);
        // Service ports that keep their frontends all along lead to endpoints of one of the three states.
        let mut former = Wanted::new();
        for (key, port) in &first {
            let (Some(next), Some(last)) = (second.get(key), third.get(key)) else { continue };
            let empty = port.endpoints.is_empty() || next.endpoints.is_empty();
            let same_sources = port.sources == next.sources;
            if port.frontends == next.frontends && next.frontends == last.frontends && same_sources && !empty {
                let endpoints = port.endpoints.iter().chain(&next.endpoints).map(|(addr, e)| (*addr, *e)).collect();
                let local = port.local.union(&next.local).copied().collect();
                former.insert(key.clone(), ServicePort { endpoints, frontends: port.frontends.clone(), local, sources: next.sources.clone(), ..ServicePort::default() });
            }
        }
        node.model.promise(&former, &third);
        node.reach(&third);
    }

    /// (f): an operation fails, and may or may not have happened; planning again leads to what is wanted.
    #[test]
    fn after_a_failure_the_next_plans_lead_to_what_is_wanted(
        steps in steps(), failures in prop::collection::vec((0usize..40, any::<bool>()), 1..8),
    ) {
        let mut node = Node::new(ROOMY);
        let mut before = Wanted::new();
        for ((state, wait), (after, happens)) in steps.into_iter().zip(failures) {
            node.model.promise(&before, &state);
            node.model.failure = Some(Failure { after, happens });
            let report = node.sync(&state);
            prop_assert!(report.errors.is_empty());
            node.model.failure = None;
            node.again();
            node.reach(&state);
            node.model.pass(Duration::from_millis(wait));
            before = state;
        }
    }

    /// The state changes again before the plan after a failure.
    #[test]
    fn a_failure_may_be_followed_by_another_change(
        steps in steps(), failures in prop::collection::vec((0usize..40, any::<bool>()), 1..8),
    ) {
        let mut node = Node::new(ROOMY);
        let mut last = Wanted::new();
        for ((state, wait), (after, happens)) in steps.into_iter().zip(failures) {
            node.model.failure = Some(Failure { after, happens });
            let report = node.sync(&state);
            prop_assert!(report.errors.is_empty());
            node.model.pass(Duration::from_millis(wait));
            last = state;
        }
        node.model.failure = None;
        node.again();
        node.reach(&last);
        node = node.restart(ROOMY);
        prop_assert_eq!(node.reach(&last), 0);
    }

    /// With little room everything that is programmed is right, and when there is room at last all of it is.
    #[test]
    fn without_room_the_rest_still_works(
        steps in steps(), services in 1u32..8, backends in 1u32..12, frontends in 1u32..6, slots in 1u32..2_000,
        portion in 1usize..9,
    ) {
        let limits = Limits {
            max_services: services, max_backends: backends, max_frontends: frontends, maglev_slots: slots, portion, ..LIMITS
        };
        let mut node = Node::new(limits);
        for (state, wait) in steps {
            let report = node.sync(&state);
            prop_assert!(report.failures.is_empty());
            for (frontend, (id, _)) in node.model.frontends.clone() {
                let slots = node.model.resolve(&frontend).unwrap_or_default();
                prop_assert!(slots.iter().all(Option::is_some), "{} leads to a free backend", frontend);
                prop_assert!(state.values().any(|port| port.frontends.contains_key(&frontend)), "{id}");
            }
            node.model.pass(Duration::from_millis(wait));
        }
        node.sync(&Wanted::new());
        node.reach(&Wanted::new());
    }

    /// Whatever a kernel holds, adoption survives it and leads to what is wanted.
    #[test]
    fn a_damaged_kernel_is_mended(
        first in state(), next in state(), damage in damage(),
    ) {
        let mut node = Node::new(ROOMY);
        node.reach(&first);
        for one in damage {
            one.strike(&mut node.model);
        }
        node = node.restart(ROOMY);
        node.reach(&next);
        node = node.restart(ROOMY);
        prop_assert_eq!(node.reach(&next), 0);
    }

    /// As long as nobody else writes, there is nothing to find, and nothing to write.
    #[test]
    fn comparing_finds_nothing_where_nobody_else_writes(steps in steps()) {
        let mut node = Node::new(ROOMY);
        for (state, wait) in steps {
            node.reach(&state);
            let written = node.model.log.len();
            prop_assert_eq!(node.audit().to_string(), "");
            prop_assert_eq!(node.model.log.len(), written);
            node.model.pass(Duration::from_millis(wait));
        }
    }

    /// Whatever somebody writes, comparing finds it and leads back to what is wanted, without a new start. What was not
    /// touched stays where it is.
    #[test]
    fn what_somebody_else_has_written_is_put_right(steps in steps(), damage in damage()) {
        let mut node = Node::new(ROOMY);
        let mut last = Wanted::new();
        for (state, wait) in steps {
            node.reach(&state);
            node.model.pass(Duration::from_millis(wait));
            last = state;
        }
        let before = node.slots();
        for one in damage {
            one.strike(&mut node.model);
        }
        // What was written where something rests is found when it has rested.
        node.audit();
        node.model.pass(ROOMY.grace);
        node.audit();
        node.assert_kept(&before, &last);
        prop_assert_eq!(node.audit().to_string(), "");
        prop_assert_eq!(node.reach(&last), 0);
        node = node.restart(ROOMY);
        prop_assert_eq!(node.reach(&last), 0);
    }
}
