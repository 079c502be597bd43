//! What the kernel holds, and what is wanted of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use lb_common::{abi::Policies, limits};

use super::{
    DiffError,
    addresses::Addresses,
    backends::Backends,
    meters::Meters,
    numbers::Numbers,
    space::{Block, Space},
    table::Builder,
};
use crate::{
    desired::{Change, EndpointAddr, ServicePort, ServicePortKey},
    plan::{BackendSlot, Family, FrontendAddr, FrontendKind, Protocol},
};

/// How much the kernel's maps hold. Each is the `max_entries` of a map, or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Service ports (elements of SERVICES).
    pub max_services: u32,
    /// Backends of each family.
    pub max_backends: u32,
    /// Frontends of each family.
    pub max_frontends: u32,
    /// Slots of all Maglev tables together (elements of MAGLEV).
    pub maglev_slots: u32,
    /// Source ranges of each family.
    pub max_ranges: u32,
    /// Service ports that are counted by themselves (elements of METERS, one less).
    pub max_meters: u16,
    /// How long something that was freed is not used again.
    pub grace: Duration,
    /// How many service ports are compared at once, or a few more.
    pub portion: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_services: limits::SERVICES,
            max_backends: limits::BACKENDS,
            max_frontends: limits::FRONTENDS,
            maglev_slots: limits::MAGLEV_SLOTS,
            max_ranges: limits::RANGES,
            max_meters: limits::METERS,
            grace: Duration::from_secs(1),
            portion: 256,
        }
    }
}

/// How much of the limits is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Service ports.
    pub services: usize,
    /// Frontends of both families, without the entries of addresses.
    pub frontends: usize,
    /// Backends of both families.
    pub backends: usize,
    /// Those of IPv4 and of IPv6.
    pub backends_by_family: [usize; 2],
    /// Slots that tables take.
    pub table_slots: u64,
    /// Slots that rest before they are used again.
    pub quarantined_slots: u64,
}

/// A backend in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) index: u32,
    pub(super) generation: u32,
    /// `None` if an operation that would have changed them failed.
    pub(super) marks: Option<Marks>,
}

impl Slot {
    /// The slot with that index as the kernel holds it.
    pub(super) const fn found(index: u32, slot: &BackendSlot) -> Self {
        Self {
            index,
            generation: slot.generation,
            marks: Some(Marks::of(slot)),
        }
    }
}

/// What the flags of a backend in use say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) local: bool,
    /// It serves the flows that it has and gets no new ones.
    pub(super) kept: bool,
}

impl Marks {
    pub(super) const fn of(slot: &BackendSlot) -> Self {
        Self {
            local: slot.local,
            kept: slot.kept,
        }
    }
}

/// What SERVICES holds for a service, and MAGLEV where that points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// `None` if there are no endpoints.
    pub(super) block: Option<Block>,
    pub(super) content: Content,
}

impl Table {
    /// Slots that it takes.
    pub(super) fn total(&self) -> u32 {
        self.block.map_or(0, Block::size)
    }
}

/// The endpoints of a service's tables, and its policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) cluster: BTreeSet<EndpointAddr>,
    pub(super) local: BTreeSet<EndpointAddr>,
    /// Those of a service without endpoints do not count.
    pub(super) policies: Policies,
}

impl Content {
    pub(super) fn members(&self) -> BTreeSet<EndpointAddr> {
        self.cluster.union(&self.local).copied().collect()
    }
}

/// An identifier that is in use.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Who it was given to; `None` if it is to be taken out of use.
    pub(super) key: Option<ServicePortKey>,
    pub(super) family: Family,
    /// `None` if it is not known what SERVICES holds.
    pub(super) table: Option<Table>,
    /// SERVICES has held a table of this service, whether or not it is known which one it holds now.
    pub(super) served: bool,
    /// Space that SERVICES may point to, where that is not known.
    pub(super) maybe: Vec<Block>,
    /// The service's backends that are in use. Tables name those that are not kept.
    pub(super) slots: BTreeMap<EndpointAddr, Slot>,
    /// All frontends that may lead here.
    pub(super) frontends: BTreeSet<FrontendAddr>,
    /// Source ranges that the kernel holds, or may hold where it is not known.
    pub(super) ranges: BTreeMap<IpNet, bool>,
}

