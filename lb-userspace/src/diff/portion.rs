//! Some of the service ports that are to be compared, for a plan of bearable size.

use std::{collections::BTreeSet, ops::Bound};

use super::Ledger;
use crate::desired::ServicePortKey;

/// Service ports for one plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Portion {
    /// The service ports.
    pub(super) keys: Vec<ServicePortKey>,
    /// Where the next portion begins; none after the last one.
    pub(super) next: Option<ServicePortKey>,
}

impl Ledger {
    /// The service ports to compare next, from `begin` on, or from the first one on. The portion is empty if there is none:
    /// there may still be something to remove.
    ///
    /// A Service's ports come together: the entry of their address is to come after all of them. A service port that loses a
    /// frontend to another one comes together with that one: it keeps its endpoints until the frontend has moved.
    pub(super) fn portion(&self, begin: Option<&ServicePortKey>) -> Portion {
        let begin = begin.map_or(Bound::Unbounded, Bound::Included);
        let mut rest = self.dirty.range((begin, Bound::Unbounded)).peekable();
        let mut keys: Vec<ServicePortKey> = Vec::new();
        while let Some(key) = rest.peek() {
            let is_full = keys.len() >= self.limits.portion;
            if is_full && keys.last().is_none_or(|last| last.service != key.service) {
                break;
            }
            keys.extend(rest.next().cloned());
        }
        let next = rest.next().cloned();
        let mut seen: BTreeSet<ServicePortKey> = keys.iter().cloned().collect();
        let mut at = 0;
        while let Some(key) = keys.get(at) {
            let takers = self.takers(key).filter(|taker| seen.insert((*taker).clone()));
            let takers: Vec<ServicePortKey> = takers.cloned().collect();
            keys.extend(takers);
            at += 1;
        }
        Portion { keys, next }
    }

    /// The service ports that are to take over a frontend that leads to this one.
    fn takers(&self, key: &ServicePortKey) -> impl Iterator<Item = &ServicePortKey> {
        let entry = self.id_of.get(key).and_then(|id| self.entries.get(id));
        let frontends = entry.into_iter().flat_map(|entry| &entry.frontends);
        let owners = frontends.filter_map(|frontend| self.wanted_frontends.get(frontend));
        owners.filter(move |owner| *owner != key && self.dirty.contains(*owner))
    }
}
