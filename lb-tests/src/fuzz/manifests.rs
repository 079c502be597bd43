//! Manifests: any text. Whatever it says is either refused with a reason or brought into a table that then stands still.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use lb_userspace::{
    desired::{Desired, NodeFacts, Options},
    diff::{Ledger, Limits, sync},
    index::Index,
    plan::{Dataplane, Op},
    watch::{Kind, Object, parse::parse},
};

/// A kernel that takes everything.
#[derive(Default)]
struct Taking(usize);

impl Dataplane for Taking {
    type Error = Infallible;

    fn apply(&mut self, _op: &Op) -> Result<(), Infallible> {
        self.0 += 1;
        Ok(())
    }
}

/// Limits that a small text can pass.
fn limits() -> Limits {
    Limits {
        max_services: 8,
        max_backends: 16,
        max_frontends: 16,
        maglev_slots: 4_096,
        max_ranges: 8,
        max_meters: 4,
        grace: Duration::ZERO,
        portion: 3,
    }
}

/// Plays a text as a folder with one file; the first rule that it breaks.
///
/// # Errors
///
/// The rule.
pub fn check(input: &[u8]) -> Result<(), String> {
    let Ok(text) = std::str::from_utf8(input) else {
        return Ok(());
    };
    let parsed = parse(text);
    for problem in &parsed.problems {
        if problem.message.is_empty() {
            return Err(format!("a problem says what it is: {problem:?}"));
        }
    }
    let objects: Vec<Object> = parsed.objects.into_iter().map(|located| located.object).collect();
    let facts = NodeFacts {
        name: "node1".into(),
        addresses: vec![
            [172, 18, 0, 2].into(),
            [0xfd00, 0x172, 0x18, 0, 0, 0, 0, 2].into(),
        ],
        ..NodeFacts::default()
    };
    let mut index = Index::new();
    let mut desired = Desired::new(Options::default(), facts);
    let mut ledger = Ledger::new(limits());
    let mut kernel = Taking::default();

    list(&mut index, &objects);
    let Some(update) = desired.update(&mut index) else {
        return Err("the first update comes".into());
    };
    ledger.apply(update.changes);
    settle(&mut ledger, &mut kernel);
    // The same list once more changes nothing.
    list(&mut index, &objects);
    if let Some(update) = desired.update(&mut index)
        && !update.changes.is_empty()
    {
        return Err(format!(
            "the same list again changes something: {:?}",
            update.changes
        ));
    }
    let applied = kernel.0;
    settle(&mut ledger, &mut kernel);
    if kernel.0 != applied {
        return Err("a table that is as wanted is left alone".into());
    }
    // And an empty one removes everything.
    list(&mut index, &[]);
    if let Some(update) = desired.update(&mut index) {
        ledger.apply(update.changes);
    }
    settle(&mut ledger, &mut kernel);
    let usage = ledger.usage();
    if ledger.is_settled() {
        Ok(())
    } else {
        Err(format!(
            "nothing wanted and the table does not get there: {usage:?}"
        ))
    }
}

fn list(index: &mut Index, objects: &[Object]) {
    for kind in Kind::ALL {
        index.reset(kind, objects.to_vec());
    }
}

/// Carries out what there is to do, past every rest that the ledger takes.
fn settle(ledger: &mut Ledger, kernel: &mut Taking) {
    let begin = Instant::now();
    for turn in 0..4 {
        let now = begin + Duration::from_secs(turn);
        let _ = sync(ledger, kernel, || now);
    }
}
