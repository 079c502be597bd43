//! Numbers below a limit: service identifiers and backend indexes. The lowest free one is given out first.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::quarantine::Quarantine;

/// Which numbers are taken.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    limit: u32,
    /// All numbers from here on are free.
    fresh: u32,
    /// Free numbers below `fresh`.
    free: BTreeSet<u32>,
    quarantine: Quarantine<u32>,
}

impl Numbers {
    pub(super) fn new(limit: u32, grace: Duration) -> Self {
        Self {
            limit,
            fresh: 0,
            free: BTreeSet::new(),
            quarantine: Quarantine::new(grace),
        }
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    /// Takes a number.
    pub(super) fn take(&mut self) -> Option<u32> {
        self.free.pop_first().or_else(|| {
            let number = self.fresh;
            (number < self.limit).then(|| {
                self.fresh += 1;
                number
            })
        })
    }

    /// Takes that number; false if it is not free.
    pub(super) fn reserve(&mut self, number: u32) -> bool {
        if number >= self.limit {
            return false;
        }
        if number < self.fresh {
            return self.free.remove(&number);
        }
        self.free.extend(self.fresh..number);
        self.fresh = number + 1;
        true
    }

    /// Gives back a number that nobody can have seen.
    pub(super) fn give_back(&mut self, number: u32) {
        self.free.insert(number);
    }

    /// Frees a number that was in use.
    pub(super) fn retire(&mut self, number: u32, now: Instant) {
        self.quarantine.push(number, now);
    }

    /// Ends the quarantine of what has been in it long enough.
    pub(super) fn release(&mut self, now: Instant) {
        while let Some(number) = self.quarantine.pop(now) {
            self.free.insert(number);
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.quarantine.next_due()
    }

    /// How many numbers are neither free nor in quarantine.
    pub(super) fn taken(&self) -> usize {
        self.fresh as usize - self.free.len() - self.quarantine.iter().count()
    }
}
