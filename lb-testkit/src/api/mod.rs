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
//!
//! What it leaves out, and answers with an error where a client asks for it: server-side apply and strategic merge
//! patches, deletion of collections, subresources but `status`, tables, HTTP/2. What it does simpler than the real one: a
//! deletion is final at once ([`ApiServer::terminate`] makes a pod terminate), namespaces need not exist, objects are
//! checked for names, addresses and ports alone, and a pod may be on a node that is not known.

mod access;
mod asked;
mod body;
mod builders;
mod clock;
mod controller;
mod faults;
mod files;
mod list;
mod misbehave;
mod mounted;
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
    asked::Asked,
    builders::Pod,
    faults::{Fault, Order, OrderId},
    mounted::ServiceAccount,
    request::Verb,
    server::{ADMIN, ApiServer},
};
