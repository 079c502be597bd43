//! The kernel's maps in ordinary memory, with the rules that every operation must keep.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Range,
    time::{Duration, Instant},
};

use ipnet::IpNet;

use super::{Limits, Wanted};
use crate::{
    desired::{EndpointAddr, ServicePort},
    plan::{
        BackendSlot, Dataplane, Family, FrontendAddr, FrontendFlags, FrontendKind, Op, Partial, Snapshot,
        SnapshotBackend, SnapshotFrontend, TableRef, one_by_one,
    },
};

/// Which operation is to fail, and whether it happens nevertheless.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) after: usize,
    pub(super) happens: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) now: Instant,
    pub(super) frontends: BTreeMap<FrontendAddr, (u32, FrontendKind)>,
    /// Those of the frontends, which are not 0.
    pub(super) flags: BTreeMap<FrontendAddr, u8>,
    /// The numbers of their meters, which are not 0.
    pub(super) meters: BTreeMap<FrontendAddr, u16>,
    /// Services that meters count, or have counted and not been cleared since.
    counted_by: BTreeMap<u16, u32>,
    pub(super) ranges: BTreeMap<u32, BTreeSet<IpNet>>,
    pub(super) addresses: BTreeMap<IpAddr, FrontendKind>,
    pub(super) services: BTreeMap<u32, TableRef>,
    pub(super) maglev: Vec<u32>,
    pub(super) backends: BTreeMap<(Family, u32), SnapshotBackend>,
    pub(super) failure: Option<Failure>,
    /// Whether the rules are kept; a model of a damaged kernel cannot keep them.
    pub(super) strict: bool,
    /// What must be true of every frontend after every operation: the endpoints that it may lead to.
    pub(super) promise: BTreeMap<FrontendAddr, (BTreeSet<EndpointAddr>, bool)>,
    /// Addresses that are known as such after every operation.
    kept: BTreeSet<IpAddr>,
    /// What each frontend must allow and may allow after every operation; nothing for all clients.
    allowed: BTreeMap<FrontendAddr, [Option<BTreeSet<IpNet>>; 2]>,
    pub(super) log: Vec<Op>,
    limits: Limits,
    /// Freed things, with the time until which they must not be used again.
    resting_slots: Vec<(Instant, Range<u32>)>,
    resting_backends: BTreeMap<(Family, u32), Instant>,
}

impl Model {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            now: Instant::now(),
            frontends: BTreeMap::new(),
            flags: BTreeMap::new(),
            meters: BTreeMap::new(),
            counted_by: BTreeMap::new(),
            ranges: BTreeMap::new(),
            addresses: BTreeMap::new(),
            services: BTreeMap::new(),
            maglev: vec![u32::MAX; limits.maglev_slots as usize],
            backends: BTreeMap::new(),
            failure: None,
            strict: true,
            promise: BTreeMap::new(),
            kept: BTreeSet::new(),
            allowed: BTreeMap::new(),
            log: Vec::new(),
            limits,
            resting_slots: Vec::new(),
            resting_backends: BTreeMap::new(),
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// The slots of a table. Of one that reaches out of MAGLEV (the model can be damaged) one slot outside is kept.
    fn range(&self, table: TableRef) -> Range<u32> {
        table.offset()
            ..table
                .offset()
                .saturating_add(table.total())
                .min(self.limits.maglev_slots + 1)
    }

    /// The backends that a frontend's packets may meet, one for each slot; `None` if the frontend is not there.
    pub(super) fn resolve(&self, frontend: &FrontendAddr) -> Option<Vec<Option<BackendSlot>>> {
        let (service, _) = self.frontends.get(frontend)?;
        let table = self.services.get(service).copied().unwrap_or(TableRef::EMPTY);
        let slots = self.range(table).map(|slot| {
            let index = self.maglev.get(slot as usize)?;
            match self.backends.get(&(frontend.family(), *index))? {
                SnapshotBackend::InUse(backend) => Some(*backend),
                SnapshotBackend::Free { .. } => None,
            }
        });
        Some(slots.collect())
    }

