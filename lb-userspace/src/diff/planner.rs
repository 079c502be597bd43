//! The order of operations.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use super::{DiffError, Ledger, ledger::Table, portion::Portion};
use crate::{
    desired::{EndpointAddr, ServicePortKey},
    plan::{Family, FrontendAddr, Op},
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
    /// A frontend, or an address that goes.
    Frontend,
    /// The meter of that service.
    Meter { id: u32 },
    /// A source range of that service.
    Range { id: u32 },
    /// An address that this service wants, among others.
    Address { id: u32 },
}

/// Operations in the order in which they are to be carried out.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The operations.
    pub steps: Vec<Step>,
    /// Limits that were passed, those that were told before left out.
    pub errors: Vec<DiffError>,
}

/// What services and the ways to them are made of, in the order in which it must come. All backends come in a row, whatever service they are
/// of, and so do all tables: the kernel takes them in bulk.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) backends: Vec<Step>,
    pub(super) tables: Vec<Step>,
    pub(super) services: Vec<Step>,
    pub(super) frontends: Vec<Step>,
}

impl Parts {
    /// Adds those of another service.
    pub(super) fn append(&mut self, mut other: Self) {
        self.backends.append(&mut other.backends);
        self.tables.append(&mut other.tables);
        self.services.append(&mut other.services);
        self.frontends.append(&mut other.frontends);
    }
}

/// A plan in the making.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) parts: Parts,
    pub(super) steps: Vec<Step>,
    /// New tables of services that lose a frontend to another one: they come after the frontend has moved, which would
    /// lead to endpoints in between that it never had.
    pub(super) late: Vec<Step>,
    /// Frontends that lead somewhere else, or nowhere, once the steps are done.
    pub(super) moved: BTreeSet<FrontendAddr>,
    /// Frontends and addresses that the plan adds, by family.
    pub(super) added: BTreeMap<Family, usize>,
    /// Source ranges that the plan adds, by family.
    pub(super) added_ranges: BTreeMap<Family, usize>,
    /// Addresses that the plan adds or changes, or has no room for.
    pub(super) put_addresses: BTreeSet<IpAddr>,
    pub(super) errors: BTreeMap<ServicePortKey, BTreeSet<DiffError>>,
    /// Service ports that have less than they want, and may get it when what rests is free.
    pub(super) waiting: BTreeSet<ServicePortKey>,
    /// Service ports that nothing may lead to: they are not in the kernel, and the plan does not change that.
    pub(super) absent: BTreeSet<ServicePortKey>,
}

impl Draft {
    pub(super) fn push(&mut self, op: Op, what: What) {
        self.steps.push(Step { op, what });
    }

    pub(super) fn error(&mut self, error: DiffError) {
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
        self.release(now);
        let all = Portion {
            keys: self.dirty.iter().cloned().collect(),
            next: None,
        };
        self.plan_portion(&all, &BTreeSet::new(), now)
    }

    /// A plan for some of the service ports that may not be as they are wanted, without services, by identifier, of which
    /// operations failed. What nobody wants any more is removed with the last of them.
    pub(super) fn plan_portion(&mut self, portion: &Portion, failed: &BTreeSet<u32>, now: Instant) -> Plan {
        self.release(now);
        self.claim();
        let mut draft = Draft::default();
        let is_in = |key: &&ServicePortKey| self.id_of.get(*key).is_none_or(|id| !failed.contains(id));
        let dirty: Vec<ServicePortKey> = portion.keys.iter().filter(is_in).cloned().collect();
        for key in &dirty {
            self.make(&mut draft, key, now);
        }
        let parts = std::mem::take(&mut draft.parts);
        draft.steps = [parts.backends, parts.tables, parts.services].concat();
        for key in &dirty {
            self.put_ranges(&mut draft, key);
        }
        for key in &dirty {
            self.put_frontends(&mut draft, key);
        }
        draft.steps.append(&mut draft.parts.frontends);
        for key in &dirty {
            self.put_addresses(&mut draft, key);
        }
        let late = std::mem::take(&mut draft.late);
        draft.steps.extend(late);
        let ids: Vec<u32> = dirty
            .iter()
            .filter_map(|key| self.id_of.get(key))
            .copied()
            .collect();
        let is_last = portion.next.is_none();
        let doomed = self.doomed.iter().filter(|id| is_last && !failed.contains(*id));
        let doomed: Vec<u32> = doomed.copied().collect();
        self.delete_frontends(&mut draft, ids.iter().chain(&doomed), is_last);
        self.delete_ranges(&mut draft, &ids, &doomed);
        self.take_out(&mut draft, &ids, &doomed);
        if is_last {
            self.free_strays(&mut draft);
            self.delete_addresses(&mut draft);
        }
        self.work += (dirty.len() + ids.len() + doomed.len() + draft.steps.len()) as u64;
        if draft.steps.is_empty() {
            let is_done = |key: &&ServicePortKey| {
                let errors = draft.errors.get(*key).into_iter().flatten();
                errors.into_iter().all(DiffError::is_bearable) && !draft.waiting.contains(*key)
            };
            for key in dirty.iter().filter(is_done) {
                self.dirty.remove(key);
            }
        }
        Plan {
            errors: self.news(&dirty, draft.errors),
            steps: draft.steps,
        }
    }

    /// Takes back what the last plan took and nobody carried out, and ends quarantines.
    pub(super) fn release(&mut self, now: Instant) {
        for block in std::mem::take(&mut self.reserved_blocks) {
            self.space.give_back(block);
        }
        for (family, index) in std::mem::take(&mut self.reserved_backends) {
            self.backends(family).give_back(index);
        }
        self.ids.release(now);
        self.space.release(now);
        for id in self.meters.release(now) {
            let entry = self.entries.get(&id);
            self.dirty.extend(entry.and_then(|entry| entry.key.clone()));
        }
        self.backends_v4.release(now);
        self.backends_v6.release(now);
        for id in self.doomed.iter().copied().collect::<Vec<_>>() {
            self.finish(id, now);
        }
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
