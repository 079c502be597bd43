//! From what the kernel holds to what is desired, in an order that never breaks what works.
//!
//! The [`Ledger`] knows what the kernel's maps hold: it is told of every operation that was carried out ([`sync()`] does
//! that), so it never believes what it merely planned. A plan first makes, for every service that changes, the
//! backends, the table and the service, and its source ranges; then it moves and adds frontends, and the addresses that have
//! some; then it removes frontends; and last it takes services and backends out of use, and removes ranges and addresses. (A service that loses a frontend to another one gets its new table only when the
//! frontend has moved.) After any number of these operations every frontend that is to stay leads to
//! a complete table of backends in use.
//!
//! A change of many services is planned and carried out in portions, so that the plan of ten thousand tables never exists as
//! a whole; what nobody wants is removed with the last portion.
//!
//! What is freed rests for a grace period before it is used again. When an operation fails, nobody knows whether it
//! happened: the ledger keeps both possibilities in mind, and the next plan settles it.
//!
//! What the ledger knows is true as long as nobody else writes the maps. Now and then it is compared with them, and what
//! somebody else has done is taken in as if it had been an operation: the next plan puts it right ([`Ledger::compare`]).
//!
//! A backend slot belongs to one service port, also where two of them have an endpoint in common: a UDP flow must leave
//! an endpoint that its own service gave up, whatever other services do. The slot of an endpoint that still serves and is to
//! get no new flows is not freed: it is marked instead, once no table names it, and a slot that is to be named again
//! loses its mark first.

mod addresses;
mod adopt;
mod audit;
mod backends;
mod confirm;
mod ledger;
mod make;
mod meters;
mod numbers;
mod planner;
mod portion;
mod quarantine;
mod ranges;
mod space;
mod sync;
mod table;
mod tables;
mod unmake;

use std::net::IpAddr;

use thiserror::Error;

pub use self::{
    audit::Part,
    ledger::{Ledger, Limits, Usage},
    planner::{Plan, Step},
    sync::{Report, sync},
};
use crate::{
    desired::ServicePortKey,
    plan::{Family, FrontendAddr},
};

/// Why a service port is not programmed as it is desired. It is tried again when room appears.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum DiffError {
    /// There is no free service identifier.
    #[error(
        "Service {service} is not programmed: all {limit} services are taken; raise --max-services or remove Services"
    )]
    Services {
        /// The service port.
        service: ServicePortKey,
        /// The limit, in service ports.
        limit: u32,
    },
    /// There are not enough free backends.
    #[error(
        "Service {service} is served without {missing} of its endpoints: all {limit} {family} backends are taken; raise \
         --max-backends or remove Services"
    )]
    Backends {
        /// The service port.
        service: ServicePortKey,
        /// How many of its endpoints found no room.
        missing: usize,
        /// Which backends.
        family: Family,
        /// The limit, in backends of the family.
        limit: u32,
    },
    /// There is no free space for a table.
    #[error(
        "Service {service} {}: no room for a Maglev table of {slots} slots, nor for a smaller one, among {limit}; raise \
         --maglev-slots or remove Services",
        if *.served { "keeps the endpoints that it had" } else { "is not served" }
    )]
    Table {
        /// The service port.
        service: ServicePortKey,
        /// Size of the table.
        slots: u32,
        /// The limit, in slots.
        limit: u32,
        /// It has a table of other endpoints.
        served: bool,
    },
    /// There is space for a smaller table only. It is tried again when the service port changes.
    #[error(
        "Service {service} has a Maglev table of {slots} slots in place of {proper}, for little is left of {limit}: new \
         connections are spread less evenly, and other nodes may choose other endpoints for them; raise --maglev-slots or \
         remove Services"
    )]
    SmallTable {
        /// The service port.
        service: ServicePortKey,
        /// Size of the table.
        slots: u32,
        /// The size that it would have with more room.
        proper: u32,
        /// The limit, in slots.
        limit: u32,
    },
    /// There is no room for a frontend.
    #[error(
        "Service {service} is not reached at {frontend}: all {limit} frontends of the family are taken; raise \
         --max-frontends or remove Services"
    )]
    Frontends {
        /// The service port.
        service: ServicePortKey,
        /// The frontend.
        frontend: FrontendAddr,
        /// The limit, in frontends of the family.
        limit: u32,
    },
    /// There is no room for source ranges.
    #[error(
        "Service {service} refuses clients in {missing} of its loadBalancerSourceRanges: all {limit} source ranges of the \
         family are taken; join ranges or remove some"
    )]
    Ranges {
        /// The service port.
        service: ServicePortKey,
        /// How many of its ranges found no room.
        missing: usize,
        /// The limit, in ranges of the family.
        limit: u32,
    },
    /// There is no room for the entry of an address.
    #[error(
        "Service {service}: connections to other ports of {addr} are not refused, because all {limit} frontends of the \
         family are taken; raise --max-frontends or remove Services"
    )]
    Addresses {
        /// The service port.
        service: ServicePortKey,
        /// The address.
        addr: IpAddr,
        /// The limit, in frontends of the family.
        limit: u32,
    },
}

impl DiffError {
    /// The service port that the error is about.
    pub const fn service(&self) -> &ServicePortKey {
        match self {
            Self::Services { service, .. }
            | Self::Backends { service, .. }
            | Self::Table { service, .. }
            | Self::SmallTable { service, .. }
            | Self::Frontends { service, .. }
            | Self::Addresses { service, .. }
            | Self::Ranges { service, .. } => service,
        }
    }

    /// Whether the service port is served all the same, so that nobody waits for room.
    const fn is_bearable(&self) -> bool {
        matches!(self, Self::SmallTable { .. })
    }
}

#[cfg(test)]
mod tests;
