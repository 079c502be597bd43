//! What an operator should know of a Service that is served otherwise than it asks for.

use std::{collections::BTreeSet, fmt};

use super::ServicePortKey;
use crate::{
    index::ServiceName,
    objects::Service,
    plan::{FrontendAddr, Protocol},
};

/// Something to tell about a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    /// Another Service has an address that this one wants.
    FrontendTaken {
        /// The address.
        frontend: FrontendAddr,
        /// Who wants it.
        wanted_by: ServicePortKey,
        /// Who has it.
        taken_by: ServicePortKey,
    },
    /// One of its source ranges is no network.
    BadSourceRange {
        /// The Service.
        service: ServiceName,
        /// What it says instead.
        range: Box<str>,
    },
    /// It has SCTP ports, which not everybody reaches.
    SctpWithoutNode {
        /// The Service.
        service: ServiceName,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FrontendTaken {
                frontend,
                wanted_by,
                taken_by,
            } => write!(
                f,
                "Service {wanted_by}: {frontend} belongs to {taken_by}, which is older; change one of the two Services"
            ),
            Self::BadSourceRange { service, range } => write!(
                f,
                "Service {service}: {range:?} of loadBalancerSourceRanges is no network and is ignored (where there is no \
                 other range, everybody is allowed); write a CIDR such as 192.0.2.0/24"
            ),
            Self::SctpWithoutNode { service } => write!(
                f,
                "Service {service}: pods and clients outside reach its SCTP ports, processes of the nodes and hostNetwork \
                 pods do not; they can use an endpoint's own address"
            ),
        }
    }
}

impl Notice {
    /// The Service that it is about.
    pub const fn service(&self) -> &ServiceName {
        match self {
            Self::FrontendTaken { wanted_by, .. } => &wanted_by.service,
            Self::BadSourceRange { service, .. } | Self::SctpWithoutNode { service } => service,
        }
    }

    /// Writes the notice to the log.
    pub fn log(&self) {
        match self {
            Self::SctpWithoutNode { .. } => tracing::info!("{self}"),
            _ => tracing::warn!("{self}"),
        }
    }
}

/// What there is to tell of a Service, whatever else there is.
pub(super) fn of_service(service: &Service) -> BTreeSet<Notice> {
    let bad = service
        .bad_source_ranges
        .iter()
        .map(|range| Notice::BadSourceRange {
            service: service.name.clone(),
            range: range.clone(),
        });
    let is_served = !service.other_proxy && !service.cluster_ips.is_empty();
    let has_sctp = service.ports.iter().any(|port| port.protocol == Protocol::Sctp);
    let sctp = (is_served && has_sctp).then(|| Notice::SctpWithoutNode {
        service: service.name.clone(),
    });
    bad.chain(sctp).collect()
}

/// Who wants a frontend in vain, or in vain because of another one than before. The first of each list has it.
pub(super) fn lost(
    frontend: FrontendAddr,
    before: &[ServicePortKey],
    after: &[ServicePortKey],
) -> Vec<Notice> {
    let Some((winner, losers)) = after.split_first() else {
        return Vec::new();
    };
    let known = before
        .split_first()
        .filter(|(former, _)| *former == winner)
        .map_or(&[][..], |(_, losers)| losers);
    let news = losers.iter().filter(|loser| !known.contains(loser));
    news.map(|loser| Notice::FrontendTaken {
        frontend,
        wanted_by: loser.clone(),
        taken_by: winner.clone(),
    })
    .collect()
}
