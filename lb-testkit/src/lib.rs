//! A lab of network namespaces on one kernel: two nodes with pods, joined by a switch, and a client outside.
//!
//! ```text
//!   client ──────────────┐
//!   172.18.0.100         │
//!                     switch (a bridge in a namespace of its own)
//!                        │                         │
//!   node1 eth0 172.18.0.2                          node2 eth0 172.18.0.3
//!     │ veth-n1-a, veth-n1-b …                       │ veth-n2-a …
//!   pods 10.244.1.11, .12 …                        pods 10.244.2.11, .12 …
//! ```
//!
//! There may be more nodes ([`Builder::nodes`]). In the wiring [`Wiring::Overlay`] packets between pods of different nodes go through a VXLAN device of each node.
//!
//! Everything has an IPv6 address of the same shape. A lab is gone when its [`Lab`] is dropped, also by a panic,
//! SIGINT or SIGTERM; what a killed process left is removed when the next lab is built.
//! [`api::ApiServer`] is a Kubernetes API server for tests, in the lab or without one.
//!
//! The names of all its parts tell whose it is: `<process number>-<start time>-<count>`.

pub mod api;
mod capture;
mod cgroup;
mod client;
mod command;
pub mod daemons;
mod ears;
mod error;
mod host;
pub mod icmp;
mod lab;
mod ours;
pub mod packet;
mod server;
mod silence;
mod stale;
mod topology;
mod transfer;

pub use self::{
    capture::{Capture, Fragment, Seen},
    client::{Answer, Connection, http_echo, http_get, http_get_within, udp_ask, udp_ask_within, udp_echo},
    command::{output, run_command},
    ears::{Ears, Heard},
    error::{Error, Result},
    host::{Host, Process},
    lab::{Builder, Lab},
    server::Server,
    topology::{Wiring, addresses},
    transfer::{Direction, transfer},
};
