//! When what the source says may be applied.
//!
//! A dataplane that works is worth more than the last word of a source that has just come up. So nothing is applied before
//! everything needed was listed; and where an earlier agent left a dataplane, a first list that would take half of it away
//! is asked for again first, and manifests must all have been valid once.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lb_common::abi::FrontendKind;
use tracing::{error, info, warn};

use crate::{
    index::Index,
    plan::{Snapshot, SnapshotBackend},
    watch::{Kind, Source},
};

/// A list that takes away too much is asked for again after this time: an API server that restarts is complete by then.
const SECOND_OPINION: Duration = Duration::from_secs(5);

/// What an earlier agent left in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Adopted {
    /// Frontends that are cluster IPs.
    cluster_ips: usize,
    /// Endpoints.
    backends: usize,
    /// Frontends.
    frontends: usize,
}

impl Adopted {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let frontends = snapshot.frontends.values();
        let backends = snapshot.backends.values();
        Self {
            cluster_ips: frontends
                .filter(|frontend| frontend.kind == Some(FrontendKind::ClusterIp))
                .count(),
            backends: backends
                .filter(|backend| matches!(backend, SnapshotBackend::InUse(_)))
                .count(),
            frontends: snapshot.frontends.len(),
        }
    }

    fn is_empty(&self) -> bool {
        self.frontends == 0
    }

    /// Whether little of it would be left. Several service ports can share an endpoint, and each has a backend of its
    /// own, so of endpoints only their absence says something.
    fn exceeds(&self, index: &Index) -> bool {
        let (cluster_ips, endpoints) = index.size();
        2 * cluster_ips < self.cluster_ips || (endpoints == 0 && self.backends > 0)
    }
}

/// How far the agent has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not everything was listed yet.
    Listing,
    /// There are no manifests, or some that have never been valid, and there is a dataplane to lose: what is not seen
    /// may be what runs.
    Holding,
    /// The first lists would take away too much; they are believed when each was completed more often than that.
    Doubting([u64; Kind::NEEDED.len()]),
    /// Changes are applied as they come.
    Following,
}

/// Decides when changes are applied, and what is asked for again.
#[derive(Debug)]
pub(super) struct Caution {
    adopted: Adopted,
    stage: Stage,
    /// When to ask for new lists.
    relists: BTreeMap<Kind, Instant>,
}

impl Caution {
    pub(super) fn new(adopted: Adopted) -> Self {
        Self {
            adopted,
            stage: Stage::Listing,
            relists: BTreeMap::new(),
        }
    }

    /// Whether it is known what there is, applied or not.
    pub(super) fn has_listed(&self) -> bool {
        self.stage != Stage::Listing
    }

    /// Whether what is known may be applied.
    pub(super) fn may_apply(&mut self, index: &Index, source: &Source, now: Instant) -> bool {
        let next = match self.stage {
            Stage::Listing if !index.is_listed() => Stage::Listing,
            Stage::Listing if !self.adopted.is_empty() && !source.is_whole() => {
                error!(
                    "manifests are missing or invalid, and what an earlier agent programmed may come from them: it \
                     stays in force, and no change is applied until all manifests are valid; repair them or move them \
                     out of the folder, or end forwarding with `fairlead cleanup`"
                );
                Stage::Holding
            }
            Stage::Listing if matches!(source, Source::Kubernetes(_)) && self.adopted.exceeds(index) => {
                warn!(
                    "the API server's first lists hold less than half of what an earlier agent programmed; it stays in \
                     force until a second list says the same"
                );
                for kind in Kind::NEEDED {
                    self.relists.insert(kind, now + SECOND_OPINION);
                }
                Stage::Doubting(Kind::NEEDED.map(|kind| index.times_listed(kind)))
            }
            Stage::Holding if !source.is_whole() => Stage::Holding,
            Stage::Holding => {
                info!("all manifests are valid now; changes are applied");
                Stage::Following
            }
            Stage::Doubting(listed)
                if self.adopted.exceeds(index)
                    && !Kind::NEEDED
                        .iter()
                        .zip(listed)
                        .all(|(kind, before)| index.times_listed(*kind) > before) =>
            {
                Stage::Doubting(listed)
            }
            Stage::Doubting(_) => {
                info!("the API server's lists are believed now; changes are applied");
                Stage::Following
            }
            Stage::Listing | Stage::Following => Stage::Following,
        };
        self.stage = next;
        next == Stage::Following
    }

    /// Lists that took away too much are asked for again.
    pub(super) fn doubt(&mut self, kinds: &[Kind], now: Instant) {
        for kind in kinds {
            warn!(
                "the API server's new list of {kind} objects lacks half or more of those that were known; they stay in \
                 force until a second list says the same"
            );
            self.relists.insert(*kind, now + SECOND_OPINION);
        }
    }

    /// When to call [`Self::relist`] next.
    pub(super) fn next_relist(&self) -> Option<Instant> {
        self.relists.values().min().copied()
    }

    /// Asks for the lists that are due.
    pub(super) fn relist(&mut self, index: &mut Index, source: &Source, now: Instant) {
        for (kind, _) in self.relists.extract_if(.., |_, at| *at <= now) {
            index.believe_next(kind);
            source.relist(kind);
        }
    }
}