impl Entry {
    pub(super) fn new(key: Option<ServicePortKey>, family: Family) -> Self {
        Self {
            key,
            family,
            table: None,
            served: false,
            maybe: Vec::new(),
            slots: BTreeMap::new(),
            frontends: BTreeSet::new(),
            ranges: BTreeMap::new(),
        }
    }

    /// Space of the service will rest when it has another table.
    pub(super) fn will_rest(&self, next: &Content) -> bool {
        let old = self.table.as_ref().filter(|table| table.content != *next);
        !self.maybe.is_empty() || old.is_some_and(|table| table.block.is_some())
    }

    /// It is known that SERVICES holds an empty table.
    pub(super) fn has_empty_table(&self) -> bool {
        self.maybe.is_empty() && self.table.as_ref().is_some_and(|table| table.block.is_none())
    }

    /// Nothing of it is in the kernel any more.
    pub(super) fn is_gone(&self) -> bool {
        self.has_empty_table() && self.slots.is_empty() && self.frontends.is_empty() && self.ranges.is_empty()
    }

    /// Nothing of it was ever in the kernel.
    pub(super) fn is_untouched(&self) -> bool {
        let no_table = self.table.is_none() && !self.served && self.maybe.is_empty();
        no_table && self.slots.is_empty() && self.frontends.is_empty() && self.ranges.is_empty()
    }
}

/// What is known of a frontend that may be in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Known {
        service: u32,
        kind: Option<FrontendKind>,
        flags: u8,
        meter: u16,
    },
    /// An operation on it failed.
    Unsure,
}

/// What the kernel holds, what is wanted, and what is free.
#[derive(Debug)]
pub struct Ledger {
    pub(super) limits: Limits,
    pub(super) ids: Numbers,
    pub(super) space: Space,
    pub(super) meters: Meters,
    pub(super) backends_v4: Backends,
    pub(super) backends_v6: Backends,
    pub(super) entries: BTreeMap<u32, Entry>,
    pub(super) id_of: BTreeMap<ServicePortKey, u32>,
    pub(super) frontends: BTreeMap<FrontendAddr, Record>,
    /// How many frontends there are, by family.
    pub(super) frontends_by_family: [usize; 2],
    pub(super) addresses: Addresses,
    /// How many source ranges there are, by family.
    pub(super) ranges_by_family: [usize; 2],

    pub(super) wanted: BTreeMap<ServicePortKey, Arc<ServicePort>>,
    pub(super) wanted_frontends: BTreeMap<FrontendAddr, ServicePortKey>,

    /// Service ports that may not be as they are wanted.
    pub(super) dirty: BTreeSet<ServicePortKey>,
    /// Identifiers that are to be taken out of use.
    pub(super) doomed: BTreeSet<u32>,
    /// Frontends that may lead to nothing that is known.
    pub(super) loose: BTreeSet<FrontendAddr>,
    /// Backends that may be in use but belong to nobody.
    pub(super) strays: BTreeSet<(Family, u32)>,
    /// Those of them that keep flows, as they were found in the kernel: whose they are is to be found out.
    pub(super) kept_strays: BTreeMap<(Protocol, EndpointAddr), Vec<Slot>>,
    /// Identifiers found in the kernel that no service port has been matched with yet.
    pub(super) unclaimed: BTreeSet<u32>,

    /// What the last plan took, and nobody confirmed yet.
    pub(super) reserved_blocks: BTreeSet<Block>,
    pub(super) reserved_backends: BTreeSet<(Family, u32)>,

    /// Errors as they were told last.
    pub(super) told: BTreeMap<ServicePortKey, BTreeSet<DiffError>>,
    pub(super) builder: Builder,
    /// Service ports, identifiers and operations that plans have looked at.
    pub(super) work: u64,
}

