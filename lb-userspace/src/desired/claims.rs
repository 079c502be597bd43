//! Which service port has a frontend that several want.
//!
//! The oldest Service wins, by `creationTimestamp`, then by namespace and name; one without a timestamp (a manifest) is
//! younger than any with one. When the winner goes, the next one takes over.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::ServicePortKey;
use crate::plan::FrontendAddr;

/// That a service port wants a frontend. Ordered as claims win.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    undated: bool,
    created: Option<Time>,
    key: ServicePortKey,
}

impl Claim {
    pub(super) fn new(created: Option<Time>, key: ServicePortKey) -> Self {
        Self {
            undated: created.is_none(),
            created,
            key,
        }
    }
}

/// All claims, by frontend, the winner's first.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeMap<FrontendAddr, Vec<Claim>>);

impl Claims {
    pub(super) fn apply(&mut self, frontend: FrontendAddr, claim: Claim) {
        // Nearly every frontend has one claim alone.
        let claims = self.0.entry(frontend).or_insert_with(|| Vec::with_capacity(1));
        if let Err(place) = claims.binary_search(&claim) {
            claims.insert(place, claim);
        }
    }

    pub(super) fn delete(&mut self, frontend: &FrontendAddr, claim: &Claim) {
        if let Some(claims) = self.0.get_mut(frontend) {
            claims.retain(|other| other != claim);
            if claims.is_empty() {
                self.0.remove(frontend);
            }
        }
    }

    /// Who has the frontend.
    pub(super) fn winner(&self, frontend: &FrontendAddr) -> Option<&ServicePortKey> {
        self.0.get(frontend)?.first().map(|claim| &claim.key)
    }

    /// Everybody who wants the frontend, the winner first.
    pub(super) fn of(&self, frontend: &FrontendAddr) -> Vec<ServicePortKey> {
        self.0
            .get(frontend)
            .into_iter()
            .flatten()
            .map(|claim| claim.key.clone())
            .collect()
    }
}
