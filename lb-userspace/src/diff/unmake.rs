//! Unmaking: frontends that lead nowhere any more, services and backends that nothing leads to.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::abi::TableRef;

use super::{
    Ledger,
    backends::next_generation,
    ledger::{Content, Entry, Marks, Slot, Table},
    planner::{Draft, What},
};
use crate::{
    desired::EndpointAddr,
    plan::{BackendSlot, Family, FrontendAddr, Op},
};

impl Ledger {
    /// Removes frontends that nobody wants, and those that somebody wants who is not in the kernel: those of some services,
    /// and the loose ones too where that is asked for.
    pub(super) fn delete_frontends<'a>(
        &'a self,
        draft: &mut Draft,
        ids: impl Iterator<Item = &'a u32>,
        loose: bool,
    ) {
        let of_entries = ids
            .filter_map(|id| self.entries.get(id))
            .flat_map(|entry| &entry.frontends);
        let loose = self.loose.iter().filter(|_| loose);
        let candidates: BTreeSet<FrontendAddr> = of_entries.chain(loose).copied().collect();
        for frontend in candidates {
            let wanted_by = self.wanted_frontends.get(&frontend);
            if wanted_by.is_none_or(|key| draft.absent.contains(key)) {
                draft.moved.insert(frontend);
                draft.push(Op::DeleteFrontend { frontend }, What::Frontend);
            }
        }
    }

    /// Takes services and backends out of use that nothing leads to once the steps so far are done. Backends that are to
    /// keep their flows are marked instead.
    pub(super) fn take_out(&self, draft: &mut Draft, ids: &[u32], doomed: &[u32]) {
        let planned: BTreeMap<u32, BTreeSet<EndpointAddr>> = draft
            .steps
            .iter()
            .filter_map(|step| match (&step.op, &step.what) {
                (Op::PutService { id, .. }, What::Service { table }) => Some((*id, table.content.members())),
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
                    content: Content::default(),
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
        for (id, entry) in ids.iter().filter_map(|id| Some((*id, self.entries.get(id)?))) {
            let members = match (planned.get(&id), &entry.table) {
                (Some(planned), _) => planned.clone(),
                (None, Some(table)) => table.content.members(),
                (None, None) if !entry.served && entry.maybe.is_empty() => BTreeSet::new(),
                // Nobody knows which table is in force: every backend may be needed.
                (None, None) => continue,
            };
            for (endpoint, slot) in entry.slots.iter().filter(|(addr, _)| !members.contains(addr)) {
                match self.marks_without_table(entry, endpoint, slot) {
                    Some(marks) => Self::mark(draft, entry, id, (endpoint, slot), marks),
                    None => free.push((id, *endpoint)),
                }
            }
        }
        for (id, endpoint) in free {
            self.free_backend(draft, id, endpoint);
        }
    }

    /// Takes backends out of use that belong to nobody.
    pub(super) fn free_strays(&self, draft: &mut Draft) {
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

    /// How a backend stays that no table names any more; none if it is of no use.
    fn marks_without_table(&self, entry: &Entry, endpoint: &EndpointAddr, slot: &Slot) -> Option<Marks> {
        let wanted = self.wanted.get(entry.key.as_ref()?)?;
        let kept = wanted.kept.get(endpoint).map(|endpoint| Marks {
            local: endpoint.local,
            kept: true,
        });
        // There was no room for the table that it is to come back to.
        let waits = || {
            slot.marks
                .filter(|marks| marks.kept && wanted.backends().contains_key(endpoint))
        };
        kept.or_else(waits)
    }

    /// Marks a backend that is not marked like that yet.
    fn mark(
        draft: &mut Draft,
        entry: &Entry,
        id: u32,
        (endpoint, slot): (&EndpointAddr, &Slot),
        marks: Marks,
    ) {
        let Some(key) = entry.key.as_ref().filter(|_| slot.marks != Some(marks)) else {
            return;
        };
        let put = Op::PutBackend {
            index: slot.index,
            slot: BackendSlot {
                addr: endpoint.addr,
                port: endpoint.port,
                protocol: key.protocol,
                generation: slot.generation,
                local: marks.local,
                kept: marks.kept,
            },
        };
        draft.push(put, What::Backend { id });
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
}
