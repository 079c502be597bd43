//! Source ranges: what services allow at the addresses of their load balancers.
//!
//! A frontend is told to ask for ranges after they are in place, and they go after no frontend asks for them. Between two
//! sets of ranges both are allowed for a moment: who is in both is never refused, and who is in neither is never let in.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{
    DiffError, Ledger,
    ledger::Entry,
    planner::{Draft, What},
};
use crate::{
    desired::{ServicePort, ServicePortKey},
    plan::{Family, FrontendAddr, Op},
};

impl Ledger {
    /// Adds the ranges of a service port that the kernel may not have.
    pub(super) fn put_ranges(&self, draft: &mut Draft, key: &ServicePortKey) {
        let (Some(port), Some(id)) = (self.wanted.get(key), self.id_of.get(key).copied()) else {
            return;
        };
        let Some(entry) = self.entries.get(&id).filter(|_| !draft.absent.contains(key)) else {
            return;
        };
        let limit = self.limits.max_ranges;
        let mut missing = 0;
        for range in ranges_of(Some(port)) {
            let held = entry.ranges.get(&range).copied();
            if held == Some(true) {
                continue;
            }
            let family = Family::of(range.addr());
            if held.is_none() {
                let added = draft.added_ranges.entry(family).or_default();
                if self.ranges_by_family[family as usize] + *added >= limit as usize {
                    missing += 1;
                    continue;
                }
                *added += 1;
            }
            draft.push(Op::PutRange { service: id, range }, What::Range { id });
        }
        if missing > 0 {
            draft.error(DiffError::Ranges {
                service: key.clone(),
                missing,
                limit,
            });
        }
    }

    /// Removes ranges that are not wanted, of services whose frontends do not ask for them once the steps so far are done.
    pub(super) fn delete_ranges(&self, draft: &mut Draft, ids: &[u32], doomed: &[u32]) {
        let live = ids.iter().filter_map(|id| Some((*id, self.entries.get(id)?)));
        let gone = doomed.iter().filter_map(|id| Some((*id, self.entries.get(id)?)));
        let gone = gone.filter(|(_, entry)| entry.frontends.is_subset(&draft.moved));
        let mut unwanted = Vec::new();
        let stays = |frontend: &&FrontendAddr| !draft.moved.contains(*frontend);
        for (id, entry) in live.chain(gone) {
            let leads_here = |frontend: &FrontendAddr| {
                entry.key.is_some() && self.wanted_frontends.get(frontend) == entry.key.as_ref()
            };
            // One that another service port could not take over yet goes by what it knows.
            if entry
                .frontends
                .iter()
                .filter(stays)
                .any(|frontend| !leads_here(frontend))
            {
                continue;
            }
            let wanted = ranges_of(
                entry
                    .key
                    .as_ref()
                    .and_then(|key| self.wanted.get(key))
                    .map(|port| &**port),
            );
            let stale = entry.ranges.keys().filter(|range| !wanted.contains(range));
            unwanted.extend(stale.map(|range| (id, *range)));
        }
        for (service, range) in unwanted {
            draft.push(Op::DeleteRange { service, range }, What::Range { id: service });
        }
    }

    /// The kernel holds a range, or may hold it.
    pub(super) fn hold_range(&mut self, id: u32, range: IpNet, known: bool) {
        let entry = self
            .entries
            .entry(id)
            .or_insert_with(|| Entry::new(None, Family::of(range.addr())));
        if entry.ranges.insert(range, known).is_none() {
            self.ranges_by_family[Family::of(range.addr()) as usize] += 1;
        }
    }

    /// The kernel does not hold a range.
    pub(super) fn drop_range(&mut self, id: u32, range: &IpNet) {
        let entry = self.entries.get_mut(&id);
        if entry.is_some_and(|entry| entry.ranges.remove(range).is_some()) {
            self.ranges_by_family[Family::of(range.addr()) as usize] -= 1;
        }
    }
}

fn ranges_of(port: Option<&ServicePort>) -> BTreeSet<IpNet> {
    let sources = port.and_then(|port| port.sources.as_ref());
    sources.map(|sources| sources.ranges.clone()).unwrap_or_default()
}
