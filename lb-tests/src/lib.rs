//! Tests of Fairlead against real kernels: packet tables, and agents in a lab of network namespaces.

pub mod agent;
pub mod bpffs;
pub mod budget;
pub mod cluster;
pub mod container;
pub mod deploy;
pub mod flow_tables;
pub mod follower;
pub mod fuzz;
pub mod http;
pub mod kernel_view;
pub mod manifests;
pub mod matrix;
pub mod namespace;
pub mod packets;
pub mod raw;
pub mod simulation;
pub mod stage;
pub mod talker;
pub mod traffic;
pub mod wires;
