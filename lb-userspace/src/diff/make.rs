//! Making: backends, tables, services, and the frontends that lead to them.

use std::{collections::BTreeMap, time::Instant};

use lb_common::abi::TableRef;

use super::{
    DiffError, Ledger, Step,
    ledger::{Entry, Marks, Record, Table},
    planner::{Draft, Parts, What},
    space::Block,
    tables::Tables,
};
use crate::{
    desired::{EndpointAddr, ServicePort, ServicePortKey},
    plan::{BackendSlot, Family, Op},
};

impl Ledger {
    /// Backends, table and service of a service port.
    pub(super) fn make(&mut self, draft: &mut Draft, key: &ServicePortKey, now: Instant) {
        let Some(wanted) = self.wanted.get(key).cloned() else {
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
        self.meters.give(id);
        let parts = self.make_entry(draft, key, id, &entry, &wanted);
        let made = parts.is_some();
        draft.parts.append(parts.unwrap_or_default());
        if made || entry.served {
            self.entries.insert(id, entry);
            return;
        }
        draft.absent.insert(key.clone());
        if entry.is_untouched() {
            self.id_of.remove(key);
            self.ids.give_back(id);
            self.meters.retire(id, now);
        } else {
            self.entries.insert(id, entry);
        }
    }

    /// None if there is no room to change anything.
    fn make_entry(
        &mut self,
        draft: &mut Draft,
        key: &ServicePortKey,
        id: u32,
        entry: &Entry,
        wanted: &ServicePort,
    ) -> Option<Parts> {
        let mut parts = Parts::default();
        let members = self.put_backends(draft, &mut parts, key, id, entry, wanted);
        let mut tables = Tables::new(wanted, &members);
        let held = entry
            .table
            .as_ref()
            .filter(|table| table.content == tables.content);
        let proper = tables.total();
        if held.is_some_and(|held| held.total() == proper) {
            return Some(parts);
        }
        if !entry.served && members.is_empty() && !wanted.endpoints.is_empty() {
            return None;
        }
        let block = self.take_space(&mut tables, held.map_or(0, Table::total));
        let slots = block.or(held.and_then(|held| held.block)).map_or(0, Block::size);
        if slots < proper {
            self.miss_space(draft, key, (entry, &tables), (slots, proper));
        }
        if block.is_none() && proper != 0 {
            // The table in force does.
            return (slots != 0).then_some(parts);
        }
        if let Some(block) = block {
            self.reserved_blocks.insert(block);
            let slots = tables.slots(&mut self.builder);
            let op = Op::WriteTable {
                offset: block.offset,
                slots,
            };
            let what = What::Table { id };
            parts.tables.push(Step { op, what });
        }
        let op = Op::PutService {
            id,
            table: block.map_or(TableRef::EMPTY, |block| tables.reference(block.offset)),
        };
        let table = Table {
            block,
            content: tables.content,
        };
        let step = Step {
            op,
            what: What::Service { table },
        };
        if self.loses_frontends(key, entry) {
            draft.late.push(step);
        } else {
            parts.services.push(step);
        }
        Some(parts)
    }

    /// Space for tables, which are made smaller where there is little or none. None if there is no room for more than `beyond`
    /// slots.
    fn take_space(&mut self, tables: &mut Tables, beyond: u32) -> Option<Block> {
        for _ in 0..self.space.scarcity() {
            tables.halve();
        }
        while tables.total() > beyond {
            let block = self.space.take(tables.total());
            if block.is_some() || !tables.halve() {
                return block;
            }
        }
        None
    }

    /// A service port has `slots` slots, or none, where `proper` would be right. As long as something rests there may soon be
    /// room, and nothing to tell.
    fn miss_space(
        &self,
        draft: &mut Draft,
        key: &ServicePortKey,
        (entry, tables): (&Entry, &Tables),
        (slots, proper): (u32, u32),
    ) {
        let (service, limit) = (key.clone(), self.limits.maglev_slots);
        if slots == 0 {
            draft.error(DiffError::Table {
                service,
                slots: proper,
                limit,
                served: entry.served,
            });
        } else if self.space.next_due().is_some() || entry.will_rest(&tables.content) {
            draft.waiting.insert(service);
        } else {
            draft.error(DiffError::SmallTable {
                service,
                slots,
                proper,
                limit,
            });
        }
    }

    /// Whether another service port takes over a frontend that leads to this one.
    fn loses_frontends(&self, key: &ServicePortKey, entry: &Entry) -> bool {
        let owners = entry
            .frontends
            .iter()
            .filter_map(|frontend| self.wanted_frontends.get(frontend));
        owners.into_iter().any(|owner| owner != key)
    }

    /// Puts the backends in place that are missing, and tells those that were kept to take new flows again. Returns the endpoints that the service can have, with their
    /// indexes: those that are wanted, as far as there is room.
    fn put_backends(
        &mut self,
        draft: &mut Draft,
        parts: &mut Parts,
        key: &ServicePortKey,
        id: u32,
        entry: &Entry,
        wanted: &ServicePort,
    ) -> BTreeMap<EndpointAddr, u32> {
        let mut members = BTreeMap::new();
        let mut missing = 0;
        for (endpoint, local) in &wanted.backends() {
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
            let marks = Marks {
                local: *local,
                kept: false,
            };
            if known.and_then(|slot| slot.marks) != Some(marks) {
                let EndpointAddr { addr, port } = *endpoint;
                let slot = BackendSlot {
                    addr,
                    port,
                    protocol: key.protocol,
                    generation,
                    local: marks.local,
                    kept: marks.kept,
                };
                let op = Op::PutBackend { index, slot };
                let what = What::Backend { id };
                parts.backends.push(Step { op, what });
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
    pub(super) fn put_frontends(&mut self, draft: &mut Draft, key: &ServicePortKey) {
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
        let meter = self.meters.of(*id);
        let mut to_clear = self.meters.to_clear(*id);
        let mut missing = Vec::new();
        for (frontend, kind) in own {
            let record = self.frontends.get(frontend);
            if record
                == Some(&Record::Known {
                    service: *id,
                    kind: Some(*kind),
                    flags: port.flags(*kind),
                    meter,
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
            if let Some(meter) = to_clear.take() {
                draft.push(Op::ClearMeter { meter }, What::Meter { id: *id });
            }
            let op = Op::PutFrontend {
                frontend: *frontend,
                service: *id,
                kind: *kind,
                flags: port.flags(*kind),
                meter,
            };
            let what = What::Frontend;
            draft.parts.frontends.push(Step { op, what });
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

    /// How many elements of its FRONTENDS map a family takes.
    pub(super) const fn frontends_of(&self, family: Family) -> usize {
        self.frontends_by_family[family as usize] + self.addresses.count(family)
    }
}
