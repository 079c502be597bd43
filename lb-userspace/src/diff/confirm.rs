//! What the ledger learns from each operation that was carried out, or failed.

use std::{collections::BTreeSet, time::Instant};

use super::{
    Ledger, Step,
    ledger::{Marks, Record, Slot, Table},
    planner::What,
    space::Block,
};
use crate::{
    desired::EndpointAddr,
    plan::{BackendSlot, Family, FrontendAddr, Op},
};

impl Ledger {
    /// The operation was carried out, at `now`. Steps are confirmed in the order of their plan, each right after it
    /// happened.
    pub fn confirm(&mut self, step: &Step, now: Instant) {
        match (&step.op, &step.what) {
            (Op::PutBackend { index, slot }, What::Backend { id }) => {
                self.reserved_backends.remove(&(slot.family(), *index));
                self.set_slot(*id, *index, slot, Some(Marks::of(slot)));
            }
            (Op::PutService { id, table }, What::Service { table: content }) => {
                self.service_put(*id, Block::of(*table), content, now);
            }
            (
                Op::PutFrontend {
                    frontend,
                    service,
                    kind,
                    flags,
                    meter,
                },
                _,
            ) => {
                self.unlink(frontend, now);
                self.set_record(
                    *frontend,
                    Record::Known {
                        service: *service,
                        kind: Some(*kind),
                        flags: *flags,
                        meter: *meter,
                    },
                );
                if let Some(entry) = self.entries.get_mut(service) {
                    entry.frontends.insert(*frontend);
                }
            }
            (Op::DeleteFrontend { frontend }, _) => self.unlink(frontend, now),
            (Op::PutRange { service, range }, _) => self.hold_range(*service, *range, true),
            (Op::DeleteRange { service, range }, _) => {
                self.drop_range(*service, range);
                self.finish(*service, now);
            }
            (_, What::Meter { id }) => self.meters.cleared(*id),
            (Op::PutAddress { addr, kind }, _) => self.addresses.put(*addr, *kind),
            (Op::DeleteAddress { addr }, _) => self.addresses.delete(addr),
            (
                Op::FreeBackend {
                    family,
                    index,
                    generation,
                },
                What::Free { owner },
            ) => {
                self.disown(*family, *index, owner.as_ref());
                self.backends(*family).retire(*index, *generation, now);
                if let Some((id, _)) = owner {
                    self.finish(*id, now);
                }
            }
            // A table that no service names is nothing yet.
            _ => {}
        }
    }

    /// The operation failed, and nobody knows whether it happened. The rest of its plan must not be carried out.
    pub fn fail(&mut self, step: &Step) {
        match (&step.op, &step.what) {
            (Op::PutBackend { index, slot }, What::Backend { id }) => {
                let place = (slot.family(), *index);
                if self.reserved_backends.remove(&place) {
                    self.strays.insert(place);
                } else {
                    self.set_slot(*id, *index, slot, None);
                }
            }
            (Op::PutService { id, table }, _) => {
                let Some(entry) = self.entries.get_mut(id) else {
                    return;
                };
                let old = entry.table.take().and_then(|table| table.block);
                let new = Block::of(*table).filter(|block| self.reserved_blocks.remove(block));
                entry.maybe.extend(old.into_iter().chain(new));
                self.dirty.extend(entry.key.clone());
            }
            (
                Op::PutFrontend {
                    frontend, service, ..
                },
                _,
            ) => {
                if let Some(entry) = self.entries.get_mut(service) {
                    entry.frontends.insert(*frontend);
                }
                self.doubt(*frontend);
            }
            (Op::DeleteFrontend { frontend }, _) => self.doubt(*frontend),
            (Op::PutRange { service, range } | Op::DeleteRange { service, range }, _) => {
                self.hold_range(*service, *range, false);
                let entry = self.entries.get(service);
                self.dirty.extend(entry.and_then(|entry| entry.key.clone()));
            }
            (Op::PutAddress { addr, .. } | Op::DeleteAddress { addr }, _) => {
                let wanted_by = self.addresses.doubt(*addr);
                self.dirty.extend(wanted_by);
            }
            (Op::FreeBackend { family, index, .. }, What::Free { owner }) => {
                self.disown(*family, *index, owner.as_ref());
                self.strays.insert((*family, *index));
            }
            _ => {}
        }
    }

    /// An identifier that was to be taken out of use is free once nothing of it is left.
    pub(super) fn finish(&mut self, id: u32, now: Instant) {
        if self.doomed.contains(&id) && self.entries.get(&id).is_none_or(super::ledger::Entry::is_gone) {
            self.doomed.remove(&id);
            self.entries.remove(&id);
            self.ids.retire(id, now);
            self.meters.retire(id, now);
        }
    }

    fn set_slot(&mut self, id: u32, index: u32, slot: &BackendSlot, marks: Option<Marks>) {
        if let Some(entry) = self.entries.get_mut(&id) {
            let endpoint = EndpointAddr {
                addr: slot.addr,
                port: slot.port,
            };
            entry.slots.insert(
                endpoint,
                Slot {
                    marks,
                    ..Slot::found(index, slot)
                },
            );
        }
    }

    fn service_put(&mut self, id: u32, block: Option<Block>, content: &Table, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let old = entry.table.replace(content.clone()).and_then(|table| table.block);
        let freed: Vec<Block> = entry.maybe.drain(..).chain(old).collect();
        entry.served = true;
        if let Some(block) = block {
            self.reserved_blocks.remove(&block);
        }
        for block in freed {
            self.space.retire(block, now);
        }
        self.finish(id, now);
    }

    fn disown(&mut self, family: Family, index: u32, owner: Option<&(u32, EndpointAddr)>) {
        match owner {
            Some((id, endpoint)) => {
                if let Some(entry) = self.entries.get_mut(id) {
                    entry.slots.remove(endpoint);
                }
            }
            None => {
                self.strays.remove(&(family, index));
            }
        }
    }

    /// The frontend leads nowhere any more.
    pub(super) fn unlink(&mut self, frontend: &FrontendAddr, now: Instant) {
        let led_to: BTreeSet<u32> = match self.frontends.get(frontend) {
            None => BTreeSet::new(),
            Some(Record::Known { service, .. }) => BTreeSet::from([*service]),
            Some(Record::Unsure) => self.entries.keys().copied().collect(),
        };
        self.loose.remove(frontend);
        if self.frontends.remove(frontend).is_some() {
            self.frontends_by_family[frontend.family() as usize] -= 1;
        }
        for id in led_to {
            let entry = self.entries.get_mut(&id);
            let Some(entry) = entry.filter(|entry| entry.frontends.contains(frontend)) else {
                continue;
            };
            entry.frontends.remove(frontend);
            // Its ranges may have stayed for this frontend alone.
            if !entry.ranges.is_empty() {
                self.dirty.extend(entry.key.clone());
            }
            self.finish(id, now);
        }
    }

    pub(super) fn set_record(&mut self, frontend: FrontendAddr, record: Record) {
        if self.frontends.insert(frontend, record).is_none() {
            self.frontends_by_family[frontend.family() as usize] += 1;
        }
    }

    /// It is not known where the frontend leads.
    fn doubt(&mut self, frontend: FrontendAddr) {
        self.set_record(frontend, Record::Unsure);
        self.loose.insert(frontend);
        self.dirty.extend(self.wanted_frontends.get(&frontend).cloned());
    }
}
