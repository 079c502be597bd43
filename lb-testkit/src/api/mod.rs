//! A small API server that speaks enough of the Kubernetes API for real clients, and misbehaves when a test orders it to.
//!
//! ```text
//!   tests ──► ApiServer ──► state ◄── serve ◄── TLS connections of clients
//!                             │        ├── list, watch, write    what is asked
//!                             │        └── access, faults        who may, and what goes wrong
//!                             ├── store                          objects, versions, history
//!                             └── controller                     cluster IPs, node ports, EndpointSlices of pods
//! ```
//!
//! It keeps everything in memory, runs on a thread of its own, and is gone when its [`ApiServer`] is dropped: its ports
//! are free and its connections closed. Objects are JSON.

mod access;
mod body;
mod builders;
mod clock;
mod controller;
mod faults;
mod files;
mod list;
mod misbehave;
mod objects;
mod request;
mod resources;
mod selectors;
mod serve;
mod server;
mod state;
mod status;
mod store;
mod tls;
mod watch;
mod write;

pub use self::{
    access::Access,
    builders::Pod,
    faults::{Fault, Order, OrderId},
    request::Verb,
    server::{ADMIN, ApiServer},
};
