//! What holds for any bytes at all.

use lb_common::{
    abi::{Address, FlowKey, FlowKind},
    datapath::{self, Hook, Role, Way, Works},
    host::{Frame, PerFamily},
    verdict::Action,
};
use lb_tests::packets::{case::Case, cases, native};
use proptest::prelude::*;

const NOW: u64 = 1 << 50;

fn hook() -> impl Strategy<Value = Hook> {
    prop_oneof![
        Just(Hook::Ingress(Role::Workload)),
        Just(Hook::Ingress(Role::Uplink)),
        Just(Hook::Egress)
    ]
}

/// The packet and the world of some case, with a few bytes of the packet changed and perhaps the end cut off.
fn mutated() -> impl Strategy<Value = (Case, Vec<u8>)> {
    let cases = cases::all();
    (
        0..cases.len(),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        any::<Option<u8>>(),
    )
        .prop_map(move |(nth, changes, cut)| {
            let case = cases[nth].clone();
            let mut bytes = case.packet.clone();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.into());
            }
            (case, bytes)
        })
}

/// Runs the datapath and checks what holds for every packet; returns the frame afterwards.
fn run(case: &Case, bytes: &[u8], hook: Hook) -> Result<Vec<u8>, TestCaseError> {
    let tables = native::tables(&case.world, NOW);
    let mut frame = Frame::new(bytes.to_vec());
    let env = native::env(NOW);
    let verdict = datapath::process(&mut frame, &tables, &env, hook, &mut Works::default());
    let reason = verdict.reason;
    if verdict.way == Way::Back {
        prop_assert_eq!(reason.action(), Action::Reject);
        return Ok(frame.bytes);
    }
    prop_assert_eq!(frame.bytes.len(), bytes.len(), "{:?} changed the length", reason);
    if reason.action() != Action::Forward {
        prop_assert_eq!(&frame.bytes, bytes, "{:?} changed the packet", reason);
    }
    let before = native::tables(&case.world, NOW);
    prop_assert!(
        new_flows_are_whole(&before.v4, &tables.v4),
        "{:?} recorded half a flow",
        reason
    );
    prop_assert!(
        new_flows_are_whole(&before.v6, &tables.v6),
        "{:?} recorded half a flow",
        reason
    );
    Ok(frame.bytes)
}

/// Whether each flow that was not there before has both entries, and these name each other.
fn new_flows_are_whole<A: Address>(before: &PerFamily<A>, after: &PerFamily<A>) -> bool {
    let (before, after) = (before.flows.borrow(), after.flows.borrow());
    after
        .iter()
        .filter(|(key, flow)| flow.is(FlowKind::Forward) && !before.contains_key(key))
        .all(|(key, flow)| {
            after
                .get(&FlowKey::new(flow.tuple.reversed(), key.proto()))
                .is_some_and(|reply| reply.is(FlowKind::Reply) && reply.tuple == key.tuple.reversed())
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// Random bytes: nothing panics, and what is not forwarded is not touched.
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), hook in hook(), (case, _) in mutated()) {
        run(&case, &bytes, hook)?;
    }

    /// Nearly sound packets, which get much further.
    #[test]
    fn any_damage_to_a_sound_packet_is_survived((case, bytes) in mutated(), hook in hook()) {
        run(&case, &bytes, hook)?;
    }
}
