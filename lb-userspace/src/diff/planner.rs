//! The order of operations.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use lb_common::{abi::TableRef, maglev::table_size};

use super::{
    DiffError, Ledger,
    backends::next_generation,
    ledger::{Entry, Record, Table},
    space::Block,
};
use crate::{
    desired::{Endpoint, EndpointAddr, ServicePortKey},
    plan::{BackendSlot, Family, FrontendAddr, Op},
};

/// One operation, and what the ledger must know of it.
#[derive(Clone, Debug)]
pub struct Step {
    pub(super) op: Op,
    pub(super) what: What,
}

impl Step {
    /// The operation.
    pub const fn op(&self) -> &Op {
        &self.op
    }
}

/// What an operation means for the ledger.
#[derive(Clone, Debug)]
pub(super) enum What {
    /// A backend of that service.
    Backend { id: u32 },
    /// Frees a backend of that service, or a stray.
    Free { owner: Option<(u32, EndpointAddr)> },
    /// A table, for that service.
    Table { id: u32 },
    /// The service, with the table that it gets.
    Service { table: Table },
    /// A frontend.
    Frontend,
}

/// Operations in the order in which they are to be carried out.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The operations.
    pub steps: Vec<Step>,
    /// Limits that were passed, those that were told before left out.
    pub errors: Vec<DiffError>,
}

/// A plan in the making.
#[derive(Default)]
struct Draft {
    steps: Vec<Step>,
    /// New tables of services that lose a frontend to another one: they come after the frontend has moved, which would
    /// lead to endpoints in between that it never had.
    late: Vec<Step>,
    /// Frontends that lead somewhere else, or nowhere, once the steps are done.
    moved: BTreeSet<FrontendAddr>,
    /// Frontends that the plan adds, by family.
    added: BTreeMap<Family, usize>,
    errors: BTreeMap<ServicePortKey, BTreeSet<DiffError>>,
    /// Service ports that nothing may lead to: they are not in the kernel, and the plan does not change that.
    absent: BTreeSet<ServicePortKey>,
}

impl Draft {
    fn push(&mut self, op: Op, what: What) {
        self.steps.push(Step { op, what });
    }

    fn error(&mut self, error: DiffError) {
        self.errors
            .entry(error.service().clone())
            .or_default()
            .insert(error);
    }
}

impl Ledger {
    /// What is to be done for the kernel to hold what is wanted. Everything that is wanted must be known before the
    /// first plan: what is found in the kernel and not wanted is removed.
    ///
    /// A plan replaces the one before, which may have been carried out in part.
    pub fn plan(&mut self, now: Instant) -> Plan {
        self.plan_without(&BTreeSet::new(), now)
    }

    /// A plan that leaves out services, by identifier, of which operations failed.
    pub(super) fn plan_without(&mut self, failed: &BTreeSet<u32>, now: Instant) -> Plan {
        self.release(now);
        self.claim();
        let mut draft = Draft::default();
        let is_in = |key: &&ServicePortKey| self.id_of.get(*key).is_none_or(|id| !failed.contains(id));
        let dirty: Vec<ServicePortKey> = self.dirty.iter().filter(is_in).cloned().collect();
        for key in &dirty {
            self.make(&mut draft, key);
        }
        for key in &dirty {
            self.put_frontends(&mut draft, key);
        }
        let late = std::mem::take(&mut draft.late);
        draft.steps.extend(late);
        let ids: Vec<u32> = dirty
            .iter()
            .filter_map(|key| self.id_of.get(key))
            .copied()
            .collect();
        let doomed: Vec<u32> = self
            .doomed
            .iter()
            .filter(|id| !failed.contains(*id))
            .copied()
            .collect();
        self.delete_frontends(&mut draft, ids.iter().chain(&doomed));
        self.take_out(&mut draft, &ids, &doomed);
        if draft.steps.is_empty() {
            for key in dirty.iter().filter(|key| !draft.errors.contains_key(*key)) {
                self.dirty.remove(key);
            }
        }
        Plan {
            errors: self.news(&dirty, draft.errors),
            steps: draft.steps,
        }
    }

    /// Takes back what the last plan took and nobody carried out, and ends quarantines.
    fn release(&mut self, now: Instant) {
        for block in std::mem::take(&mut self.reserved_blocks) {
            self.space.give_back(block);
        }
        for (family, index) in std::mem::take(&mut self.reserved_backends) {
            self.backends(family).give_back(index);
        }
        self.ids.release(now);
        self.space.release(now);
        self.backends_v4.release(now);
        self.backends_v6.release(now);
        for id in self.doomed.iter().copied().collect::<Vec<_>>() {
            self.finish(id, now);
        }
    }

