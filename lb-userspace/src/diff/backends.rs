//! Slots of BACKENDS4 or BACKENDS6: which are taken, and how often each was given away.

use std::time::{Duration, Instant};

use super::numbers::Numbers;

/// The slots of one family.
#[derive(Clone, Debug)]
pub(super) struct Backends {
    numbers: Numbers,
    /// By index: the last generation that the slot had, as far as it was ever taken.
    generations: Vec<u32>,
}

/// The generation after `generation`. Never 0: that is what an element of the map holds that was never written.
pub(super) fn next_generation(generation: u32) -> u32 {
    generation.wrapping_add(1).max(1)
}

impl Backends {
    pub(super) fn new(limit: u32, grace: Duration) -> Self {
        Self {
            numbers: Numbers::new(limit, grace),
            generations: Vec::new(),
        }
    }

    pub(super) fn limit(&self) -> u32 {
        self.numbers.limit()
    }

    pub(super) fn generation(&self, index: u32) -> u32 {
        self.generations.get(index as usize).copied().unwrap_or(0)
    }

    pub(super) fn set_generation(&mut self, index: u32, generation: u32) {
        let index = index as usize;
        if self.generations.len() <= index {
            self.generations.resize(index + 1, 0);
        }
        self.generations[index] = generation;
    }

    /// Takes a slot, and gives it a new generation.
    pub(super) fn take(&mut self) -> Option<(u32, u32)> {
        let index = self.numbers.take()?;
        let generation = next_generation(self.generation(index));
        self.set_generation(index, generation);
        Some((index, generation))
    }

    /// Takes a slot that is in use already; false if it is taken or beyond the limit.
    pub(super) fn reserve(&mut self, index: u32) -> bool {
        self.numbers.reserve(index)
    }

    /// Gives back a slot that was not written.
    pub(super) fn give_back(&mut self, index: u32) {
        self.numbers.give_back(index);
    }

    /// The slot was freed, with that generation.
    pub(super) fn retire(&mut self, index: u32, generation: u32, now: Instant) {
        self.set_generation(index, generation);
        self.numbers.retire(index, now);
    }

    pub(super) fn release(&mut self, now: Instant) {
        self.numbers.release(now);
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.numbers.next_due()
    }

    pub(super) fn taken(&self) -> usize {
        self.numbers.taken()
    }
}
