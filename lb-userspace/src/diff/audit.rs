//! Comparing what the ledger knows of the kernel with what the kernel holds.
//!
//! Nobody else writes the maps, unless by mistake: a tool, another agent, a defect. What is found to differ is taken in as
//! the operation that somebody else must have carried out, and the service ports that it concerns are planned again: by the
//! same rules as any other change, so that identifiers, backends and generations stay, and nothing is written that is right.
//! What the ledger itself is not sure of, because an operation failed, is left to the plans that settle it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Bound,
    time::Instant,
};

use ipnet::IpNet;
use lb_common::abi::{TableRef, map};

use super::{
    Ledger,
    ledger::{Entry, Marks, Record},
    space::Block,
    table::Builder,
    tables::Tables,
};
use crate::{
    desired::EndpointAddr,
    plan::{
        BackendSlot, Differences, Family, FrontendAddr, How, ReadBack, Snapshot, SnapshotBackend,
        SnapshotFrontend,
    },
    sys::Place,
};

/// Services whose tables and backends are compared at once: some milliseconds.
const SERVICES_AT_ONCE: usize = 64;

/// Frontends, or addresses, that are looked for at once.
const FRONTENDS_AT_ONCE: usize = 1_024;

/// Slots of BACKENDS that are looked at at once.
const BACKENDS_AT_ONCE: u32 = 8_192;

/// A part of the maps, to be compared in one go. The parts follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Frontends and addresses of a family, from that place in the map on.
    Frontends(Family, Option<Place>),
    /// Frontends that are not there any more, behind that one.
    LostFrontends(Option<FrontendAddr>),
    /// Addresses that are not there any more, behind that one.
    LostAddresses(Option<IpAddr>),
    /// Source ranges.
    Ranges,
    /// Elements of SERVICES that are nobody's.
    Strangers,
    /// Services with their tables and backends, from that identifier on.
    Services(u32),
    /// Backends of a family that are nobody's, from that index on.
    Strays(Family, u32),
}

impl Part {
    /// Where a comparison begins.
    pub const FIRST: Self = Self::Frontends(Family::V4, None);
}

