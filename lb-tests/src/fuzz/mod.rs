//! What must hold for any input: the fuzz targets, as plain functions.
//!
//! `cargo xtask fuzz` lets libFuzzer look for inputs that break a rule; what it finds is kept below `lb-tests/fuzz` and
//! checked by every test run from then on.

pub mod manifests;
pub mod packets;
mod rules;
mod sound;

/// A target: what it makes of an input, and the first rule that the input breaks.
pub type Target = fn(&[u8]) -> Result<(), String>;

/// All targets by name.
pub const TARGETS: [(&str, Target); 2] = [("packets", packets::check), ("manifests", manifests::check)];
