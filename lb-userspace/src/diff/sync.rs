//! Carrying plans out.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{DiffError, Ledger, Step, planner::What};
use crate::plan::{Dataplane, Op};

/// What was carried out can make room for more. Many passes in a row are no use: what is freed rests first.
const MOST_PASSES: usize = 16;

/// After that many failures without a single success in between, nothing works and there is no use in trying the
/// other services.
const MOST_FAILURES_IN_A_ROW: usize = 8;

/// What came of it.
#[derive(Debug)]
pub struct Report<E> {
    /// How many operations were carried out.
    pub applied: usize,
    /// How many backends were taken out of use.
    pub freed: usize,
    /// Operations that failed. Their services are as they were, or nearly; call [`sync`] again in a while.
    pub failures: Vec<(Op, E)>,
    /// Limits that were passed, each told once for as long as it is true.
    pub errors: Vec<DiffError>,
    /// How long it took to compare.
    pub comparing: Duration,
    /// How long it took to carry out operations.
    pub applying: Duration,
}

/// Brings the kernel to what the ledger wants. An operation that fails holds up its own service and not the others.
/// `now` is asked for the time of every operation.
///
/// When something is wanted that there is no room for, [`Ledger::next_wakeup`] tells when to call again.
pub fn sync<D: Dataplane>(
    ledger: &mut Ledger,
    dataplane: &mut D,
    mut now: impl FnMut() -> Instant,
) -> Report<D::Error> {
    let mut report = Report {
        applied: 0,
        freed: 0,
        failures: Vec::new(),
        errors: Vec::new(),
        comparing: Duration::ZERO,
        applying: Duration::ZERO,
    };
    let begin = now();
    let mut failures = Failures::default();
    'passes: for _ in 0..MOST_PASSES {
        let before = report.applied + report.failures.len();
        // What is free again may be what a service port waits for.
        ledger.release(now());
        let mut portion = ledger.portion(None);
        loop {
            let compared_from = now();
            let plan = ledger.plan_portion(&portion, &failures.services, compared_from);
            report.comparing += now().saturating_duration_since(compared_from);
            report.errors.extend(plan.errors);
            let outcome = carry_out(
                ledger,
                dataplane,
                plan.steps,
                &mut failures,
                &mut report,
                &mut now,
            );
            match outcome {
                Outcome::Done => match portion.next.take() {
                    Some(next) => portion = ledger.portion(Some(&next)),
                    None => break,
                },
                Outcome::Again => {}
                Outcome::GivenUp => break 'passes,
            }
        }
        if report.applied + report.failures.len() == before {
            break;
        }
    }
    report.applying = now()
        .saturating_duration_since(begin)
        .saturating_sub(report.comparing);
    report
}

/// What failed so far.
#[derive(Default)]
struct Failures {
    /// The services of which operations failed.
    services: BTreeSet<u32>,
    in_a_row: usize,
}

/// What is to follow after a plan.
enum Outcome {
    /// The next portion.
    Done,
    /// Another plan for the same portion.
    Again,
    /// Nothing: there is no use in going on.
    GivenUp,
}

fn carry_out<D: Dataplane>(
    ledger: &mut Ledger,
    dataplane: &mut D,
    mut steps: Vec<Step>,
    failures: &mut Failures,
    report: &mut Report<D::Error>,
    now: &mut impl FnMut() -> Instant,
) -> Outcome {
    let mut at = 0;
    for run in steps.chunk_by(|step, next| step.op.goes_with(&next.op)) {
        let ops: Vec<&Op> = run.iter().map(Step::op).collect();
        let result = dataplane.apply_all(&ops);
        let done = result
            .as_ref()
            .map_or_else(|partial| partial.done, |()| run.len());
        for step in &run[..done] {
            ledger.confirm(step, now());
            report.applied += 1;
            report.freed += usize::from(matches!(step.op(), Op::FreeBackend { .. }));
            failures.in_a_row = 0;
        }
        let Err(partial) = result else {
            at += run.len();
            continue;
        };
        for step in run[done..].iter().take(partial.unknown) {
            ledger.fail(step);
        }
        let failed = steps.swap_remove(at + done);
        let service = service_of(&failed);
        report.failures.push((failed.op, partial.error));
        let Some(id) = service else {
            return Outcome::GivenUp;
        };
        failures.services.insert(id);
        failures.in_a_row += 1;
        return if failures.in_a_row < MOST_FAILURES_IN_A_ROW {
            Outcome::Again
        } else {
            Outcome::GivenUp
        };
    }
    Outcome::Done
}

/// The service that an operation is for, if it is for one.
fn service_of(step: &Step) -> Option<u32> {
    match (&step.op, &step.what) {
        (Op::PutService { id, .. } | Op::PutFrontend { service: id, .. }, _)
        | (
            _,
            What::Backend { id }
            | What::Table { id }
            | What::Meter { id }
            | What::Address { id }
            | What::Range { id }
            | What::Free { owner: Some((id, _)) },
        ) => Some(*id),
        _ => None,
    }
}