    /// Services that a frontend leads to.
    fn reached(&self) -> BTreeSet<u32> {
        self.frontends.values().map(|(service, _)| *service).collect()
    }

    fn check(&self, op: &Op) {
        match op {
            Op::PutBackend { index, slot } => {
                self.check_put_backend((slot.family(), *index), slot);
                if slot.kept {
                    self.assert_unnamed((slot.family(), *index), op);
                }
            }
            Op::FreeBackend {
                family,
                index,
                generation,
            } => {
                let place = (*family, *index);
                let now = self
                    .backends
                    .get(&place)
                    .copied()
                    .unwrap_or(SnapshotBackend::Free { generation: 0 });
                let again = now
                    == SnapshotBackend::Free {
                        generation: *generation,
                    };
                assert!(
                    again || now.generation() < *generation,
                    "a backend that is freed moves on: {op:?}, {now:?}"
                );
                self.assert_unnamed(place, op);
            }
            Op::WriteTable { offset, slots } => self.check_write(*offset..*offset + slots.len() as u32),
            Op::PutService { id, table } => {
                assert!(*id < self.limits.max_services && self.range(*table).end <= self.limits.maglev_slots);
                assert!(table.size() == 0 || table.size().is_power_of_two());
                self.assert_names_no_kept(*id, *table);
            }
            Op::PutFrontend { service, meter, .. } => {
                assert!(self.services.contains_key(service), "{op:?}: no such service");
                self.check_meter(*service, *meter);
            }
            Op::ClearMeter { meter } => {
                assert!((1..=self.limits.max_meters).contains(meter), "{op:?}");
                assert!(
                    !self.meters.values().any(|named| named == meter),
                    "{op:?} is in use"
                );
            }
            Op::DeleteFrontend { .. } | Op::DeleteAddress { .. } | Op::DeleteRange { .. } => {}
            Op::PutRange { service, .. } => assert!(*service < self.limits.max_services),
            Op::PutAddress { addr, .. } => {
                let mut frontends = self.frontends.keys();
                assert!(
                    frontends.any(|frontend| frontend.addr == *addr),
                    "{op:?}: it would reject what is still on its way in"
                );
            }
        }
    }

    /// A frontend of a service names a meter that is the service's alone and holds nothing of a former owner.
    fn check_meter(&self, service: u32, meter: u16) {
        if meter == 0 {
            return;
        }
        let named = self.meters.iter().filter(|(_, named)| **named == meter);
        let owners: BTreeSet<u32> = named.map(|(frontend, _)| self.frontends[frontend].0).collect();
        assert!(meter <= self.limits.max_meters);
        assert!(
            owners.iter().all(|owner| *owner == service),
            "meter {meter} of service {service} is that of {owners:?}"
        );
        assert!(
            self.counted_by.get(&meter).is_none_or(|owner| *owner == service),
            "meter {meter} of service {service} was another one's"
        );
    }

    /// No frontend leads to that backend.
    fn assert_unnamed(&self, (family, index): (Family, u32), op: &Op) {
        for (frontend, (service, _)) in &self.frontends {
            let table = self.services.get(service).copied().unwrap_or(TableRef::EMPTY);
            let named = self.range(table).any(|slot| self.maglev[slot as usize] == index);
            assert!(
                !named || frontend.family() != family,
                "{op:?}, but {frontend} leads to it"
            );
        }
    }

    /// A table of a service that frontends lead to names no backends that get no new flows.
    fn assert_names_no_kept(&self, id: u32, table: TableRef) {
        let mut frontends = self.frontends.iter();
        let Some((frontend, _)) = frontends.find(|(_, (service, _))| *service == id) else {
            return;
        };
        for index in self.range(table).map(|slot| self.maglev[slot as usize]) {
            let backend = self.backends.get(&(frontend.family(), index));
            assert!(
                !matches!(backend, Some(SnapshotBackend::InUse(slot)) if slot.kept),
                "{frontend} leads to {backend:?}"
            );
        }
    }

