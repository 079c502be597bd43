//! Headers as views of bytes, and checksum arithmetic. No packet is touched here: bytes come in as arrays.

pub mod checksum;
pub mod crc32c;
pub mod ethernet;
pub mod icmp;
pub mod ip;
pub mod ipv6_ext;
pub mod transport;

pub use self::{
    checksum::Delta,
    ip::{Ipv4, Ipv6},
    transport::{Sctp, Tcp, Udp},
};
