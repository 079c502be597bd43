//! Packet tables: (name, packet in, state, verdict, packet out), run natively and in the kernel.

pub mod bench;
pub mod case;
pub mod cases;
pub mod kernel;
pub mod native;
pub mod wire;
pub mod world;