    fn check_put_backend(&self, place: (Family, u32), slot: &BackendSlot) {
        assert!(place.1 < self.limits.max_backends && slot.generation != 0);
        match self.backends.get(&place) {
            Some(SnapshotBackend::InUse(old)) => {
                assert_eq!(
                    BackendSlot {
                        local: slot.local,
                        kept: slot.kept,
                        ..*old
                    },
                    *slot,
                    "a backend in use only changes its marks"
                );
            }
            old => {
                assert!(!slot.kept, "it has no flows: {slot:?}");
                let before = old.map_or(0, SnapshotBackend::generation);
                assert!(
                    slot.generation > before,
                    "the generation moves on: {before} to {slot:?}"
                );
                let rests = self
                    .resting_backends
                    .get(&place)
                    .is_some_and(|until| self.now < *until);
                assert!(!rests, "{place:?} rests");
            }
        }
    }

    fn check_write(&self, range: Range<u32>) {
        assert!(range.end <= self.limits.maglev_slots);
        let overlaps = |other: &Range<u32>| other.start < range.end && range.start < other.end;
        for id in self.reached() {
            let table = self.range(self.services.get(&id).copied().unwrap_or(TableRef::EMPTY));
            assert!(
                !overlaps(&table),
                "{range:?} is in the table of service {id}, {table:?}"
            );
        }
        for (until, resting) in &self.resting_slots {
            assert!(
                self.now >= *until || !overlaps(resting),
                "{range:?} overlaps {resting:?}, which rests"
            );
        }
    }

    fn carry_out(&mut self, op: &Op) {
        let until = self.now + self.limits.grace;
        match op {
            Op::PutBackend { index, slot } => {
                self.backends
                    .insert((slot.family(), *index), SnapshotBackend::InUse(*slot));
            }
            Op::FreeBackend {
                family,
                index,
                generation,
            } => {
                self.backends.insert(
                    (*family, *index),
                    SnapshotBackend::Free {
                        generation: *generation,
                    },
                );
                self.resting_backends.insert((*family, *index), until);
            }
            Op::WriteTable { offset, slots } => {
                let from = *offset as usize;
                self.maglev[from..from + slots.len()].copy_from_slice(slots);
            }
            Op::PutService { id, table } => {
                if let Some(old) = self.services.insert(*id, *table).filter(|old| old != table) {
                    let range = self.range(old);
                    self.resting_slots.push((until, range));
                }
            }
            Op::PutFrontend {
                frontend,
                service,
                kind,
                flags,
                meter,
            } => {
                self.frontends.insert(*frontend, (*service, *kind));
                self.flags.insert(*frontend, *flags);
                self.flags.retain(|_, flags| *flags != 0);
                self.meters.insert(*frontend, *meter);
                self.meters.retain(|_, meter| *meter != 0);
                self.counted_by.insert(*meter, *service);
            }
            Op::DeleteFrontend { frontend } => {
                self.frontends.remove(frontend);
                self.flags.remove(frontend);
                self.meters.remove(frontend);
            }
            Op::ClearMeter { meter } => {
                self.counted_by.remove(meter);
            }
            Op::PutRange { service, range } => {
                self.ranges.entry(*service).or_default().insert(*range);
            }
            Op::DeleteRange { service, range } => {
                if let Some(ranges) = self.ranges.get_mut(service) {
                    ranges.remove(range);
                }
                self.ranges.retain(|_, ranges| !ranges.is_empty());
            }
            Op::PutAddress { addr, kind } => {
                self.addresses.insert(*addr, *kind);
            }
            Op::DeleteAddress { addr } => {
                self.addresses.remove(addr);
            }
        }
    }

