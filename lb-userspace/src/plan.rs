//! The plan: what passes between the diff and the kernel's maps.
//!
//! `diff` compares the desired state with what is in the kernel and writes an ordered list of [`Op`]; a
//! [`Dataplane`] carries them out one by one. [`Snapshot`] is the way back: what a dataplane that is already
//! in the kernel holds, for the agent to adopt after a restart.
//!
//! Addresses and ports are in their ordinary form here (`IpAddr`, ports in host order). Whoever applies a plan
//! turns them into the form that maps hold ([`lb_common::abi`]).

mod read_back;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;
pub use lb_common::abi::{FrontendFlags, FrontendKind, TableRef};

pub use self::read_back::{Differences, How, ReadBack};

/// An address family. Backend indexes are per family: index 7 of IPv4 and index 7 of IPv6 are two backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address. An IPv4-mapped IPv6 address is IPv6.
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A transport protocol of a service port; the number is the IP protocol number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp = 6,
    /// User Datagram Protocol.
    Udp = 17,
    /// Stream Control Transmission Protocol.
    Sctp = 132,
}

impl Protocol {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The protocol with that IP protocol number, if services can have it.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            6 => Self::Tcp,
            17 => Self::Udp,
            132 => Self::Sctp,
            _ => return None,
        })
    }

    /// The protocol that a port of a Service or EndpointSlice names; TCP if it names none.
    pub fn from_name(name: Option<&str>) -> Option<Self> {
        Some(match name {
            None | Some("TCP" | "") => Self::Tcp,
            Some("UDP") => Self::Udp,
            Some("SCTP") => Self::Sctp,
            Some(_) => return None,
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// What a packet must be sent to for a service to claim it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendAddr {
    /// Destination address.
    pub addr: IpAddr,
    /// Destination port, host order.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl FrontendAddr {
    /// The family of the address.
    pub const fn family(&self) -> Family {
        Family::of(self.addr)
    }
}

impl fmt::Display for FrontendAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}",
            std::net::SocketAddr::new(self.addr, self.port),
            self.protocol
        )
    }
}

/// A backend as its slot in BACKENDS4 or BACKENDS6 holds it, in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackendSlot {
    /// Address of the endpoint; its family says which of the two maps the slot is in.
    pub addr: IpAddr,
    /// Port of the endpoint, host order.
    pub port: u16,
    /// Transport protocol of the port.
    pub protocol: Protocol,
    /// Moves on whenever the slot is given away; never 0 for a slot in use.
    pub generation: u32,
    /// The endpoint runs on this node.
    pub local: bool,
    /// The endpoint only serves the flows that it has; no table names the slot.
    pub kept: bool,
}

impl BackendSlot {
    /// The family of the address.
    pub const fn family(&self) -> Family {
        Family::of(self.addr)
    }
}

/// One change of the kernel's maps. Each is a single write of a single map (`WriteTable`: of consecutive elements).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes the slot and marks it in use (flags IN_USE, LOCAL if `slot.local`, and KEPT if `slot.kept`).
    PutBackend {
        /// Index into BACKENDS4 or BACKENDS6, by the family of `slot.addr`.
        index: u32,
        /// What the slot is to hold.
        slot: BackendSlot,
    },
    /// Takes the slot out of use: IN_USE is cleared and the generation has moved on, so that flows that recorded the
    /// slot see it. No table names the slot any more.
    FreeBackend {
        /// Which of BACKENDS4 and BACKENDS6.
        family: Family,
        /// Index into that map.
        index: u32,
        /// The generation to leave in the free slot.
        generation: u32,
    },
    /// Writes consecutive elements of MAGLEV, which no service names yet.
    WriteTable {
        /// The first element.
        offset: u32,
        /// Backend indexes, of the family of the service that will name the table.
        slots: Vec<u32>,
    },
    /// Writes `SERVICES[id]`: a single store of eight bytes, so a reader sees the old or the new table.
    PutService {
        /// Index into SERVICES.
        id: u32,
        /// The service's table; [`TableRef::EMPTY`] for a service without endpoints.
        table: TableRef,
    },
    /// Adds a frontend, or gives an existing one to another service.
    PutFrontend {
        /// The frontend.
        frontend: FrontendAddr,
        /// Index into SERVICES.
        service: u32,
        /// Which kind of address it is.
        kind: FrontendKind,
        /// [`FrontendFlags`].
        flags: u8,
        /// Number of the service's meter.
        meter: u16,
    },
    /// Sets a meter to zero, which no frontend names.
    ClearMeter {
        /// Its number.
        meter: u16,
    },
    /// Removes a frontend. One that is not there is no error: that is what was wanted.
    DeleteFrontend {
        /// The frontend.
        frontend: FrontendAddr,
    },
    /// Allows clients at the frontends of a service that have [`FrontendFlags::RANGES`].
    PutRange {
        /// Index into SERVICES.
        service: u32,
        /// The clients; its family says which of RANGES4 and RANGES6.
        range: IpNet,
    },
    /// Allows them no more. A range that is not there is no error.
    DeleteRange {
        /// Index into SERVICES.
        service: u32,
        /// The clients.
        range: IpNet,
    },
    /// Says that an address belongs to services, or as which kind of address.
    PutAddress {
        /// The address.
        addr: IpAddr,
        /// Which kind of address it is.
        kind: FrontendKind,
    },
    /// Says that an address belongs to services no more. One that is not there is no error.
    DeleteAddress {
        /// The address.
        addr: IpAddr,
    },
}

