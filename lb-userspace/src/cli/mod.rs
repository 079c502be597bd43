//! The command line: raw arguments first, validated configuration second.
//!
//! ```text
//!   flags ──────► Settings ─┐ over
//!   --config FILE ► Settings ┴─► Settings ──(environment, the node)──► Config ──► Settings: `fairlead config`
//! ```

pub mod args;
pub mod bind;
pub mod config;
mod effective;
pub mod environment;
pub mod file;
mod go_time;
pub mod kube_proxy;
mod load;
pub mod settings;
mod timeouts;
mod values;

pub use load::{LoadError, Loaded, load};
