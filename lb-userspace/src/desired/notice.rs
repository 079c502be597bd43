//! What an operator should know of a Service that is served otherwise than it asks for.

use std::fmt;

use super::ServicePortKey;
use crate::plan::FrontendAddr;

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
        }
    }
}

impl Notice {
    /// Writes the notice to the log.
    pub fn log(&self) {
        tracing::warn!("{self}");
    }
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
