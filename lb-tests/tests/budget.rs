//! What the kernel programs cost the verifier stays within what is recorded.

use lb_tests::budget::{self, MOST_INSTRUCTIONS, MOST_STACK};

#[test]
fn programs_stay_within_their_budget() {
    let recorded = budget::recorded().unwrap();
    let measured = budget::measure().unwrap();
    // Another kernel walks other ways: only its limits count there.
    let comparable = series(&recorded.kernel) == series(&measured.kernel);
    let mut failures = Vec::new();
    for (name, cost) in &measured.programs {
        if cost.verified_instructions > MOST_INSTRUCTIONS / 2 || cost.stack > MOST_STACK {
            failures.push(format!("{name} comes too near the kernel's limits: {cost:?}"));
        }
        let Some(budget) = recorded.programs.get(name) else {
            failures.push(format!("{name} has no budget"));
            continue;
        };
        // A few instructions come and go with the compiler's version.
        let most = budget.verified_instructions + budget.verified_instructions / 20;
        if comparable && (cost.verified_instructions > most || cost.stack > budget.stack) {
            failures.push(format!("{name} costs {cost:?}, its budget is {budget:?}"));
        }
    }
    for name in recorded.programs.keys() {
        if !measured.programs.contains_key(name) {
            failures.push(format!("{name} has a budget and does not exist"));
        }
    }
    assert!(
        failures.is_empty(),
        "{}\n`cargo xtask budget --write` records what is; say in the commit message why it grew",
        failures.join("\n")
    );
}

/// The first two numbers of a release.
fn series(release: &str) -> Vec<&str> {
    release.split('.').take(2).collect()
}
