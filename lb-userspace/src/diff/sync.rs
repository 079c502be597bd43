//! Carrying plans out.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{DiffError, Ledger, Step, planner::What};
use crate::plan::{Dataplane, Op};

/// A plan that was carried out can make room for the next one. More of them in a row are no use: what is freed rests
/// first.
const MOST_PLANS: usize = 16;

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
    let mut failed = BTreeSet::new();
    let (mut plans, mut failures) = (0, 0);
    'plans: while plans < MOST_PLANS && failures < MOST_FAILURES_IN_A_ROW {
        let compared_from = now();
        let plan = ledger.plan_without(&failed, compared_from);
        report.comparing += now().saturating_duration_since(compared_from);
        report.errors.extend(plan.errors);
        if plan.steps.is_empty() {
            break;
        }
        plans += 1;
        for step in plan.steps {
            let Err(error) = dataplane.apply(step.op()) else {
                ledger.confirm(&step, now());
                report.applied += 1;
                report.freed += usize::from(matches!(step.op(), Op::FreeBackend { .. }));
                failures = 0;
                continue;
            };
            ledger.fail(&step);
            let service = service_of(&step);
            report.failures.push((step.op, error));
            let Some(id) = service else { break 'plans };
            failed.insert(id);
            failures += 1;
            plans -= 1;
            break;
        }
    }
    let took = now().saturating_duration_since(begin);
    report.applying = took.saturating_sub(report.comparing);
    report
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
