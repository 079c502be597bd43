//! Which endpoints are near enough, from their hints alone.
//!
//! Whoever makes the EndpointSlices decides what near means (`trafficDistribution`) and writes hints; a proxy follows them
//! where all ready endpoints have them and one is meant for its node, and else serves by all endpoints
//! (`topologyModeFromHints` in `pkg/proxy/topology.go` of Kubernetes; KEP-2433, KEP-3015).

use super::NodeFacts;
use crate::objects::Hints;

/// Whom an endpoint is meant for, seen from a node: none where it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hinted {
    /// For clients on this node.
    pub node: Option<bool>,
    /// For clients in this node's zone.
    pub zone: Option<bool>,
}

impl Hinted {
    /// Reads an endpoint's hints on a node. A node without a zone is in no zone.
    pub(super) fn of(hints: Option<&Hints>, node: &NodeFacts) -> Self {
        let names = |hints: &[std::sync::Arc<str>], wanted: Option<&str>| {
            (!hints.is_empty()).then(|| hints.iter().any(|name| Some(&**name) == wanted))
        };
        hints.map_or_else(Self::default, |hints| Self {
            node: names(&hints.nodes, Some(&*node.name)),
            zone: names(&hints.zones, node.zone.as_deref()),
        })
    }
}

/// Which endpoints are near enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Near {
    /// Those meant for this node.
    Node,
    /// Those meant for this zone.
    Zone,
    /// All.
    All,
}

impl Near {
    /// Whether an endpoint is near enough.
    pub(super) fn allows(self, hinted: Hinted) -> bool {
        match self {
            Self::Node => hinted.node == Some(true),
            Self::Zone => hinted.zone == Some(true),
            Self::All => true,
        }
    }
}

/// Chooses by the hints of all ready endpoints.
pub(super) fn choose(ready: &[Hinted]) -> Near {
    let all_say_and_one_fits = |hint: fn(Hinted) -> Option<bool>| {
        ready.iter().all(|hinted| hint(*hinted).is_some())
            && ready.iter().any(|hinted| hint(*hinted) == Some(true))
    };
    if all_say_and_one_fits(|hinted| hinted.node) {
        Near::Node
    } else if all_say_and_one_fits(|hinted| hinted.zone) {
        Near::Zone
    } else {
        Near::All
    }
}
