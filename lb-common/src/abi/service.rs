//! Frontends, services, Maglev tables and backends.

use super::Meter;

/// What a packet must be sent to for a service to claim it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C)]
pub struct FrontendKey<A> {
    /// Destination address, bytes as in the packet.
    pub addr: A,
    /// Destination port, bytes as in the packet.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

impl<A> FrontendKey<A> {
    /// The key of `addr`:`port`, both with the bytes as in the packet.
    #[inline(always)]
    pub const fn new(addr: A, port: u16, proto: u8) -> Self {
        Self {
            addr,
            port,
            proto,
            pad: 0,
        }
    }

    /// The key of the entry that says that `addr` belongs to services, whatever the port.
    #[inline(always)]
    pub const fn of_address(addr: A) -> Self {
        Self::new(addr, 0, 0)
    }

    /// Whether this is the key of such an entry.
    pub const fn is_address(&self) -> bool {
        self.port == 0 && self.proto == 0
    }
}

/// Which kind of address a frontend is; policies differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp = 1,
    /// An address of the node with `nodePort`.
    NodePort = 2,
    /// `spec.externalIPs`.
    ExternalIp = 3,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer = 4,
    /// A loopback address with `nodePort`: for the node's own processes only, never for packets.
    Localhost = 5,
}

impl FrontendKind {
    /// The kind with that number, if there is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::ClusterIp,
            2 => Self::NodePort,
            3 => Self::ExternalIp,
            4 => Self::LoadBalancer,
            5 => Self::Localhost,
            _ => return None,
        })
    }
}

/// One address and port of a service. Each address of services (cluster, external and load balancer IPs that the node
/// does not have itself) also has an entry of its own, [`FrontendKey::of_address`], which names no service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Frontend {
    /// Index into SERVICES; [`Frontend::NO_SERVICE`] for the entry of an address.
    pub service: u32,
    /// A [`FrontendKind`] as its number.
    pub kind: u8,
    /// [`FrontendFlags`].
    pub flags: u8,
    /// Number of the service's meter; [`Meter::NONE`] if it has none.
    ///
    /// [`Meter::NONE`]: super::Meter::NONE
    pub meter: u16,
}

/// Bits of [`Frontend::flags`].
pub struct FrontendFlags;

impl FrontendFlags {
    /// Only sources that RANGES has for the service may open flows.
    pub const RANGES: u8 = 1;
    /// The node's own processes may not: RANGES has none of the node's addresses.
    pub const NODE_REFUSED: u8 = 2;
}

/// Clients that a service allows at frontends with [`FrontendFlags::RANGES`]: the data of an element of RANGES, behind
/// the number of bits that count ([`Range::BITS`] and those of the network).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Range<A> {
    /// Index into SERVICES.
    pub service: u32,
    /// The first address, bytes as in the packet.
    pub client: A,
}

impl<A> Range<A> {
    /// Bits before the address.
    pub const BITS: u32 = 32;
}

impl Frontend {
    /// What entries of addresses hold in the place of a service.
    pub const NO_SERVICE: u32 = u32::MAX;

    /// The entry of an address. One that is several kinds at once has the first of them in the order of their numbers.
    pub const fn of_address(kind: FrontendKind) -> Self {
        Self::new(Self::NO_SERVICE, kind)
    }

    /// A frontend of the service with that identifier.
    pub const fn new(service: u32, kind: FrontendKind) -> Self {
        Self {
            service,
            kind: kind as u8,
            flags: 0,
            meter: Meter::NONE,
        }
    }

    /// The same with these [`FrontendFlags`].
    #[must_use]
    pub const fn with_flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    /// The same with that meter.
    #[must_use]
    pub const fn with_meter(self, meter: u16) -> Self {
        Self { meter, ..self }
    }
}

/// Which endpoints of a service a flow may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// All that serve the cluster.
    Cluster,
    /// Those on this node.
    Local,
}

/// Which traffic of a service has policy Local (it only goes to endpoints on this node), and how long clients stay with
/// their endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Policies {
    /// `spec.internalTrafficPolicy`: what is sent to the cluster IP.
    pub internal_local: bool,
    /// `spec.externalTrafficPolicy`: what comes from outside to any other address.
    pub external_local: bool,
    /// `spec.sessionAffinity` ClientIP with its timeout in s; 0 for None.
    pub affinity: u32,
}

/// Where a service's Maglev tables lie in MAGLEV, and which of them counts for whom. One word, so that a single store
/// changes from the old tables to the new ones.
///
/// ```text
///   bits  0..32   the first slot of the table of all endpoints
///   bits 32..37   its number of slots, a power of two: 1 more than the power; 0 for a service without endpoints
///   bit  37       a table of the endpoints on this node follows it, of as many slots
///   bit  38       internal traffic has policy Local
///   bit  39       external traffic has policy Local
///   bits 40..57   how long (s) a client stays with its endpoint; 0 for no longer than a flow
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct TableRef(pub u64);

impl TableRef {
    /// The table of a service without endpoints.
    pub const EMPTY: Self = Self(0);

    /// The longest affinity, in s: a day is the most that the API server takes (`MaxClientIPServiceAffinitySeconds`).
    pub const MAX_AFFINITY: u32 = 86_400;

    const ORDER: u64 = 0x1f;
    const HAS_LOCAL: u64 = 1 << 37;
    const INTERNAL_LOCAL: u64 = 1 << 38;
    const EXTERNAL_LOCAL: u64 = 1 << 39;
    const AFFINITY: u64 = 0x1_ffff;

