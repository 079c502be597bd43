//! The command line: raw arguments first, validated configuration second.

pub mod args;
pub mod bind;
pub mod config;
mod timeouts;