    /// Backends, table and service of a service port.
    fn make(&mut self, draft: &mut Draft, key: &ServicePortKey) {
        let Some(wanted) = self.wanted.get(key).map(|port| port.endpoints.clone()) else {
            return;
        };
        let Some(id) = self.identifier(key) else {
            draft.absent.insert(key.clone());
            return draft.error(DiffError::Services {
                service: key.clone(),
                limit: self.limits.max_services,
            });
        };
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        let before = draft.steps.len();
        let made = self.make_entry(draft, key, id, &entry, &wanted);
        if !made {
            draft.steps.truncate(before);
        }
        if made || entry.served {
            self.entries.insert(id, entry);
            return;
        }
        draft.absent.insert(key.clone());
        if entry.is_untouched() {
            self.id_of.remove(key);
            self.ids.give_back(id);
        } else {
            self.entries.insert(id, entry);
        }
    }

    /// Returns false if there is no room to change anything; then the steps it added do not count.
    fn make_entry(
        &mut self,
        draft: &mut Draft,
        key: &ServicePortKey,
        id: u32,
        entry: &Entry,
        wanted: &BTreeMap<EndpointAddr, Endpoint>,
    ) -> bool {
        let members = self.put_backends(draft, key, id, entry, wanted);
        if entry
            .table
            .as_ref()
            .is_some_and(|table| table.members.iter().eq(members.keys()))
        {
            return true;
        }
        if !entry.served && members.is_empty() && !wanted.is_empty() {
            return false;
        }
        let size = table_size(members.len());
        let block = if size == 0 { None } else { self.space.take(size) };
        if size != 0 && block.is_none() {
            let limit = self.limits.maglev_slots;
            draft.error(DiffError::Table {
                service: key.clone(),
                slots: size,
                limit,
            });
            return false;
        }
        if let Some(block) = block {
            self.reserved_blocks.insert(block);
            let slots = self.builder.build(&members);
            draft.push(
                Op::WriteTable {
                    offset: block.offset,
                    slots,
                },
                What::Table { id },
            );
        }
        let table = Table {
            block,
            members: members.into_keys().collect(),
        };
        let op = Op::PutService {
            id,
            table: block.map_or(TableRef::EMPTY, Block::table),
        };
        let step = Step {
            op,
            what: What::Service { table },
        };
        if self.loses_frontends(key, entry) {
            draft.late.push(step)
        } else {
            draft.steps.push(step)
        }
        true
    }

    /// Whether another service port takes over a frontend that leads to this one.
    fn loses_frontends(&self, key: &ServicePortKey, entry: &Entry) -> bool {
        let owners = entry
            .frontends
            .iter()
            .filter_map(|frontend| self.wanted_frontends.get(frontend));
        owners.into_iter().any(|owner| owner != key)
    }

    /// Puts the backends in place that are missing. Returns the endpoints that the service can have, with their
    /// indexes: those that are wanted, as far as there is room.
    fn put_backends(
        &mut self,
        draft: &mut Draft,
        key: &ServicePortKey,
        id: u32,
        entry: &Entry,
        wanted: &BTreeMap<EndpointAddr, Endpoint>,
    ) -> BTreeMap<EndpointAddr, u32> {
        let mut members = BTreeMap::new();
        let mut missing = 0;
        for (endpoint, Endpoint { local }) in wanted {
            let known = entry.slots.get(endpoint);
            let place = match known {
                Some(slot) => Some((slot.index, slot.generation)),
                None => self.backends(entry.family).take(),
            };
            let Some((index, generation)) = place else {
                missing += 1;
                continue;
            };
            members.insert(*endpoint, index);
            if known.is_none() {
                self.reserved_backends.insert((entry.family, index));
            }
            if known.and_then(|slot| slot.local) != Some(*local) {
                let EndpointAddr { addr, port } = *endpoint;
                let slot = BackendSlot {
                    addr,
                    port,
                    protocol: key.protocol,
                    generation,
                    local: *local,
                };
                draft.push(Op::PutBackend { index, slot }, What::Backend { id });
            }
        }
        if missing > 0 {
            let (family, limit) = (entry.family, self.backends(entry.family).limit());
            draft.error(DiffError::Backends {
                service: key.clone(),
                missing,
                family,
                limit,
            });
        }
        members
    }

    /// The service port's identifier; a new one if it has none.
    fn identifier(&mut self, key: &ServicePortKey) -> Option<u32> {
        if let Some(id) = self.id_of.get(key) {
            return Some(*id);
        }
        let id = self.ids.take()?;
        self.id_of.insert(key.clone(), id);
        self.entries.insert(id, Entry::new(Some(key.clone()), key.family));
        Some(id)
    }

