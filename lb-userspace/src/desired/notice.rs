//! What an operator should know of a Service that is served otherwise than it asks for.

use std::{collections::BTreeSet, fmt};

use k8s_openapi::api::core::v1::Service;

use super::ServicePortKey;
use crate::{index::ServiceName, plan::FrontendAddr};

/// Something to tell about a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    /// A Service asks for what is not supported yet.
    Unsupported {
        /// The Service.
        service: ServiceName,
        /// Field and value.
        asked: String,
        /// What is done instead.
        served: &'static str,
    },
    /// Another Service has an address that this one wants.
    FrontendTaken {
        /// The address.
        frontend: FrontendAddr,
        /// Who wants it.
        wanted_by: ServicePortKey,
        /// Who has it.
        taken_by: ServicePortKey,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported {
                service,
                asked,
                served,
            } => {
                write!(f, "Service {service}: {asked} is not supported yet, {served}")
            }
            Self::FrontendTaken {
                frontend,
                wanted_by,
                taken_by,
            } => write!(
                f,
                "Service {wanted_by}: {frontend} belongs to {taken_by}, which is older; change one of the two Services"
            ),
        }
    }
}

impl Notice {
    /// Writes the notice to the log.
    pub fn log(&self) {
        tracing::warn!("{self}");
    }
}

/// What a Service asks for that is not supported.
pub(super) fn of_service(name: &ServiceName, service: &Service) -> BTreeSet<Notice> {
    let Some(spec) = &service.spec else {
        return BTreeSet::new();
    };
    let mut notices = BTreeSet::new();
    let mut tell = |asked: String, served| {
        notices.insert(Notice::Unsupported {
            service: name.clone(),
            asked,
            served,
        });
    };
    if spec
        .load_balancer_source_ranges
        .as_ref()
        .is_some_and(|ranges| !ranges.is_empty())
    {
        tell("loadBalancerSourceRanges".into(), "served to every source");
    }
    notices
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