    /// Promises, for a change from `old` to `new`, that every frontend of both leads to endpoints that its old service
    /// had or that its new service had or will have, and to none only if that is so of one of these.
    pub(super) fn promise(&mut self, old: &Wanted, new: &Wanted) {
        let owners = |wanted: &Wanted| -> BTreeMap<FrontendAddr, _> {
            let of = |(key, port): (&_, &ServicePort)| {
                port.frontends
                    .keys()
                    .map(|frontend| (*frontend, Clone::clone(key)))
                    .collect::<Vec<_>>()
            };
            wanted.iter().flat_map(of).collect()
        };
        let addresses = |wanted: &Wanted| -> BTreeSet<IpAddr> {
            wanted
                .values()
                .flat_map(|port| port.addresses.keys().copied())
                .collect()
        };
        self.kept = &addresses(old) & &addresses(new);
        let (before, after) = (owners(old), owners(new));
        self.promise.clear();
        self.allowed.clear();
        for (frontend, old_owner) in before {
            let Some(new_owner) = after.get(&frontend) else {
                continue;
            };
            self.allowed.insert(
                frontend,
                allowed(
                    &frontend,
                    [old.get(&old_owner), new.get(new_owner)],
                    [new.get(&old_owner), old.get(new_owner)],
                ),
            );
            let sets = [
                old.get(&old_owner),
                new.get(&old_owner),
                old.get(new_owner),
                new.get(new_owner),
            ];
            let sets: Vec<_> = sets.into_iter().flatten().map(ServicePort::backends).collect();
            let may_be_empty = sets.iter().any(BTreeMap::is_empty);
            let may = sets.into_iter().flat_map(BTreeMap::into_keys).collect();
            self.promise.insert(frontend, (may, may_be_empty));
        }
    }

    /// The ranges that a frontend goes by; nothing for all clients.
    fn ranges_of(&self, frontend: &FrontendAddr) -> Option<BTreeSet<IpNet>> {
        let flags = self.flags.get(frontend).copied().unwrap_or(0);
        let (service, _) = self.frontends.get(frontend)?;
        (flags & FrontendFlags::RANGES != 0).then(|| self.ranges.get(service).cloned().unwrap_or_default())
    }

    fn assert_promise(&self, op: &Op) {
        for (frontend, [must, may]) in &self.allowed {
            match (self.ranges_of(frontend), must, may) {
                (Some(allowed), Some(must), Some(may)) => assert!(
                    allowed.is_superset(must) && allowed.is_subset(may),
                    "{frontend} allows {allowed:?} after {op:?}: not {must:?} to {may:?}"
                ),
                (Some(allowed), Some(must), None) => assert!(
                    allowed.is_superset(must),
                    "{frontend} allows {allowed:?} after {op:?}, not {must:?}"
                ),
                (Some(_), None, _) => panic!("{frontend} refuses clients after {op:?}"),
                (None, _, may) => assert!(may.is_none(), "{frontend} allows everybody after {op:?}"),
            }
        }
        for addr in &self.kept {
            assert!(self.addresses.contains_key(addr), "{addr} is gone after {op:?}");
        }
        for (frontend, (may, may_be_empty)) in &self.promise {
            let slots = self
                .resolve(frontend)
                .unwrap_or_else(|| panic!("{frontend} is gone after {op:?}"));
            assert!(
                !slots.is_empty() || *may_be_empty,
                "{frontend} has no table after {op:?}"
            );
            for slot in slots {
                let slot = slot.unwrap_or_else(|| panic!("{frontend} leads to a free backend after {op:?}"));
                let endpoint = EndpointAddr {
                    addr: slot.addr,
                    port: slot.port,
                };
                assert!(
                    may.contains(&endpoint),
                    "{frontend} leads to {endpoint} after {op:?}"
                );
                assert_eq!(slot.protocol, frontend.protocol);
            }
        }
    }