    /// Adds the frontends of a service port, and takes over those that lead elsewhere.
    fn put_frontends(&mut self, draft: &mut Draft, key: &ServicePortKey) {
        let (Some(port), Some(id)) = (self.wanted.get(key), self.id_of.get(key)) else {
            return;
        };
        if draft.absent.contains(key) {
            return;
        }
        let own = port
            .frontends
            .iter()
            .filter(|(frontend, _)| self.wanted_frontends.get(*frontend) == Some(key));
        let mut missing = Vec::new();
        for (frontend, kind) in own {
            let record = self.frontends.get(frontend);
            if record
                == Some(&Record::Known {
                    service: *id,
                    kind: Some(*kind),
                })
            {
                continue;
            }
            if record.is_none() {
                let added = draft.added.entry(frontend.family()).or_default();
                if self.frontends_of(frontend.family()) + *added >= self.limits.max_frontends as usize {
                    missing.push(*frontend);
                    continue;
                }
                *added += 1;
            }
            draft.moved.insert(*frontend);
            let op = Op::PutFrontend {
                frontend: *frontend,
                service: *id,
                kind: *kind,
            };
            draft.push(op, What::Frontend);
        }
        let limit = self.limits.max_frontends;
        for frontend in missing {
            draft.error(DiffError::Frontends {
                service: key.clone(),
                frontend,
                limit,
            });
        }
    }

    /// Removes frontends that nobody wants, and those that somebody wants who is not in the kernel.
    fn delete_frontends<'a>(&'a self, draft: &mut Draft, ids: impl Iterator<Item = &'a u32>) {
        let of_entries = ids
            .filter_map(|id| self.entries.get(id))
            .flat_map(|entry| &entry.frontends);
        let candidates: BTreeSet<FrontendAddr> = of_entries.chain(&self.loose).copied().collect();
        for frontend in candidates {
            let wanted_by = self.wanted_frontends.get(&frontend);
            if wanted_by.is_none_or(|key| draft.absent.contains(key)) {
                draft.moved.insert(frontend);
                draft.push(Op::DeleteFrontend { frontend }, What::Frontend);
            }
        }
    }

    /// Takes services and backends out of use that nothing leads to once the steps so far are done.
    fn take_out(&self, draft: &mut Draft, ids: &[u32], doomed: &[u32]) {
        let planned: BTreeMap<u32, BTreeSet<EndpointAddr>> = draft
            .steps
            .iter()
            .filter_map(|step| match (&step.op, &step.what) {
                (Op::PutService { id, .. }, What::Service { table }) => Some((*id, table.members.clone())),
                _ => None,
            })
            .collect();
        let mut free = Vec::new();
        for (id, entry) in doomed.iter().filter_map(|id| Some((*id, self.entries.get(id)?))) {
            if !entry.frontends.is_subset(&draft.moved) {
                continue;
            }
            if !entry.has_empty_table() {
                let table = Table {
                    block: None,
                    members: BTreeSet::new(),
                };
                draft.push(
                    Op::PutService {
                        id,
                        table: TableRef::EMPTY,
                    },
                    What::Service { table },
                );
            }
            free.extend(entry.slots.keys().map(|endpoint| (id, *endpoint)));
        }
        let nobody = BTreeSet::new();
        for (id, entry) in ids.iter().filter_map(|id| Some((*id, self.entries.get(id)?))) {
            let members = match (planned.get(&id), &entry.table) {
                (Some(planned), _) => planned,
                (None, Some(table)) => &table.members,
                (None, None) if !entry.served && entry.maybe.is_empty() => &nobody,
                // Nobody knows which table is in force: every backend may be needed.
                (None, None) => continue,
            };
            let unused = entry.slots.keys().filter(|endpoint| !members.contains(*endpoint));
            free.extend(unused.map(|endpoint| (id, *endpoint)));
        }
        for (id, endpoint) in free {
            self.free_backend(draft, id, endpoint);
        }
        for (family, index) in &self.strays {
            let generation = next_generation(self.generation(*family, *index));
            let op = Op::FreeBackend {
                family: *family,
                index: *index,
                generation,
            };
            draft.push(op, What::Free { owner: None });
        }
    }

    fn free_backend(&self, draft: &mut Draft, id: u32, endpoint: EndpointAddr) {
        let Some(entry) = self.entries.get(&id) else {
            return;
        };
        let Some(slot) = entry.slots.get(&endpoint) else {
            return;
        };
        let generation = next_generation(slot.generation);
        let op = Op::FreeBackend {
            family: entry.family,
            index: slot.index,
            generation,
        };
        draft.push(
            op,
            What::Free {
                owner: Some((id, endpoint)),
            },
        );
    }

    fn generation(&self, family: Family, index: u32) -> u32 {
        match family {
            Family::V4 => self.backends_v4.generation(index),
            Family::V6 => self.backends_v6.generation(index),
        }
    }

    fn frontends_of(&self, family: Family) -> usize {
        self.frontends_by_family[family as usize]
    }

    /// The errors that were not told before.
    fn news(
        &mut self,
        dirty: &[ServicePortKey],
        mut errors: BTreeMap<ServicePortKey, BTreeSet<DiffError>>,
    ) -> Vec<DiffError> {
        let mut news = Vec::new();
        for key in dirty {
            let Some(found) = errors.remove(key) else {
                self.told.remove(key);
                continue;
            };
            let told = self.told.get(key);
            news.extend(
                found
                    .iter()
                    .filter(|error| told.is_none_or(|told| !told.contains(*error)))
                    .cloned(),
            );
            self.told.insert(key.clone(), found);
        }
        news
    }
}