const fn of_family(family: Family, [v4, v6]: [&'static str; 2]) -> &'static str {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

const FRONTENDS: [&str; 2] = [map::FRONTENDS4, map::FRONTENDS6];
const RANGES: [&str; 2] = [map::RANGES4, map::RANGES6];
const BACKENDS: [&str; 2] = [map::BACKENDS4, map::BACKENDS6];

/// What of a service is not as it was.
enum Wrong {
    /// Its element of SERVICES.
    Service(How),
    /// Its table.
    Table,
    /// The backend of an endpoint.
    Backend(EndpointAddr, How),
}

impl Ledger {
    /// Compares a part of the maps with what the ledger knows of them, and returns the part to compare next; none after the
    /// last one. What differs is counted in `found` and put right by the next [`sync`](super::sync()).
    ///
    /// Comes between syncs, after the first one.
    ///
    /// # Errors
    ///
    /// Those of `maps`. Nothing of the part was taken in.
    pub fn compare<R: ReadBack>(
        &mut self,
        part: Part,
        maps: &R,
        now: Instant,
        found: &mut Differences,
    ) -> Result<Option<Part>, R::Error> {
        Ok(match part {
            Part::Frontends(family, after) => {
                let (snapshot, next) = maps.frontends(family, after)?;
                self.compare_frontends(family, &snapshot, now, found);
                self.compare_addresses(family, &snapshot, found);
                Some(match (family, next) {
                    (_, Some(_)) => Part::Frontends(family, next),
                    (Family::V4, None) => Part::Frontends(Family::V6, None),
                    (Family::V6, None) => Part::LostFrontends(None),
                })
            }
            Part::LostFrontends(after) => {
                let next = self.find_lost_frontends(after, maps, now, found)?;
                Some(next.map_or(Part::LostAddresses(None), |last| Part::LostFrontends(Some(last))))
            }
            Part::LostAddresses(after) => {
                let next = self.find_lost_addresses(after, maps, found)?;
                Some(next.map_or(Part::Ranges, |last| Part::LostAddresses(Some(last))))
            }
            Part::Ranges => {
                self.compare_ranges(&maps.ranges()?, now, found);
                Some(Part::Strangers)
            }
            Part::Strangers => {
                self.find_strangers(maps, found);
                Some(Part::Services(0))
            }
            Part::Services(from) => {
                let next = self.compare_services(from, maps, found)?;
                Some(next.map_or(Part::Strays(Family::V4, 0), Part::Services))
            }
            Part::Strays(family, from) => {
                let most = BACKENDS_AT_ONCE.min(self.limits.max_backends - from);
                for (index, slot) in maps.backends(family, from, most)? {
                    self.find_stray(index, &slot, found);
                }
                match (family, from + most) {
                    (_, next) if next < self.limits.max_backends => Some(Part::Strays(family, next)),
                    (Family::V4, _) => Some(Part::Strays(Family::V6, 0)),
                    (Family::V6, _) => None,
                }
            }
        })
    }

    fn compare_frontends(
        &mut self,
        family: Family,
        snapshot: &Snapshot,
        now: Instant,
        found: &mut Differences,
    ) {
        let name = of_family(family, FRONTENDS);
        for (frontend, held) in &snapshot.frontends {
            let held = known(held);
            match self.frontends.get(frontend) {
                Some(Record::Unsure) => continue,
                Some(record) if *record == held => continue,
                Some(_) => found.note(name, How::Changed),
                None => found.note(name, How::Added),
            }
            self.unlink(frontend, now);
            self.set_record(*frontend, held);
            if let Record::Known { service, .. } = held
                && let Some(entry) = self.entries.get_mut(&service)
            {
                entry.frontends.insert(*frontend);
            }
            self.loose.insert(*frontend);
            self.dirty.extend(self.wanted_frontends.get(frontend).cloned());
        }
    }

    fn compare_addresses(&mut self, family: Family, snapshot: &Snapshot, found: &mut Differences) {
        let name = of_family(family, FRONTENDS);
        for (addr, kind) in &snapshot.addresses {
            if self.addresses.may_be(addr, *kind) {
                continue;
            }
            let is_ours = self.addresses.is_held(addr);
            found.note(name, if is_ours { How::Changed } else { How::Added });
            let wanted_by = self.addresses.changed(*addr, *kind);
            self.dirty.extend(wanted_by);
        }
    }

    /// Finds frontends that somebody has removed, among some behind `after`. Returns the last of these, if there are more.
    fn find_lost_frontends<R: ReadBack>(
        &mut self,
        after: Option<FrontendAddr>,
        maps: &R,
        now: Instant,
        found: &mut Differences,
    ) -> Result<Option<FrontendAddr>, R::Error> {
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut ours = self.frontends.range((begin, Bound::Unbounded));
        let (mut lost, mut last) = (Vec::new(), None);
        for (frontend, record) in ours.by_ref().take(FRONTENDS_AT_ONCE) {
            last = Some(*frontend);
            if *record != Record::Unsure && !maps.has_frontend(frontend)? {
                lost.push(*frontend);
            }
        }
        let next = last.filter(|_| ours.next().is_some());
        for frontend in lost {
            found.note(of_family(frontend.family(), FRONTENDS), How::Lost);
            self.unlink(&frontend, now);
            self.dirty.extend(self.wanted_frontends.get(&frontend).cloned());
        }
        Ok(next)
    }

    /// The same for addresses.
    fn find_lost_addresses<R: ReadBack>(
        &mut self,
        after: Option<IpAddr>,
        maps: &R,
        found: &mut Differences,
    ) -> Result<Option<IpAddr>, R::Error> {
        let mut ours = self.addresses.known(after);
        let (mut lost, mut last) = (Vec::new(), None);
        for addr in ours.by_ref().take(FRONTENDS_AT_ONCE) {
            last = Some(addr);
            if !maps.has_address(addr)? {
                lost.push(addr);
            }
        }
        let next = last.filter(|_| ours.next().is_some());
        drop(ours);
        for addr in lost {
            found.note(of_family(Family::of(addr), FRONTENDS), How::Lost);
            let wanted_by = self.addresses.lost(&addr);
            self.dirty.extend(wanted_by);
        }
        Ok(next)
    }

    fn compare_ranges(
        &mut self,
        held: &BTreeMap<u32, BTreeSet<IpNet>>,
        now: Instant,
        found: &mut Differences,
    ) {
        let name = |range: &IpNet| of_family(Family::of(range.addr()), RANGES);
        let ours = self.entries.iter().flat_map(|(id, entry)| {
            let known = entry.ranges.iter().filter(|(_, known)| **known);
            known.map(|(range, _)| (*id, *range))
        });
        let is_there = |(id, range): &(u32, IpNet)| held.get(id).is_some_and(|held| held.contains(range));
        let lost: Vec<(u32, IpNet)> = ours.filter(|place| !is_there(place)).collect();
        for (id, range) in lost {
            found.note(name(&range), How::Lost);
            self.drop_range(id, &range);
            self.plan_again(id);
            self.finish(id, now);
        }
        for (id, range) in held
            .iter()
            .flat_map(|(id, held)| held.iter().map(|range| (*id, *range)))
        {
            let entry = self.entries.get(&id);
            // One of an identifier that rests is found when it has rested.
            if entry.is_some_and(|entry| entry.ranges.contains_key(&range))
                || entry.is_none() && !self.ids.reserve(id)
            {
                continue;
            }
            found.note(name(&range), How::Added);
            self.hold_range(id, range, true);
            self.plan_again(id);
        }
    }

    /// Finds services that nobody made.
    fn find_strangers<R: ReadBack>(&mut self, maps: &R, found: &mut Differences) {
        for id in 0..self.limits.max_services {
            let is_empty = maps.service(id).is_none_or(|table| table == TableRef::EMPTY);
            if !is_empty && !self.entries.contains_key(&id) && self.ids.reserve(id) {
                found.note(map::SERVICES, How::Added);
                self.entries.insert(id, Entry::new(None, Family::V4));
                self.doomed.insert(id);
            }
        }
    }

    /// Compares some services, from an identifier on. Returns that of the next one.
    fn compare_services<R: ReadBack>(
        &mut self,
        from: u32,
        maps: &R,
        found: &mut Differences,
    ) -> Result<Option<u32>, R::Error> {
        let mut wrong = Vec::new();
        let mut entries = self.entries.range(from..);
        for (id, entry) in entries.by_ref().take(SERVICES_AT_ONCE) {
            let table = entry.wrong_table(&mut self.builder, *id, maps)?;
            wrong.extend(table.map(|what| (*id, what)));
            entry.wrong_backends(maps, |what| wrong.push((*id, what)))?;
        }
        let next = entries.next().map(|(id, _)| *id);
        for (id, what) in wrong {
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            match what {
                Wrong::Service(how) => found.note(map::SERVICES, how),
                Wrong::Table => found.note(map::MAGLEV, How::Changed),
                Wrong::Backend(endpoint, how) => {
                    found.note(of_family(entry.family, BACKENDS), how);
                    if let Some(slot) = entry.slots.get_mut(&endpoint) {
                        slot.marks = None;
                    }
                }
            }
            if !matches!(what, Wrong::Backend(..)) {
                let block = entry.table.take().and_then(|table| table.block);
                entry.maybe.extend(block);
            }
            self.plan_again(id);
        }
        Ok(next)
    }

    /// A backend is in use: it may be that of nobody. One of a slot that rests is found when it has rested.
    fn find_stray(&mut self, index: u32, slot: &BackendSlot, found: &mut Differences) {
        let family = slot.family();
        let backends = self.backends(family);
        if backends.reserve(index) {
            let last = backends.generation(index).max(slot.generation);
            backends.set_generation(index, last);
            self.strays.insert((family, index));
            found.note(of_family(family, BACKENDS), How::Added);
        }
    }

    /// Something of a service is not as it was.
    fn plan_again(&mut self, id: u32) {
        let entry = self.entries.get(&id);
        match entry.and_then(|entry| entry.key.clone()) {
            Some(key) => self.dirty.insert(key),
            None => self.doomed.insert(id),
        };
    }
}

fn known(held: &SnapshotFrontend) -> Record {
    Record::Known {
        service: held.service,
        kind: held.kind,
        flags: held.flags,
        meter: held.meter,
    }
}

impl Entry {
    /// What is wrong with the service's element and its table, where it is known what they are to hold.
    fn wrong_table<R: ReadBack>(
        &self,
        builder: &mut Builder,
        id: u32,
        maps: &R,
    ) -> Result<Option<Wrong>, R::Error> {
        let Some(table) = &self.table else {
            return Ok(None);
        };
        let tables = Tables::held(&table.content, &self.slots);
        let Some(tables) = tables.and_then(|tables| tables.of_total(table.total())) else {
            return Ok(None);
        };
        let expected = table
            .block
            .map_or(TableRef::EMPTY, |Block { offset, .. }| tables.reference(offset));
        match maps.service(id).filter(|found| *found != expected) {
            Some(TableRef::EMPTY) => return Ok(Some(Wrong::Service(How::Lost))),
            Some(_) => return Ok(Some(Wrong::Service(How::Changed))),
            None => {}
        }
        let is_right = table.block.is_none() || {
            let slots = maps.table(expected)?;
            slots.is_none_or(|slots| slots == tables.slots(builder))
        };
        Ok((!is_right).then_some(Wrong::Table))
    }

    /// Tells the backends that are not as they are known to be.
    fn wrong_backends<R: ReadBack>(&self, maps: &R, mut tell: impl FnMut(Wrong)) -> Result<(), R::Error> {
        // Those of a service that is taken out of use are on their way out.
        let Some(key) = &self.key else {
            return Ok(());
        };
        for (endpoint, slot) in &self.slots {
            let Some(Marks { local, kept }) = slot.marks else {
                continue;
            };
            let expected = BackendSlot {
                addr: endpoint.addr,
                port: endpoint.port,
                protocol: key.protocol,
                generation: slot.generation,
                local,
                kept,
            };
            match maps.backend(self.family, slot.index)? {
                Some(SnapshotBackend::InUse(found)) if found == expected => {}
                Some(SnapshotBackend::InUse(_)) => tell(Wrong::Backend(*endpoint, How::Changed)),
                _ => tell(Wrong::Backend(*endpoint, How::Lost)),
            }
        }
        Ok(())
    }
}