    /// The kernel holds exactly what is wanted.
    #[track_caller]
    pub(super) fn assert_is(&self, wanted: &Wanted) {
        let mut frontends = BTreeMap::new();
        let mut in_use: BTreeMap<Family, usize> = BTreeMap::new();
        for (key, port) in wanted {
            let mut ids = BTreeSet::new();
            for (frontend, kind) in &port.frontends {
                let (id, found_kind) = self
                    .frontends
                    .get(frontend)
                    .unwrap_or_else(|| panic!("no {frontend}"));
                assert_eq!(found_kind, kind);
                ids.insert(*id);
                frontends.insert(*frontend, (*id, *kind));
                let slots = self.resolve(frontend).unwrap_or_default();
                assert_eq!(slots.len() as u32, super::slots_of(port));
                let found: BTreeMap<EndpointAddr, bool> = slots
                    .into_iter()
                    .map(|slot| slot.expect("a backend in use"))
                    .inspect(|slot| assert!(!slot.kept, "{frontend} leads to {slot:?}"))
                    .map(|slot| (endpoint_of(&slot), slot.local))
                    .collect();
                let table = self.services.get(id).copied().unwrap_or(TableRef::EMPTY);
                self.assert_tables(table, port, frontend.family());
                assert_eq!(found, port.backends(), "of {key}");
            }
            assert_eq!(ids.len(), 1, "{key} is one service");
            let meters = port.frontends.keys().map(|frontend| self.meters.get(frontend));
            let meters: BTreeSet<Option<&u16>> = meters.collect();
            assert_eq!(meters.len(), 1, "{key} has one meter: {meters:?}");
            *in_use.entry(key.family).or_default() += port.backends().len();
        }
        assert_eq!(self.frontends, frontends, "no frontend too many");
        for (port, frontend, kind) in wanted.values().flat_map(|port| {
            port.frontends
                .iter()
                .map(move |(frontend, kind)| (port, frontend, kind))
        }) {
            let flags = self.flags.get(frontend).copied().unwrap_or(0);
            assert_eq!(flags, port.flags(*kind), "flags of {frontend}");
            let (id, _) = self.frontends[frontend];
            let ranges = self.ranges.get(&id).cloned().unwrap_or_default();
            let sources = port.sources.clone().unwrap_or_default();
            assert_eq!(ranges, sources.ranges, "ranges of {frontend}");
        }
        let ids: BTreeSet<u32> = self.reached();
        assert!(
            self.ranges.keys().all(|id| ids.contains(id)),
            "no ranges of nobody"
        );
        let mut addresses: BTreeMap<IpAddr, FrontendKind> = BTreeMap::new();
        for (addr, kind) in wanted.values().flat_map(|port| &port.addresses) {
            let least = addresses.entry(*addr).or_insert(*kind);
            *least = (*least).min(*kind);
        }
        assert_eq!(self.addresses, addresses, "the addresses of services");
        for family in Family::ALL {
            let backends = self.backends.iter().filter(|((f, _), _)| *f == family);
            let used = backends
                .filter(|(_, backend)| matches!(backend, SnapshotBackend::InUse(slot) if !slot.kept))
                .count();
            assert_eq!(
                used,
                in_use.get(&family).copied().unwrap_or(0),
                "{family} backends in use"
            );
        }
        let with_table = self.services.values().filter(|table| table.size() > 0).count();
        assert_eq!(
            with_table,
            wanted.values().filter(|port| !port.endpoints.is_empty()).count()
        );
    }

    /// The first table is of all endpoints, the second of those that count under policy Local.
    #[track_caller]
    fn assert_tables(&self, table: TableRef, port: &ServicePort, family: Family) {
        let of = |range: Range<u32>| -> BTreeSet<EndpointAddr> {
            let indexes = range.map(|slot| self.maglev[slot as usize]);
            let backend = |index| match self.backends.get(&(family, index)) {
                Some(SnapshotBackend::InUse(backend)) => endpoint_of(backend),
                other => panic!("slot of {other:?}"),
            };
            indexes.map(backend).collect()
        };
        let (begin, middle) = (table.offset(), table.offset() + table.size());
        assert_eq!(of(begin..middle), port.endpoints.keys().copied().collect());
        assert_eq!(of(middle..table.offset() + table.total()), port.local);
        if !port.endpoints.is_empty() {
            assert_eq!(table.policies(), port.policies);
        }
    }

    /// The slots of a table, for adoption.
    pub(super) fn table(&self, table: TableRef) -> Option<Vec<u32>> {
        let end = u64::from(table.offset()) + u64::from(table.total());
        let is_inside = table.size() > 0 && end <= self.maglev.len() as u64;
        is_inside.then(|| self.range(table).map(|slot| self.maglev[slot as usize]).collect())
    }

