//! The command line: raw arguments first, validated configuration second.

pub mod args;
pub mod config;
mod timeouts;