impl Op {
    /// Whether the kernel can take this operation and the one after it at once: elements of the same map.
    pub fn goes_with(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::PutBackend { slot, .. }, Self::PutBackend { slot: other, .. }) => {
                slot.family() == other.family()
            }
            (Self::PutFrontend { frontend, .. }, Self::PutFrontend { frontend: other, .. }) => {
                frontend.family() == other.family()
            }
            _ => false,
        }
    }

    /// The family that the operation is for; none if it does not say.
    pub fn family(&self) -> Option<Family> {
        match self {
            Self::PutBackend { index: _, slot } => Some(Family::of(slot.addr)),
            Self::FreeBackend { family, .. } => Some(*family),
            Self::WriteTable { .. } | Self::PutService { .. } | Self::ClearMeter { .. } => None,
            Self::PutFrontend { frontend, .. } | Self::DeleteFrontend { frontend } => {
                Some(Family::of(frontend.addr))
            }
            Self::PutRange { range, .. } | Self::DeleteRange { range, .. } => Some(Family::of(range.addr())),
            Self::PutAddress { addr, .. } | Self::DeleteAddress { addr } => Some(Family::of(*addr)),
        }
    }
}

/// Operations that were not all carried out.
#[derive(Debug)]
pub struct Partial<E> {
    /// How many of them were carried out, from the first one on.
    pub done: usize,
    /// How many of the others may have been carried out or not: the one that failed, and perhaps some of those after it.
    pub unknown: usize,
    /// Why the first of the others failed.
    pub error: E,
}

/// Whatever can carry out a plan: the kernel's maps, or a model of them in tests.
pub trait Dataplane {
    /// Why an operation failed.
    type Error;

    /// Carries out operations in order, or at once: each [goes with](Op::goes_with) the one before it.
    ///
    /// # Errors
    /// One of them did not happen, or it is not known whether it did.
    fn apply_all(&mut self, ops: &[&Op]) -> Result<(), Partial<Self::Error>> {
        one_by_one(ops, |op| self.apply(op))
    }

    /// Carries out one operation, wholly or (when it fails) so that doing it again later is right.
    ///
    /// # Errors
    /// The operation did not happen, or it is not known whether it did.
    fn apply(&mut self, op: &Op) -> Result<(), Self::Error>;
}

/// Carries out operations in order until one fails.
///
/// # Errors
/// That one did not happen, or it is not known whether it did.
pub fn one_by_one<E>(ops: &[&Op], mut apply: impl FnMut(&Op) -> Result<(), E>) -> Result<(), Partial<E>> {
    for (done, op) in ops.iter().enumerate() {
        apply(op).map_err(|error| Partial {
            done,
            unknown: 1,
            error,
        })?;
    }
    Ok(())
}

/// A frontend as found in FRONTENDS4 or FRONTENDS6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotFrontend {
    /// Index into SERVICES.
    pub service: u32,
    /// Kind of address; `None` if the map holds a number that no kind has.
    pub kind: Option<FrontendKind>,
    /// [`FrontendFlags`].
    pub flags: u8,
    /// Number of its service's meter.
    pub meter: u16,
}

/// An element of BACKENDS4 or BACKENDS6 that is not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotBackend {
    /// IN_USE is set.
    InUse(BackendSlot),
    /// IN_USE is not set (or the protocol is none that services have); the generation counts on from here.
    Free {
        /// The generation that the slot holds.
        generation: u32,
    },
}

impl SnapshotBackend {
    /// The generation that the slot holds.
    pub const fn generation(&self) -> u32 {
        match self {
            Self::InUse(slot) => slot.generation,
            Self::Free { generation } => *generation,
        }
    }
}

/// What the maps hold, read back for adoption after a restart of the agent; without the tables, which are large and read one
/// at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Every element of FRONTENDS4 and FRONTENDS6 that is the address and port of a service.
    pub frontends: BTreeMap<FrontendAddr, SnapshotFrontend>,
    /// The addresses that have an entry of their own in these maps, with their kind if it is one.
    pub addresses: BTreeMap<IpAddr, Option<FrontendKind>>,
    /// `SERVICES[id]`, for every id below the size of SERVICES that a frontend names or whose element is not
    /// [`TableRef::EMPTY`]. Others are free.
    pub services: BTreeMap<u32, TableRef>,
    /// Every element of RANGES4 and RANGES6, by service.
    pub ranges: BTreeMap<u32, BTreeSet<IpNet>>,
    /// Elements of BACKENDS4 and BACKENDS6 that are not all zero.
    pub backends: BTreeMap<(Family, u32), SnapshotBackend>,
}