    /// What adoption reads back.
    pub(super) fn snapshot(&self) -> Snapshot {
        let ids = self
            .reached()
            .into_iter()
            .chain(self.services.keys().copied())
            .collect::<BTreeSet<u32>>();
        let table = |id: &u32| self.services.get(id).copied().unwrap_or(TableRef::EMPTY);
        let services: BTreeMap<u32, TableRef> = ids
            .into_iter()
            .filter(|id| *id < self.limits.max_services)
            .filter(|id| table(id) != TableRef::EMPTY || self.reached().contains(id))
            .map(|id| (id, table(&id)))
            .collect();
        Snapshot {
            frontends: self
                .frontends
                .iter()
                .map(|(addr, (service, kind))| {
                    (
                        *addr,
                        SnapshotFrontend {
                            service: *service,
                            kind: Some(*kind),
                            flags: self.flags.get(addr).copied().unwrap_or(0),
                            meter: self.meters.get(addr).copied().unwrap_or(0),
                        },
                    )
                })
                .collect(),
            ranges: self.ranges.clone(),
            addresses: self
                .addresses
                .iter()
                .map(|(addr, kind)| (*addr, Some(*kind)))
                .collect(),
            services,
            backends: self.backends.clone(),
        }
    }
}

/// What a frontend must allow, as long as its service port changes from the first of `ends` to the second, and what it may
/// allow, where service ports like `others` have a hand in it as well. Nothing for all clients; a frontend that begins or
/// ends to ask for ranges may allow all.
fn allowed(
    frontend: &FrontendAddr,
    ends: [Option<&ServicePort>; 2],
    others: [Option<&ServicePort>; 2],
) -> [Option<BTreeSet<IpNet>>; 2] {
    let sources = |port: Option<&ServicePort>| -> Option<BTreeSet<IpNet>> {
        let port = port?;
        let kind = port.frontends.get(frontend)?;
        let asks = port.flags(*kind) & FrontendFlags::RANGES != 0;
        port.sources
            .as_ref()
            .filter(|_| asks)
            .map(|sources| sources.ranges.clone())
    };
    let all = |port: Option<&ServicePort>| port.and_then(|port| port.sources.clone()).unwrap_or_default();
    match ends.map(sources) {
        [Some(old), Some(new)] => {
            let both = &old & &new;
            let mut any = &old | &new;
            any.extend(others.into_iter().chain(ends).flat_map(|port| all(port).ranges));
            [Some(both), Some(any)]
        }
        [Some(one), None] | [None, Some(one)] => [Some(one), None],
        [None, None] => [None, None],
    }
}

fn endpoint_of(slot: &BackendSlot) -> EndpointAddr {
    EndpointAddr {
        addr: slot.addr,
        port: slot.port,
    }
}

impl Dataplane for Model {
    type Error = &'static str;

    /// When one fails, every other one of the rest happens nevertheless, as may be with the kernel's bulk calls.
    fn apply_all(&mut self, ops: &[&Op]) -> Result<(), Partial<Self::Error>> {
        one_by_one(ops, |op| self.apply(op)).map_err(|partial| {
            let rest = &ops[partial.done + 1..];
            for op in rest.iter().step_by(2) {
                self.carry_out(op);
                self.assert_promise(op);
            }
            Partial {
                unknown: 1 + rest.len(),
                ..partial
            }
        })
    }

    fn apply(&mut self, op: &Op) -> Result<(), Self::Error> {
        if self.strict {
            self.check(op);
        }
        self.log.push(op.clone());
        let failure = match &mut self.failure {
            Some(failure) if failure.after == 0 => self.failure.take(),
            Some(failure) => {
                failure.after -= 1;
                None
            }
            None => None,
        };
        if failure.is_none_or(|failure| failure.happens) {
            self.carry_out(op);
        }
        self.assert_promise(op);
        if failure.is_some() {
            Err("a failure of the test's")
        } else {
            Ok(())
        }
    }
}