    /// A table of `size` slots (a power of two up to 2^30, or 0 for none) from slot `offset` on.
    pub const fn new(offset: u32, size: u32) -> Self {
        if size == 0 {
            return Self(offset as u64);
        }
        let order = (size.trailing_zeros() as u64 + 1) & Self::ORDER;
        Self(order << 32 | offset as u64)
    }

    /// The same with a table of local endpoints behind it.
    #[must_use]
    pub const fn with_local(self) -> Self {
        Self(self.0 | Self::HAS_LOCAL)
    }

    /// The same with these policies.
    #[must_use]
    pub const fn with_policies(self, policies: Policies) -> Self {
        let internal = if policies.internal_local {
            Self::INTERNAL_LOCAL
        } else {
            0
        };
        let external = if policies.external_local {
            Self::EXTERNAL_LOCAL
        } else {
            0
        };
        let affinity = if policies.affinity > Self::MAX_AFFINITY {
            Self::MAX_AFFINITY
        } else {
            policies.affinity
        };
        Self(self.0 | internal | external | (affinity as u64) << 40)
    }

    /// The first slot.
    #[inline(always)]
    pub const fn offset(self) -> u32 {
        self.0 as u32
    }

    /// The number of slots of one table: a power of two, or 0 for a service without endpoints.
    #[inline(always)]
    pub const fn size(self) -> u32 {
        match (self.0 >> 32 & Self::ORDER) as u32 {
            0 => 0,
            order => 1 << (order - 1),
        }
    }

    /// The number of slots of all tables together.
    pub const fn total(self) -> u32 {
        if self.has_local() {
            2 * self.size()
        } else {
            self.size()
        }
    }

    /// Whether there is a table of local endpoints.
    #[inline(always)]
    pub const fn has_local(self) -> bool {
        self.0 & Self::HAS_LOCAL != 0
    }

    /// The policies.
    #[inline(always)]
    pub const fn policies(self) -> Policies {
        Policies {
            internal_local: self.0 & Self::INTERNAL_LOCAL != 0,
            external_local: self.0 & Self::EXTERNAL_LOCAL != 0,
            affinity: (self.0 >> 40 & Self::AFFINITY) as u32,
        }
    }

    /// The slot in MAGLEV that a flow hash falls on, if there is an endpoint in the scope.
    #[inline(always)]
    pub const fn slot(self, hash: u32, scope: Scope) -> Option<u32> {
        let size = self.size();
        if size == 0 {
            return None;
        }
        let slot = self.offset().wrapping_add(hash & size.wrapping_sub(1));
        match scope {
            Scope::Cluster => Some(slot),
            Scope::Local if self.has_local() => Some(slot.wrapping_add(size)),
            Scope::Local => None,
        }
    }
}

/// One port of a Kubernetes Service in one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Service {
    /// The endpoints that new flows are spread over.
    pub table: TableRef,
}

/// A client of a service with session affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(C)]
pub struct AffinityKey<A> {
    /// The client's address, bytes as in the packet; unspecified for the node's own processes.
    pub client: A,
    /// Index into SERVICES.
    pub service: u32,
}

/// Which endpoint a client stays with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Affinity {
    /// Index of the endpoint in BACKENDS.
    pub backend: u32,
    /// Generation of that slot when the endpoint was chosen.
    pub generation: u32,
    /// Moves on when the client comes back too late, so that it may meet another endpoint then.
    pub epoch: u32,
    /// Zero.
    pub pad: u32,
    /// When the client last opened a flow, in ns of the monotonic clock.
    pub last_used: u64,
}

/// Bits of [`Backend::flags`].
pub struct BackendFlags;

impl BackendFlags {
    /// The endpoint runs on this node.
    pub const LOCAL: u8 = 1;
    /// The slot holds a backend that serves. Without it the slot is free and only its generation means something.
    pub const IN_USE: u8 = 2;
    /// The endpoint serves the flows that it has and gets no new ones: it terminates while others are ready. No table
    /// names the slot.
    pub const KEPT: u8 = 4;
}

/// One endpoint address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Backend<A> {
    /// The endpoint's address, bytes as in the packet.
    pub addr: A,
    /// Moves on whenever the slot stops serving or is given to another endpoint. A flow that recorded another
    /// generation knows that its endpoint is gone.
    pub generation: u32,
    /// The endpoint's port, bytes as in the packet.
    pub port: u16,
    /// [`BackendFlags`].
    pub flags: u8,
    /// IP protocol number that the port belongs to; lets the agent recognise its backends after a restart.
    pub proto: u8,
}

impl<A> Backend<A> {
    /// Whether this is the backend that a flow recorded, and still serves.
    #[inline(always)]
    pub const fn is_serving(&self, generation: u32) -> bool {
        self.generation == generation && self.flags & BackendFlags::IN_USE != 0
    }

    /// Whether this is the backend that a client with session affinity is remembered with, and still gets new flows.
    #[inline(always)]
    pub const fn takes_new(&self, generation: u32) -> bool {
        self.is_serving(generation) && self.flags & BackendFlags::KEPT == 0
    }

    /// Whether the endpoint runs on this node.
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        self.flags & BackendFlags::LOCAL != 0
    }

    /// Whether the endpoint only serves the flows that it has.
    pub const fn is_kept(&self) -> bool {
        self.flags & BackendFlags::KEPT != 0
    }
}
