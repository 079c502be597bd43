//! Things that were freed but may still be in somebody's hands.
//!
//! A program run that is under way has looked up an old table or an old service identifier and goes on to use it. Such
//! a run is over within microseconds; the grace period is far longer than that.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Freed things, each with the time from which on it may be used again.
#[derive(Clone, Debug)]
pub(super) struct Quarantine<T> {
    grace: Duration,
    queue: VecDeque<(Instant, T)>,
}

impl<T> Quarantine<T> {
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            grace,
            queue: VecDeque::new(),
        }
    }

    /// Takes in a thing that was freed at `now`.
    pub(super) fn push(&mut self, thing: T, now: Instant) {
        // A clock that is passed in may step back; the queue stays sorted all the same.
        let due = (now + self.grace).max(self.queue.back().map_or(now, |(due, _)| *due));
        self.queue.push_back((due, thing));
    }

    /// Hands out the next thing whose time is over.
    pub(super) fn pop(&mut self, now: Instant) -> Option<T> {
        self.queue
            .pop_front_if(|(due, _)| *due <= now)
            .map(|(_, thing)| thing)
    }

    /// When the next thing may be used again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.queue.front().map(|(due, _)| *due)
    }

    /// What is in quarantine.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.queue.iter().map(|(_, thing)| thing)
    }
}
