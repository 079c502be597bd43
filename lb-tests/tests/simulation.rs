//! What holds for any flows and any changes of endpoints in a cluster of several nodes.
//!
//! A failure is written to `simulation.regressions` beside this file, and tried again first in every later run:
//! check it in. `PROPTEST_CASES=100000 cargo nextest run -p lb-tests --test simulation` looks further.

use lb_tests::simulation::flows::{Seen, Simulation, Step};
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{FileFailurePersistence, TestRunner},
};

fn step() -> impl Strategy<Value = Step> {
    let any8 = any::<u8>;
    prop_oneof![
        6 => (any8(), any8(), any8(), any8(), any::<bool>()).prop_map(|(client, port, service, address, tcp)| {
            Step::Open { client, port, service, address, tcp }
        }),
        8 => (any8(), any::<bool>()).prop_map(|(flow, endpoint_first)| Step::Talk { flow, endpoint_first }),
        2 => (any8(), any::<bool>()).prop_map(|(flow, reset)| Step::Close { flow, reset }),
        4 => (any8(), any8()).prop_map(|(service, pod)| Step::Change { service, pod }),
        2 => (any8(), any::<bool>()).prop_map(|(flow, reply)| Step::Evict { flow, reply }),
        // Eighty steps stay below every timeout: what is silent for long is not alive.
        1 => (0u16..1_000).prop_map(|ms| Step::Wait { ms }),
    ]
}

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/simulation.regressions"
        )))),
        ..ProptestConfig::with_cases(1_000)
    }
}

/// Carries the steps out; the first broken rule ends it.
fn run(v6: bool, steps: &[Step]) -> Result<Seen, TestCaseError> {
    let mut simulation = Simulation::new(v6);
    for (nth, step) in steps.iter().enumerate() {
        let done = simulation.step(*step);
        prop_assert!(done.is_ok(), "step {nth}, {step:?}: {:#}", done.unwrap_err());
    }
    Ok(simulation.seen)
}

proptest! {
    #![proptest_config(config())]

    /// An established TCP flow never changes its endpoint, an answer always comes from the address that the client asked,
    /// and no two live flows share a tuple on the wire.
    #[test]
    fn flows_keep_endpoint_address_and_tuple_whatever_happens(
        v6 in any::<bool>(),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        run(v6, &steps)?;
    }
}

/// The steps above do meet what the rules are about.
#[test]
fn runs_meet_refusals_evictions_translated_sources_and_endpoints_that_left() {
    let mut runner = TestRunner::deterministic();
    let mut seen = Seen::default();
    for _ in 0..100 {
        let steps = prop::collection::vec(step(), 80)
            .new_tree(&mut runner)
            .expect("steps can be made")
            .current();
        let one = run(false, &steps).expect("the rules hold");
        seen.opened += one.opened;
        seen.answered += one.answered;
        seen.refused += one.refused;
        seen.evicted += one.evicted;
        seen.translated += one.translated;
        seen.outlived += one.outlived;
    }
    println!("{seen:?}");
    assert!(seen.opened > 500 && seen.answered > 2_000, "{seen:?}");
    assert!(seen.refused > 0 && seen.evicted > 50, "{seen:?}");
    assert!(seen.translated > 50 && seen.outlived > 20, "{seen:?}");
}
