//! Taking over what is in the kernel already.
//!
//! A service of the kernel is good if all that its frontends lead to makes sense: a table inside MAGLEV that no other
//! service's table overlaps, of backends in use that no other service names, with just the content that these
//! endpoints give. Only such a service is matched with a service port that is wanted, and goes on with its identifier,
//! its backends and their generations. What makes no sense keeps working as well as it does until its frontends lead
//! to something new, and is then removed with the rest that nobody wants.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    abi::{Meter, TableRef},
    limits::MAX_TABLE_SIZE,
};

use super::{
    Ledger, Limits,
    ledger::{Entry, Record, Slot, Table},
    space::Block,
    tables::recognise,
};
use crate::{
    desired::{EndpointAddr, ServicePortKey},
    plan::{Family, FrontendAddr, Protocol, Snapshot, SnapshotBackend},
};

impl Ledger {
    /// The ledger of maps that hold what `snapshot` says. `read` returns the slots that a table has in MAGLEV; none if it is
    /// empty or does not lie inside.
    ///
    /// # Errors
    ///
    /// Those of `read`.
    pub fn adopt<E>(
        limits: Limits,
        snapshot: &Snapshot,
        mut read: impl FnMut(TableRef) -> Result<Option<Vec<u32>>, E>,
    ) -> Result<Self, E> {
        let mut ledger = Self::new(limits);
        ledger.adopt_backends(snapshot);
        let mut frontends_of: BTreeMap<u32, BTreeSet<FrontendAddr>> = BTreeMap::new();
        for (frontend, found) in &snapshot.frontends {
            ledger.set_record(
                *frontend,
                Record::Known {
                    service: found.service,
                    kind: found.kind,
                    flags: found.flags,
                    meter: found.meter,
                },
            );
            frontends_of.entry(found.service).or_default().insert(*frontend);
        }
        for (addr, kind) in &snapshot.addresses {
            ledger.addresses.adopt(*addr, *kind);
        }
        let mut bad = Vec::new();
        for (id, frontends) in frontends_of {
            match snapshot.services.get(&id) {
                Some(table) if ledger.ids.reserve(id) => {
                    for frontend in &frontends {
                        let found = snapshot.frontends.get(frontend);
                        ledger
                            .meters
                            .adopt(id, found.map_or(Meter::NONE, |found| found.meter));
                    }
                    let slots = read(*table)?;
                    let entry = ledger.adopt_service(snapshot, id, (*table, slots.as_deref()), &frontends);
                    let entry = entry.unwrap_or_else(|| {
                        bad.push((id, *table, slots.is_some()));
                        let family = frontends.first().map_or(Family::V4, FrontendAddr::family);
                        Entry::new(None, family)
                    });
                    ledger.entries.insert(id, Entry { frontends, ..entry });
                }
                _ => ledger.loose.extend(frontends),
            }
        }
        // What no frontend leads to is only to be emptied.
        for id in snapshot.services.keys() {
            if ledger.ids.reserve(*id) {
                ledger.entries.insert(*id, Entry::new(None, Family::V4));
                ledger.doomed.insert(*id);
            }
        }
        for (id, ranges) in &snapshot.ranges {
            if ledger.ids.reserve(*id) {
                ledger.doomed.insert(*id);
            } else if !ledger.entries.contains_key(id) {
                continue;
            }
            for range in ranges {
                ledger.hold_range(*id, *range, true);
            }
        }
        // Space of tables that make no sense is held until nothing leads there, as far as they can work at all; the
        // good tables come first.
        for (id, table, is_inside) in bad {
            let works = table.total() <= 2 * MAX_TABLE_SIZE && is_inside;
            if let Some(entry) = ledger.entries.get_mut(&id).filter(|_| works) {
                entry.maybe = ledger
                    .space
                    .reserve_range(table.offset(), table.offset().saturating_add(table.total()));
            }
            ledger.doomed.insert(id);
        }
        Ok(ledger)
    }

    /// At first every backend in use is a stray.
    fn adopt_backends(&mut self, snapshot: &Snapshot) {
        for ((family, index), backend) in &snapshot.backends {
            let in_use = matches!(backend, SnapshotBackend::InUse(_));
            if *index >= self.limits.max_backends {
                continue;
            }
            self.backends(*family)
                .set_generation(*index, backend.generation());
            if in_use && self.backends(*family).reserve(*index) {
                self.strays.insert((*family, *index));
            }
        }
        for ((family, index), backend) in &snapshot.backends {
            if let SnapshotBackend::InUse(slot) = backend
                && slot.kept
                && slot.family() == *family
                && slot.generation != 0
                && self.strays.contains(&(*family, *index))
            {
                let endpoint = EndpointAddr {
                    addr: slot.addr,
                    port: slot.port,
                };
                let same = self.kept_strays.entry((slot.protocol, endpoint)).or_default();
                same.push(Slot::found(*index, slot));
            }
        }
    }

