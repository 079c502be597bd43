//! What somebody else may do to the kernel's maps.

use ipnet::IpNet;
use proptest::prelude::*;

use super::{addr, model::Model};
use crate::plan::{Family, FrontendAddr, FrontendKind, SnapshotBackend, TableRef};

/// One thing that is changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Damage {
    what: What,
    /// Which of those that there are.
    which: usize,
    /// What with.
    value: u32,
}

#[derive(Clone, Copy, Debug)]
enum What {
    MoveFrontend,
    RemoveFrontend,
    AddFrontend,
    RemoveAddress,
    AddAddress,
    WriteService,
    EmptyService,
    WriteSlot,
    FreeBackend,
    RemoveBackend,
    CopyBackend,
    RemoveRange,
    AddRange,
}

const ALL: [What; 13] = [
    What::MoveFrontend,
    What::RemoveFrontend,
    What::AddFrontend,
    What::RemoveAddress,
    What::AddAddress,
    What::WriteService,
    What::EmptyService,
    What::WriteSlot,
    What::FreeBackend,
    What::RemoveBackend,
    What::CopyBackend,
    What::RemoveRange,
    What::AddRange,
];

/// Some of it.
pub(super) fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let what = prop::sample::select(ALL.to_vec());
    let one = (what, any::<usize>(), any::<u32>());
    let one = one.prop_map(|(what, which, value)| Damage { what, which, value });
    prop::collection::vec(one, 1..6)
}

impl Damage {
    /// Does it. The rules are broken from now on.
    pub(super) fn strike(self, model: &mut Model) {
        model.strict = false;
        match self.what {
            What::MoveFrontend | What::RemoveFrontend | What::AddFrontend => self.strike_frontend(model),
            What::RemoveAddress => {
                let addr = self.one_of(model.addresses.keys().copied());
                addr.map(|addr| model.addresses.remove(&addr));
            }
            What::AddAddress => {
                let addr = addr(self.family(), 0, (self.value % 9) as u8);
                model.addresses.insert(addr, FrontendKind::NodePort);
            }
            What::WriteService | What::EmptyService => self.strike_service(model),
            What::WriteSlot => {
                let tables = model.services.values().copied();
                let table = self.one_of(tables.filter(|table| table.size() > 0));
                let at = table.map(|table| table.offset() + self.value % table.size());
                if let Some(slot) = at.and_then(|at| model.maglev.get_mut(at as usize)) {
                    *slot = self.value % 10;
                }
            }
            What::FreeBackend | What::RemoveBackend | What::CopyBackend => self.strike_backend(model),
            What::RemoveRange => {
                let ranges = model.ranges.iter();
                let ranges = ranges.flat_map(|(id, ranges)| ranges.iter().map(|range| (*id, *range)));
                if let Some((id, range)) = self.one_of(ranges) {
                    model.ranges.entry(id).or_default().remove(&range);
                    model.ranges.retain(|_, ranges| !ranges.is_empty());
                }
            }
            What::AddRange => {
                let addr = addr(self.family(), 8, (self.value % 7) as u8);
                let range = IpNet::new(addr, 24)
                    .expect("a length that both families have")
                    .trunc();
                model.ranges.entry(self.value % 20).or_default().insert(range);
            }
        }
    }

    fn strike_frontend(self, model: &mut Model) {
        let Some(frontend) = self.one_of(model.frontends.keys().copied()) else {
            return;
        };
        let place = (self.value % 20, FrontendKind::NodePort);
        match self.what {
            What::RemoveFrontend => {
                model.frontends.remove(&frontend);
                model.flags.remove(&frontend);
                model.meters.remove(&frontend);
            }
            What::AddFrontend => {
                let port = 81 + (self.value % 3) as u16;
                let added = FrontendAddr { port, ..frontend };
                model.frontends.insert(added, place);
            }
            _ => {
                model.frontends.insert(frontend, place);
            }
        }
    }

    fn strike_service(self, model: &mut Model) {
        let table = match self.what {
            What::EmptyService => TableRef::EMPTY,
            _ => {
                let size = [0, 1, 3, 256, 1 << 20][self.value as usize % 5];
                TableRef::new(self.value % model.maglev.len() as u32, size)
            }
        };
        if let Some(id) = self.one_of(model.services.keys().copied()) {
            model.services.insert(id, table);
        }
    }

    fn strike_backend(self, model: &mut Model) {
        let Some(place) = self.one_of(model.backends.keys().copied()) else {
            return;
        };
        match self.what {
            What::FreeBackend => {
                let generation = self.value;
                model.backends.insert(place, SnapshotBackend::Free { generation });
            }
            What::RemoveBackend => {
                model.backends.remove(&place);
            }
            _ => {
                if let SnapshotBackend::InUse(slot) = model.backends[&place] {
                    let copy = (place.0, self.value % 30);
                    model.backends.insert(copy, SnapshotBackend::InUse(slot));
                }
            }
        }
    }

    fn one_of<T>(self, all: impl Iterator<Item = T>) -> Option<T> {
        let mut all: Vec<T> = all.collect();
        let at = self.which.checked_rem(all.len())?;
        Some(all.swap_remove(at))
    }

    fn family(self) -> Family {
        Family::ALL[self.which % 2]
    }
}
