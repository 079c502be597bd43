//! The fuzz targets on a few inputs; `cargo xtask fuzz` looks for more.

use std::{fs, path::Path};

use lb_common::verdict::Reason;
use lb_tests::{
    fuzz::{TARGETS, packets},
    packets::{case::Case, kernel::Kernel, native},
};
use proptest::{
    collection::vec,
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

/// Inputs that each target is given.
const INPUTS: u32 = 20_000;
/// Inputs that kernel and native run are compared on.
const COMPARED: usize = 1_500;

fn input() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..400)
}

#[test]
fn many_inputs_are_clean() {
    let mut runner = TestRunner::new(Config {
        cases: INPUTS,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&input(), |bytes| {
            packets::check(&bytes).map_err(TestCaseError::fail)
        })
        .unwrap();
}

/// What libFuzzer found once.
#[test]
fn inputs_that_broke_a_rule_once_are_clean() {
    for (name, check) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name);
        let mut inputs = 0;
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            check(&fs::read(&path).unwrap()).unwrap_or_else(|broken| panic!("{}: {broken}", path.display()));
            inputs += 1;
        }
        assert!(inputs > 0, "{} is empty", folder.display());
    }
}

/// The first packet of each input, in its world, gives the same natively and in the kernel.
#[test]
fn kernel_and_native_agree_on_any_input() {
    let mut kernel = Kernel::with_routes(lb_userspace::object::bytes().unwrap()).unwrap();
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    );
    let (mut compared, mut tried) = (0, 0);
    while compared < COMPARED {
        let bytes = input().new_tree(&mut runner).unwrap().current();
        tried += 1;
        assert!(
            tried < 20 * COMPARED,
            "only {compared} of {tried} inputs can be run"
        );
        let Some(case) = runnable(&bytes) else { continue };
        let expected = native::run(&case);
        let got = kernel
            .run(&case)
            .unwrap_or_else(|error| panic!("{error:#}\n{case:x?}"));
        assert_eq!(got, expected, "{case:x?}");
        compared += 1;
    }
}

/// The first packet of an input as a case that `BPF_PROG_TEST_RUN` takes, which knows no tag beside the bytes.
fn runnable(bytes: &[u8]) -> Option<Case> {
    let input = packets::decode(bytes);
    let arrival = input.arrivals.into_iter().next()?;
    let case = Case {
        name: "input".into(),
        hook: arrival.hook,
        world: input.world,
        before: Vec::new(),
        packet: arrival.frame.bytes,
        reason: Reason::NotIp,
        rewritten: None,
        redirected: false,
    };
    (!arrival.frame.vlan_tag && case.is_runnable() && case.oldest_flow() < YOUNG).then_some(case)
}

/// Flows younger than this (ns) can exist on any machine that runs this test.
const YOUNG: u64 = 60_000_000_000;
