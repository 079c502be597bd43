//! Comparing the kernel's maps with what the agent has put there, now and then, a part in each turn of the main loop.
//!
//! Nobody but the agent writes the maps, unless by mistake. What somebody has changed is put right by the next sync, and
//! told once for each time that everything was compared.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tracing::{debug, error, warn};

use crate::{
    apply::{ApplyError, Derived, KernelMaps},
    diff::{Ledger, Part},
    plan::Differences,
    telemetry::Telemetry,
};

/// The first time comes after this time, or after the period if that is shorter: the start has other things to do.
const FIRST: Duration = Duration::from_secs(30);

/// Between two parts: changes go before, and other processes want the CPU too.
const PAUSE: Duration = Duration::from_millis(10);

/// What is compared next.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// What the ledger knows of.
    Ledger(Part),
    /// What follows from it.
    Derived(Derived),
    /// The networks of cluster IPs.
    ServiceCidrs,
}

/// How far it has come.
#[derive(Debug)]
pub(super) struct Audit {
    period: Duration,
    /// When to go on; never if none.
    next: Option<Instant>,
    stage: Stage,
    /// What was found since the beginning.
    found: Differences,
    /// How long it took so far, and the longest part.
    took: (Duration, Duration),
}

impl Audit {
    /// Everything is compared once in `period`, from `now` on; never if that is zero.
    pub(super) fn new(period: Duration, now: Instant) -> Self {
        Self {
            period,
            next: (!period.is_zero()).then(|| now + period.min(FIRST)),
            stage: Stage::Ledger(Part::FIRST),
            found: Differences::default(),
            took: Default::default(),
        }
    }

    /// When to call [`Self::work`] next.
    pub(super) fn next_work(&self) -> Option<Instant> {
        self.next
    }

    /// Compares a part, if it is time to. Returns whether there is something to put right by a sync. Comes when the kernel is
    /// at what the ledger wants, as far as it can be: after a sync without failures.
    pub(super) fn work(
        &mut self,
        ledger: &mut Ledger,
        maps: &mut KernelMaps,
        service_cidrs: Option<&BTreeSet<IpNet>>,
        telemetry: &Telemetry,
    ) -> bool {
        let begin = Instant::now();
        if self.next.is_none_or(|next| next > begin) {
            return false;
        }
        let mut found = Differences::default();
        let next = match self.compare(ledger, maps, service_cidrs, &mut found) {
            Ok(next) => next,
            Err(failure) => {
                error!("{failure}; what the maps hold is compared again later");
                None
            }
        };
        let now = Instant::now();
        let part = now - begin;
        self.took = (self.took.0 + part, self.took.1.max(part));
        telemetry.repaired(&found);
        self.found.extend(&found);
        match next {
            Some(next) => {
                self.stage = next;
                self.next = Some(now + PAUSE);
            }
            None => self.end(now),
        }
        !found.is_empty()
    }

    fn compare(
        &self,
        ledger: &mut Ledger,
        maps: &mut KernelMaps,
        service_cidrs: Option<&BTreeSet<IpNet>>,
        found: &mut Differences,
    ) -> Result<Option<Stage>, ApplyError> {
        Ok(match self.stage {
            Stage::Ledger(part) => {
                let next = ledger.compare(part, maps, Instant::now(), found)?;
                Some(next.map_or(Stage::Derived(Derived::FIRST), Stage::Ledger))
            }
            Stage::Derived(part) => {
                let next = maps.mend(part, found)?;
                Some(next.map_or(Stage::ServiceCidrs, Stage::Derived))
            }
            Stage::ServiceCidrs => {
                if let Some(told) = service_cidrs {
                    maps.mend_service_cidrs(told, found)?;
                }
                None
            }
        })
    }

    /// Everything was compared, or something could not be read.
    fn end(&mut self, now: Instant) {
        let found = std::mem::take(&mut self.found);
        if !found.is_empty() {
            warn!(
                "the kernel's maps were not as the agent had written them: {found}. They are put right; find out who else \
                 writes to the pinned maps"
            );
        }
        let (took, longest) = std::mem::take(&mut self.took);
        debug!(
            us = took.as_micros() as u64,
            longest_us = longest.as_micros() as u64,
            "compared what the maps hold"
        );
        self.stage = Stage::Ledger(Part::FIRST);
        self.next = Some(now + self.period);
    }
}