    /// The service as an entry, if all of it makes sense. Its backends are no strays then, and its table is reserved.
    fn adopt_service(
        &mut self,
        snapshot: &Snapshot,
        id: u32,
        (table, slots): (TableRef, Option<&[u32]>),
        frontends: &BTreeSet<FrontendAddr>,
    ) -> Option<Entry> {
        let first = frontends.first()?;
        let (family, protocol) = (first.family(), first.protocol);
        if frontends
            .iter()
            .any(|frontend| (frontend.family(), frontend.protocol) != (family, protocol))
        {
            return None;
        }
        let found = if table.size() == 0 { &[][..] } else { slots? };
        let slots = self.members(snapshot, family, protocol, found)?;
        let indexes: BTreeMap<EndpointAddr, u32> =
            slots.iter().map(|(addr, slot)| (*addr, slot.index)).collect();
        let content = recognise(&mut self.builder, table, found, &indexes)?;
        let block = if table.size() == 0 {
            None
        } else {
            Some(Block::of(table)?)
        };
        if block.is_some_and(|block| !self.space.reserve(block)) {
            return None;
        }
        for slot in slots.values() {
            self.strays.remove(&(family, slot.index));
        }
        self.unclaimed.insert(id);
        let table = Table { block, content };
        Some(Entry {
            table: Some(table),
            served: true,
            slots,
            ..Entry::new(None, family)
        })
    }

    /// The backends that a table names, if they can all belong to one service and belong to no other.
    fn members(
        &self,
        snapshot: &Snapshot,
        family: Family,
        protocol: Protocol,
        table: &[u32],
    ) -> Option<BTreeMap<EndpointAddr, Slot>> {
        let mut members = BTreeMap::new();
        for index in table.iter().copied().collect::<BTreeSet<u32>>() {
            let place = (family, index);
            let SnapshotBackend::InUse(slot) = snapshot.backends.get(&place)? else {
                return None;
            };
            let endpoint = EndpointAddr {
                addr: slot.addr,
                port: slot.port,
            };
            let fits = slot.protocol == protocol && slot.family() == family && slot.generation != 0;
            let known = Slot::found(index, slot);
            if !fits || !self.strays.contains(&place) || members.insert(endpoint, known).is_some() {
                return None;
            }
        }
        Some(members)
    }

    /// Matches what was adopted with what is wanted, by frontends; what finds no match is to be taken out of use.
    pub(super) fn claim(&mut self) {
        if self.unclaimed.is_empty() {
            return;
        }
        let keys: Vec<ServicePortKey> = self
            .wanted
            .keys()
            .filter(|key| !self.id_of.contains_key(*key))
            .cloned()
            .collect();
        for key in keys {
            let Some(id) = self.most_of_its_frontends(&key) else {
                continue;
            };
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.key = Some(key.clone());
                self.unclaimed.remove(&id);
                self.id_of.insert(key, id);
            }
        }
        self.claim_kept();
        for id in std::mem::take(&mut self.unclaimed) {
            self.doom(id);
        }
    }

    /// Gives backends that keep flows, and that no table names for that reason, to service ports that want them kept. Of two
    /// service ports that want the same endpoint kept, each gets one, and it does not matter which.
    fn claim_kept(&mut self) {
        let mut found = std::mem::take(&mut self.kept_strays);
        for (key, id) in &self.id_of {
            let (Some(wanted), Some(entry)) = (self.wanted.get(key), self.entries.get_mut(id)) else {
                continue;
            };
            for endpoint in wanted.kept.keys() {
                let same = found.get_mut(&(key.protocol, *endpoint));
                let Some(same) = same.filter(|_| !entry.slots.contains_key(endpoint)) else {
                    continue;
                };
                // One that a table names after all belongs to that table's service.
                same.retain(|slot| self.strays.contains(&(entry.family, slot.index)));
                if let Some(slot) = same.pop() {
                    self.strays.remove(&(entry.family, slot.index));
                    entry.slots.insert(*endpoint, slot);
                }
            }
        }
    }

    /// The unclaimed service that most of the service port's frontends lead to; the lowest of several.
    fn most_of_its_frontends(&self, key: &ServicePortKey) -> Option<u32> {
        let mut votes: BTreeMap<u32, usize> = BTreeMap::new();
        for frontend in self.wanted.get(key)?.frontends.keys() {
            if let Some(Record::Known { service, .. }) = self.frontends.get(frontend)
                && self.unclaimed.contains(service)
            {
                *votes.entry(*service).or_default() += 1;
            }
        }
        let most = *votes.values().max()?;
        votes
            .into_iter()
            .find(|(_, count)| *count == most)
            .map(|(id, _)| id)
    }
}
