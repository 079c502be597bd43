//! What the kernel programs and the agent of Fairlead share.
//!
//! - [`abi`]: keys and values of every BPF map;
//! - [`packet`]: headers as views of bytes, and checksum arithmetic (RFC 1624);
//! - [`flow`]: what is known of a flow, and what the TCP flags that were seen make of it;
//! - [`maglev`]: the flow hash and the lookup tables (built by the agent, read by the kernel);
//! - [`datapath`]: the per-packet algorithm, generic over where packets and tables live;
//! - [`verdict`]: the numbered reasons for everything that can happen to a packet.
//!
//! The crate is `no_std`, allocates nothing and cannot panic in what the kernel side uses. The feature `host` adds
//! a kernel side in ordinary memory, and the feature `user` lets aya read and write the map types.

#![no_std]

#[cfg(any(test, feature = "host"))]
extern crate std;

pub mod abi;
pub mod bench;
pub mod datapath;
pub mod flow;
#[cfg(any(test, feature = "host"))]
pub mod host;
pub mod limits;
pub mod maglev;
pub mod packet;
pub mod verdict;
