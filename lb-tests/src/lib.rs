//! Tests of Fairlead against real kernels: packet tables and the namespace lab.

pub mod packets;
