//! Packet tables: (name, packet in, state, verdict, packet out), run natively and in the kernel.

pub mod bench;
pub mod case;
pub mod cases;
pub mod kernel;
mod maps;
pub mod native;
pub mod wire;
pub mod world;
