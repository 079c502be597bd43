//! The agent's health, by kube-proxy's rules (`pkg/proxy/healthcheck/proxy_health.go` of Kubernetes): pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

use crate::{objects::Node, plan::Family, watch::ApiState};

/// A change that waits for longer than this means that the agent does not do its work, and so does a main loop that has not
/// turned for as long. kube-proxy: twice the sync period, whose default is 30 s.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(60);

/// What kube-proxy writes for a time that never was: Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The present time by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The monotonic clock, by which it is told how long something takes.
    pub monotonic: Instant,
    /// The clock on the wall, which is shown.
    pub wall: Timestamp,
}

impl Now {
    /// Reads the clocks.
    pub fn read() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: Timestamp::now(),
        }
    }
}

/// What is known of this node's Node object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeState {
    /// Nothing: there are no Nodes (a folder of manifests), or they were not listed yet.
    #[default]
    Unknown,
    /// It is there, and is to stay.
    Eligible,
    /// The API server has no such Node.
    Missing,
    /// It is being deleted.
    Deleting,
    /// It carries the taint `ToBeDeletedByClusterAutoscaler`.
    ToBeDeleted,
}

impl NodeState {
    /// What Nodes that were listed say of this one; none if they do not name it.
    pub fn of(node: Option<&Node>) -> Self {
        match node {
            None => Self::Missing,
            Some(node) if node.deleting => Self::Deleting,
            Some(node) if node.to_be_deleted => Self::ToBeDeleted,
            Some(_) => Self::Eligible,
        }
    }

    /// Whether load balancers may send new connections here.
    pub const fn is_eligible(self) -> bool {
        matches!(self, Self::Unknown | Self::Eligible)
    }
}

/// Whether the API server tells of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Nothing has been heard of it yet.
    Connecting,
    /// Everything is listed and watched.
    Reached,
    /// Something is not.
    Away,
}

impl From<&ApiState> for Reach {
    fn from(state: &ApiState) -> Self {
        match state {
            ApiState::Connecting => Self::Connecting,
            ApiState::Reached => Self::Reached,
            ApiState::Away { .. } => Self::Away,
        }
    }
}

/// What the kernel forwards by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Serving {
    /// No Service yet: not everything was listed, and no earlier agent has left anything.
    #[default]
    Nothing,
    /// What an earlier agent has left; not everything was listed yet.
    Pinned,
    /// What was listed and followed since.
    Current,
}

/// One family's updates.
#[derive(Clone, Copy, Debug, Default)]
struct Updates {
    last: Option<Timestamp>,
    pending_since: Option<Instant>,
}

/// The agent's health.
#[derive(Clone, Debug, Default)]
pub struct ProxyHealth {
    updates: BTreeMap<Family, Updates>,
    turned: Option<Instant>,
    node: NodeState,
    api: Option<(Reach, Timestamp)>,
    serving: Serving,
}

impl ProxyHealth {
    /// A change has come that the kernel does not know of yet.
    pub fn queued(&mut self, now: Now) {
        for family in Family::ALL {
            let updates = self.updates.entry(family).or_default();
            updates.pending_since.get_or_insert(now.monotonic);
        }
    }

    /// The kernel knows of everything that has come for a family.
    pub fn updated(&mut self, family: Family, now: Now) {
        let updates = self.updates.entry(family).or_default();
        updates.last = Some(now.wall);
        updates.pending_since = None;
    }

    /// The main loop has turned.
    pub fn turned(&mut self, now: Now) {
        self.turned = Some(now.monotonic);
    }

    /// Something is known of the Node.
    pub fn set_node(&mut self, node: NodeState) {
        self.node = node;
    }

    /// Whether the API server is reached. Repeating it does not change since when.
    pub fn set_api(&mut self, api: Reach, now: Now) {
        if self.api.is_none_or(|(before, _)| before != api) {
            self.api = Some((api, now.wall));
        }
    }

    /// What the kernel forwards by; says whether it is something else than before.
    pub fn set_serving(&mut self, serving: Serving) -> bool {
        std::mem::replace(&mut self.serving, serving) != serving
    }

    /// How the agent is.
    pub fn report(&self, now: Now) -> Report {
        let late = |since: Option<Instant>| {
            since.is_some_and(|since| now.monotonic.saturating_duration_since(since) >= HEALTH_TIMEOUT)
        };
        let stuck = late(self.turned);
        // A family that was never updated is starting up, however long that takes.
        let families = self.updates.iter().filter_map(|(family, updates)| {
            let health = FamilyHealth {
                last_updated: updates.last?.to_string(),
                healthy: !stuck && !late(updates.pending_since),
            };
            Some((family.to_string(), health))
        });
        let status: BTreeMap<String, FamilyHealth> = families.collect();
        let healthy = !stuck && status.values().all(|family| family.healthy);
        let last = self.updates.values().filter_map(|updates| updates.last).max();
        // As kube-proxy: whoever is healthy is up to date.
        let last = if healthy { Some(now.wall) } else { last };
        Report {
            last_updated: last.map_or_else(|| NEVER.to_owned(), |last| last.to_string()),
            current_time: now.wall.to_string(),
            node_eligible: Some(self.node.is_eligible()),
            healthy,
            status,
            main_loop: if stuck { "stuck" } else { "turning" },
            serving: self.serving,
            api: self.api.map(|(state, since)| ApiReport {
                state,
                since: since.to_string(),
            }),
        }
    }
}

/// What /healthz and /livez answer, as JSON. The names up to `status` are kube-proxy's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The last update of any family; the present time where all is well.
    last_updated: String,
    current_time: String,
    /// Whether the Node may get new connections; left out by /livez.
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    /// Whether changes reach the kernel.
    pub healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<String, FamilyHealth>,
    main_loop: &'static str,
    serving: Serving,
    #[serde(skip_serializing_if = "Option::is_none")]
    api: Option<ApiReport>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyHealth {
    last_updated: String,
    healthy: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ApiReport {
    state: Reach,
    since: String,
}

impl Report {
    /// Whether /healthz says that load balancers may send new connections here: changes reach the kernel, the Node is to
    /// stay, and there is something to forward by.
    pub fn is_eligible(&self) -> bool {
        self.healthy && self.node_eligible != Some(false) && self.serving != Serving::Nothing
    }

    /// The same for /livez, which leaves the Node out.
    #[must_use]
    pub fn without_node(mut self) -> Self {
        self.node_eligible = None;
        self
    }
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