impl Ledger {
    /// The ledger of maps that hold nothing.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ids: Numbers::new(limits.max_services, limits.grace),
            space: Space::new(limits.maglev_slots, limits.grace),
            meters: Meters::new(limits.max_meters, limits.grace),
            backends_v4: Backends::new(limits.max_backends, limits.grace),
            backends_v6: Backends::new(limits.max_backends, limits.grace),
            entries: BTreeMap::new(),
            id_of: BTreeMap::new(),
            frontends: BTreeMap::new(),
            frontends_by_family: [0; 2],
            addresses: Addresses::default(),
            ranges_by_family: [0; 2],
            wanted: BTreeMap::new(),
            wanted_frontends: BTreeMap::new(),
            dirty: BTreeSet::new(),
            doomed: BTreeSet::new(),
            loose: BTreeSet::new(),
            strays: BTreeSet::new(),
            kept_strays: BTreeMap::new(),
            unclaimed: BTreeSet::new(),
            reserved_blocks: BTreeSet::new(),
            reserved_backends: BTreeSet::new(),
            told: BTreeMap::new(),
            builder: Builder::default(),
            work: 0,
        }
    }

    /// Takes in changes of what is wanted. Nothing happens before the next plan.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            match change {
                Change::Apply(key, port) => self.want(key, port),
                Change::Delete(key) => self.delete(&key),
            }
        }
    }

    /// Replaces everything that is wanted.
    pub fn reset(&mut self, ports: BTreeMap<ServicePortKey, ServicePort>) {
        let gone: Vec<_> = self
            .wanted
            .keys()
            .filter(|key| !ports.contains_key(*key))
            .cloned()
            .collect();
        for key in &gone {
            self.delete(key);
        }
        for (key, port) in ports {
            self.want(key, Arc::new(port));
        }
    }

    fn want(&mut self, key: ServicePortKey, port: Arc<ServicePort>) {
        self.unwant_frontends(&key);
        for (addr, kind) in &port.addresses {
            self.addresses.want(*addr, &key, *kind);
        }
        for frontend in port.frontends.keys() {
            if let Some(former) = self.wanted_frontends.insert(*frontend, key.clone()) {
                self.dirty.insert(former);
            }
        }
        self.wanted.insert(key.clone(), port);
        self.dirty.insert(key);
    }

    fn delete(&mut self, key: &ServicePortKey) {
        self.unwant_frontends(key);
        self.wanted.remove(key);
        self.dirty.remove(key);
        self.told.remove(key);
        if let Some(id) = self.id_of.remove(key) {
            self.doom(id);
        }
    }

    fn unwant_frontends(&mut self, key: &ServicePortKey) {
        let Some(former) = self.wanted.get(key) else {
            return;
        };
        for frontend in former.frontends.keys() {
            // Another one may have taken it over within the same changes.
            if self.wanted_frontends.get(frontend) == Some(key) {
                self.wanted_frontends.remove(frontend);
            }
        }
        for addr in former.addresses.keys() {
            let others = self.addresses.unwant(*addr, key);
            self.dirty.extend(others);
        }
    }

    pub(super) fn doom(&mut self, id: u32) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.key = None;
            self.doomed.insert(id);
        }
    }

    /// When there is a reason to plan again although nothing new is wanted: something was freed that service ports
    /// wait for.
    pub fn next_wakeup(&self) -> Option<Instant> {
        if self.dirty.is_empty() {
            return None;
        }
        let backends = [self.backends_v4.next_due(), self.backends_v6.next_due()];
        backends
            .into_iter()
            .chain([self.ids.next_due(), self.space.next_due()])
            .flatten()
            .min()
    }

    /// Whether the kernel holds exactly what is wanted, as far as the last plan found out.
    pub fn is_settled(&self) -> bool {
        self.dirty.is_empty()
            && self.doomed.is_empty()
            && self.loose.is_empty()
            && self.strays.is_empty()
            && self.addresses.is_settled()
    }

    /// How much was looked at so far: service ports and identifiers of plans, and their operations. A test compares what an
    /// event adds in clusters of different sizes.
    pub const fn work(&self) -> u64 {
        self.work
    }

    /// How much of the limits is taken.
    pub fn usage(&self) -> Usage {
        let quarantined_slots = self.space.quarantined_slots();
        Usage {
            services: self.ids.taken(),
            frontends: self.frontends.len(),
            backends: self.backends_v4.taken() + self.backends_v6.taken(),
            backends_by_family: [self.backends_v4.taken(), self.backends_v6.taken()],
            table_slots: u64::from(self.space.slots()) - self.space.free_slots() - quarantined_slots,
            quarantined_slots,
        }
    }

    pub(super) fn backends(&mut self, family: Family) -> &mut Backends {
        match family {
            Family::V4 => &mut self.backends_v4,
            Family::V6 => &mut self.backends_v6,
        }
    }
}
