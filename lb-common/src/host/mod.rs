//! A kernel side in ordinary memory: the datapath runs on it in tests, property tests, fuzzing and simulation.

mod frame;
mod tables;

pub use self::{
    frame::Frame,
    tables::{MemoryTables, PerFamily},
};
use crate::datapath::Env;

/// A clock that stands still until it is told otherwise, in ns.
#[derive(Clone, Copy, Debug, Default)]
pub struct FixedClock(pub u64);

impl Env for FixedClock {
    fn now(&self) -> u64 {
        self.0
    }
}
