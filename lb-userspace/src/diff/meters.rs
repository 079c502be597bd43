//! Which meter each service port is counted by.
//!
//! Numbers go round: one that was freed is the last to be given out again. Connections may outlive their Service by hours,
//! and are counted by the number that their flow holds. A meter is set to zero before a frontend names it for a new owner.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use lb_common::abi::Meter;

use super::{Ledger, quarantine::Quarantine};
use crate::desired::ServicePortKey;

/// The meter of a service.
#[derive(Clone, Copy, Debug)]
struct Held {
    number: u16,
    /// It holds nothing of a former owner.
    is_clear: bool,
}

/// Numbers of meters, from 1 to a limit; services are told by their identifiers.
#[derive(Debug)]
pub(super) struct Meters {
    /// By number: whether it is held or rests. [`Meter::NONE`] always is.
    taken: Vec<bool>,
    free: usize,
    /// Where the search for the next one begins.
    next: usize,
    held: BTreeMap<u32, Held>,
    /// Services that found none.
    without: BTreeSet<u32>,
    quarantine: Quarantine<u16>,
    /// Whether there is news for [`Ledger::take_meters`].
    changed: bool,
}

impl Meters {
    pub(super) fn new(limit: u16, grace: Duration) -> Self {
        let mut taken = vec![false; usize::from(limit) + 1];
        taken[usize::from(Meter::NONE)] = true;
        Self {
            taken,
            free: limit.into(),
            next: 0,
            held: BTreeMap::new(),
            without: BTreeSet::new(),
            quarantine: Quarantine::new(grace),
            changed: false,
        }
    }

    /// Takes over the number that a frontend of the service names, if there is such a meter and nobody else has it.
    pub(super) fn adopt(&mut self, id: u32, number: u16) {
        if !self.held.contains_key(&id) && self.taken.get(usize::from(number)) == Some(&false) {
            self.hold(id, number, true);
        }
    }

    /// Gives a meter to the service, if it has none and there is one.
    pub(super) fn give(&mut self, id: u32) {
        if self.held.contains_key(&id) {
            return;
        }
        let mut places = (self.next..self.taken.len()).chain(0..self.next);
        let free = match self.free {
            0 => None,
            _ => places.find(|place| !self.taken[*place]),
        };
        match free.and_then(|place| u16::try_from(place).ok()) {
            Some(number) => self.hold(id, number, false),
            None => self.changed |= self.without.insert(id),
        }
    }

    fn hold(&mut self, id: u32, number: u16, is_clear: bool) {
        self.taken[usize::from(number)] = true;
        self.free -= 1;
        self.next = (usize::from(number) + 1) % self.taken.len();
        self.held.insert(id, Held { number, is_clear });
        self.without.remove(&id);
        self.changed = true;
    }

    /// The number of the service's meter.
    pub(super) fn of(&self, id: u32) -> u16 {
        self.held.get(&id).map_or(Meter::NONE, |held| held.number)
    }

    /// The same, if it may hold something of a former owner.
    pub(super) fn to_clear(&self, id: u32) -> Option<u16> {
        let held = self.held.get(&id).filter(|held| !held.is_clear);
        held.map(|held| held.number)
    }

    /// The service's meter holds nothing.
    pub(super) fn cleared(&mut self, id: u32) {
        if let Some(held) = self.held.get_mut(&id) {
            held.is_clear = true;
        }
    }

    /// Nothing of the service is in the kernel any more.
    pub(super) fn retire(&mut self, id: u32, now: Instant) {
        self.changed |= self.without.remove(&id);
        if let Some(held) = self.held.remove(&id) {
            self.quarantine.push(held.number, now);
            self.changed = true;
        }
    }

    /// Ends the quarantine of what has been in it long enough. Returns services that have none and find one now.
    pub(super) fn release(&mut self, now: Instant) -> Vec<u32> {
        while let Some(number) = self.quarantine.pop(now) {
            self.taken[usize::from(number)] = false;
            self.free += 1;
        }
        self.without.iter().take(self.free).copied().collect()
    }
}

impl Ledger {
    /// Whose each meter is, and how many service ports have none, if that has changed since it was asked for.
    pub fn take_meters(&mut self) -> Option<(BTreeMap<u16, ServicePortKey>, usize)> {
        if !std::mem::take(&mut self.meters.changed) {
            return None;
        }
        let held = self.meters.held.iter();
        let named = held.filter_map(|(id, held)| Some((held.number, self.entries.get(id)?.key.clone()?)));
        Some((named.collect(), self.meters.without.len()))
    }
}
