//! The Fairlead agent: fills the kernel's maps from what is watched.
//!
//! `watch → index → desired → diff → apply`: each layer is a module and calls only to the right of itself. All but the
//! first and the last are pure: no I/O, no clock, no randomness.
//!
//! - [`watch`]: where Services and EndpointSlices come from (a folder of manifests);
//! - [`objects`]: these, reduced to what counts here;
//! - [`index`]: what is known of them, by name;
//! - [`desired`]: the frontends and endpoints that each service port is to have;
//! - [`diff`]: what the kernel holds, and the ordered operations that lead to the desired state;
//! - [`plan`]: these operations, and what a kernel that is already filled holds;
//! - [`apply`]: carries them out on the kernel's maps.
//!
//! Beside that path: [`run`] is the main loop, [`devices`] and [`attach`] bring the programs to where packets pass,
//! [`sockets`] looks after sockets that were sent to endpoints, [`load`], [`pins`], [`probe`], [`snat_ports`], [`init`] and [`sys`]
//! deal with the kernel, [`cli`] with the user. [`telemetry`] tells how the agent is: [`health`], [`metrics`], [`events`].

pub mod apply;
pub mod attach;
pub mod bpf_log;
pub mod cgroup;
pub mod cleanup;
pub mod cli;
pub mod desired;
pub mod devices;
pub mod diff;
pub mod errors;
pub mod events;
pub mod flows;
pub mod health;
pub mod index;
pub mod init;
pub mod load;
pub mod logging;
pub mod metrics;
pub mod object;
pub mod objects;
pub mod pins;
pub mod plan;
pub mod probe;
pub mod run;
pub mod snat_ports;
pub mod sockets;
pub mod status;
pub mod sys;
pub mod telemetry;
pub mod watch;
