//! Carrying plans out.

use std::{collections::BTreeSet, time::Instant};

use super::{DiffError, Ledger, Step, planner::What};
use crate::plan::{Dataplane, Op};

/// A plan can make room for the next one. More plans than this in a row are no use: what is freed rests first.
const MOST_PLANS: usize = 16;

/// What came of it.
#[derive(Debug)]
pub struct Report<E> {
    /// How many operations were carried out.
    pub applied: usize,
    /// Operations that failed. Their services are as they were, or nearly; call [`sync`] again in a while.
    pub failures: Vec<(Op, E)>,
    /// Limits that were passed, each told once for as long as it is true.
    pub errors: Vec<DiffError>,
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
    let mut report = Report { applied: 0, failures: Vec::new(), errors: Vec::new() };
    let mut failed = BTreeSet::new();
    for _ in 0..MOST_PLANS {
        let plan = ledger.plan_without(&failed, now());
        report.errors.extend(plan.errors);
        if plan.steps.is_empty() {
            break;
        }
        for step in plan.steps {
            let Err(error) = dataplane.apply(step.op()) else {
                ledger.confirm(&step, now());
                report.applied += 1;
                continue;
            };
            ledger.fail(&step);
            let service = service_of(&step);
            report.failures.push((step.op, error));
            match service {
                Some(id) => failed.insert(id),
                None => return report,
            };
            break;
        }
    }
    report
}

/// The service that an operation is for, if it is for one.
fn service_of(step: &Step) -> Option<u32> {
    match (&step.op, &step.what) {
        (Op::PutService { id, .. } | Op::PutFrontend { service: id, .. }, _)
        | (_, What::Backend { id } | What::Table { id } | What::Free { owner: Some((id, _)) }) => Some(*id),
        _ => None,
    }
}
