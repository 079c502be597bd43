//! Keys and values of every BPF map.
//!
//! Each type is `repr(C)`, has no implicit padding, and its size and offsets are asserted at compile time
//! (in `layout.rs`). The types are generic over the address `A`: `u32` for IPv4 and `[u32; 4]` for IPv6.
//!
//! **Byte order.** Addresses and ports hold their bytes as they stand in a packet (network order in memory): an
//! address is `u32::from_ne_bytes(octets)`, a port is `port.to_be()`. Counters, indexes, generations and times are
//! in the machine's order.
//!
//! **Version.** [`VERSION`] names the folder that maps are pinned under. A change of any layout or meaning here
//! raises it.

mod addr;
mod device;
mod flow;
mod fragment;
mod known;
mod layout;
mod meter;
mod prefix;
mod service;
mod socket;

pub use self::{
    addr::{Address, Either, from_ip, port_from_wire, port_to_wire, to_ip},
    device::{Uplink, XdpMode, XdpWhy},
    flow::{Flow, FlowFlags, FlowKey, FlowKind, Tuple},
    fragment::{Fragment, FragmentKey},
    known::KnownBit,
    meter::{Meter, Traffic},
    prefix::{EitherPrefix, Prefix, ServiceNets},
    service::{
        Affinity, AffinityKey, Backend, BackendFlags, Frontend, FrontendFlags, FrontendKey, FrontendKind,
        Policies, Range, Scope, Service, TableRef,
    },
    socket::{NamespaceKind, SocketKey, SocketPeer},
};

/// Version of the layout and meaning of all maps; part of the path that they are pinned under.
pub const VERSION: u32 = 1;

/// IP protocol numbers that the datapath translates (IANA "Assigned Internet Protocol Numbers").
pub mod proto {
    /// Internet Control Message Protocol (IPv4).
    pub const ICMP: u8 = 1;
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
    /// Internet Control Message Protocol for IPv6.
    pub const ICMPV6: u8 = 58;
    /// Stream Control Transmission Protocol.
    pub const SCTP: u8 = 132;
}

/// Names of the maps, as the kernel side declares them and as they are pinned.
pub mod map {
    /// IPv4 frontends, and the addresses that have any: `FrontendKey<u32>` → `Frontend`.
    pub const FRONTENDS4: &str = "FRONTENDS4";
    /// The same for IPv6: `FrontendKey<[u32; 4]>` → `Frontend`.
    pub const FRONTENDS6: &str = "FRONTENDS6";
    /// Services by identifier: `u32` → `Service`.
    pub const SERVICES: &str = "SERVICES";
    /// Maglev slots of all services: `u32` → two backend indexes (`[u32; 2]`); slot `n` is word `n % 2` of element
    /// `n / 2`. The kernel rounds array elements up to 8 bytes, so that single words would waste half the memory.
    pub const MAGLEV: &str = "MAGLEV";
    /// IPv4 backends: `u32` → `Backend<u32>`.
    pub const BACKENDS4: &str = "BACKENDS4";
    /// IPv6 backends: `u32` → `Backend<[u32; 4]>`.
    pub const BACKENDS6: &str = "BACKENDS6";
    /// Addresses of IPv4 backends in use: `FrontendKey<u32>` → `u32`, which means nothing.
    pub const ENDPOINTS4: &str = "ENDPOINTS4";
    /// The same for IPv6.
    pub const ENDPOINTS6: &str = "ENDPOINTS6";
    /// IPv4 flows: `FlowKey<u32>` → `Flow<u32>`.
    pub const FLOWS4: &str = "FLOWS4";
    /// IPv6 flows: `FlowKey<[u32; 4]>` → `Flow<[u32; 4]>`.
    pub const FLOWS6: &str = "FLOWS6";
    /// Sockets that were sent to an IPv4 backend.
    pub const SOCKETS4: &str = "SOCKETS4";
    /// Sockets that were sent to an IPv6 backend.
    pub const SOCKETS6: &str = "SOCKETS6";
    /// Network namespaces whose sockets are served: cookie (`u64`) → [`super::NamespaceKind`] as its number (`u32`).
    /// Empty unless pods are served by their sockets.
    pub const NAMESPACES: &str = "NAMESPACES";
    /// The address that packets get as their source when they are sent out of a device: device index → IPv4 address.
    /// Index 0, which no device has, stands for devices without an address.
    pub const SOURCES4: &str = "SOURCES4";
    /// The same for IPv6.
    pub const SOURCES6: &str = "SOURCES6";
    /// Which endpoints IPv4 clients of services with session affinity stay with.
    pub const AFFINITY4: &str = "AFFINITY4";
    /// The same for IPv6 clients.
    pub const AFFINITY6: &str = "AFFINITY6";
    /// What was done with the first fragments of IPv4 datagrams: `FragmentKey<u32>` → `Fragment<u32>`.
    pub const FRAGMENTS4: &str = "FRAGMENTS4";
    /// The same for IPv6.
    pub const FRAGMENTS6: &str = "FRAGMENTS6";
    /// Which addresses services and endpoints have, as bits of `u64` elements: `KnownBit`.
    pub const KNOWN: &str = "KNOWN";
    /// The node's uplinks, for XDP: device index → `Uplink`.
    pub const UPLINKS: &str = "UPLINKS";
    /// The IPv4 clients that services with source ranges allow: `Range<u32>`, by longest prefix.
    pub const RANGES4: &str = "RANGES4";
    /// The same for IPv6 clients.
    pub const RANGES6: &str = "RANGES6";
    /// The networks that IPv4 cluster IPs are given from: one `ServiceNets<u32>`.
    pub const CIDRS4: &str = "CIDRS4";
    /// The same for IPv6.
    pub const CIDRS6: &str = "CIDRS6";
    /// Packets by reason, and their bytes, per CPU: `u32` → `Traffic`.
    pub const COUNTERS: &str = "COUNTERS";
    /// What went through each service port, per CPU: `u32` → `Meter`. Element 0 is nobody's.
    pub const METERS: &str = "METERS";
    /// All maps that are pinned.
    pub const PINNED: [&str; 27] = [
        FRONTENDS4, FRONTENDS6, SERVICES, MAGLEV, BACKENDS4, BACKENDS6, ENDPOINTS4, ENDPOINTS6, FLOWS4,
        FLOWS6, SOCKETS4, SOCKETS6, NAMESPACES, SOURCES4, SOURCES6, AFFINITY4, AFFINITY6, FRAGMENTS4,
        FRAGMENTS6, RANGES4, RANGES6, KNOWN, UPLINKS, CIDRS4, CIDRS6, COUNTERS, METERS,
    ];
}
