//! How many service ports have no endpoint where their policy asks for one.

use super::{Desired, Port, ServicePort, ServicePortKey};
use crate::plan::Family;

/// Service ports with a policy Local all of whose endpoints run on other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those of `internalTrafficPolicy`.
    pub internal: u64,
    /// Those of `externalTrafficPolicy`.
    pub external: u64,
}

/// These counts by family, IPv4 first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The counts.
    pub by_family: [Counts; 2],
}

impl Tally {
    /// Counts a service port that is told.
    pub(super) fn add(&mut self, key: &ServicePortKey, port: &ServicePort) {
        let (counts, lacks) = (self.of(key.family), lacks(port));
        counts.internal += u64::from(lacks && port.policies.internal_local);
        counts.external += u64::from(lacks && port.policies.external_local);
    }

    /// Counts one no more.
    pub(super) fn remove(&mut self, key: &ServicePortKey, port: &ServicePort) {
        let (counts, lacks) = (self.of(key.family), lacks(port));
        counts.internal -= u64::from(lacks && port.policies.internal_local);
        counts.external -= u64::from(lacks && port.policies.external_local);
    }

    const fn of(&mut self, family: Family) -> &mut Counts {
        let [v4, v6] = &mut self.by_family;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }
}

impl Desired {
    /// How much was looked at so far: Services, their service ports, frontends and endpoints. A test compares what an event
    /// adds in clusters of different sizes.
    pub const fn work(&self) -> u64 {
        self.work
    }
}

impl Port {
    /// Its parts.
    pub(super) fn size(&self) -> u64 {
        let port = &self.asked;
        (port.frontends.len() + port.endpoints.len() + port.local.len() + port.kept.len()) as u64
    }
}

fn lacks(port: &ServicePort) -> bool {
    port.local.is_empty() && !port.endpoints.is_empty()
}
