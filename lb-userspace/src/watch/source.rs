//! The source that the agent was told to use.

use super::{Event, Kind, Kubernetes, Manifests};

/// A source.
#[derive(Debug)]
pub enum Source {
    /// A folder of manifests.
    Manifests(Manifests),
    /// The Kubernetes API.
    Kubernetes(Kubernetes),
}

impl Source {
    /// The next event; `None` if the source can no longer be followed. Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<Event> {
        match self {
            Self::Manifests(manifests) => manifests.next().await,
            Self::Kubernetes(kubernetes) => kubernetes.next().await,
        }
    }

    /// The next event, if one is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        match self {
            Self::Manifests(manifests) => manifests.try_next(),
            Self::Kubernetes(kubernetes) => kubernetes.try_next(),
        }
    }

    /// Whether nothing may be missing that was never seen, as far as events were taken: every manifest has been valid as a
    /// whole at some time. A list of the API server is whole.
    pub const fn is_whole(&self) -> bool {
        match self {
            Self::Manifests(manifests) => manifests.is_whole(),
            Self::Kubernetes(_) => true,
        }
    }

    /// Asks for a new list of a kind, where lists can be short by accident.
    pub fn relist(&self, kind: Kind) {
        if let Self::Kubernetes(kubernetes) = self {
            kubernetes.relist(kind);
        }
    }
}
