//! Backends, and the set of their addresses.
//!
//! Several slots of BACKENDS can hold one endpoint: one for each service port. ENDPOINTS holds its address as long as one
//! of them does, so that the kernel programs know what is sent to an endpoint directly.

use std::{collections::HashMap as Counts, net::IpAddr};

use aya::{
    Pod,
    maps::{HashMap, MapData},
};
use lb_common::abi::{Address, Either, FrontendKey, from_ip, map, port_to_wire, to_ip};

use super::{
    ApplyError, KernelMaps, V4, V6,
    bulk::write_all,
    encode::{backend, free_backend},
    failed, gone,
    known::Known,
    walk::{has, step},
};
use crate::{
    plan::{BackendSlot, Differences, Family, How, Snapshot, SnapshotBackend},
    sys::{Place, Steps},
};

/// How many slots are taken in at once when the agent starts.
const MOST: usize = 4_096;

/// ENDPOINTS4 and ENDPOINTS6.
pub(super) struct Endpoints {
    pub(super) v4: OfFamily<V4>,
    pub(super) v6: OfFamily<V6>,
}

/// That of one family.
pub(super) struct OfFamily<A> {
    name: &'static str,
    map: HashMap<MapData, FrontendKey<A>, u32>,
    /// The endpoint that each slot of BACKENDS holds, up to the last that held one.
    by_index: Vec<Option<FrontendKey<A>>>,
    /// How many slots hold an endpoint.
    slots: Counts<FrontendKey<A>, u32>,
}

impl Endpoints {
    pub(super) fn new(
        v4: HashMap<MapData, FrontendKey<V4>, u32>,
        v6: HashMap<MapData, FrontendKey<V6>, u32>,
    ) -> Self {
        Self {
            v4: OfFamily::new(map::ENDPOINTS4, v4),
            v6: OfFamily::new(map::ENDPOINTS6, v6),
        }
    }
}

impl<A> OfFamily<A>
where
    A: Address + Default + Eq + std::hash::Hash + 'static,
    FrontendKey<A>: Pod,
{
    fn new(name: &'static str, map: HashMap<MapData, FrontendKey<A>, u32>) -> Self {
        Self {
            name,
            map,
            by_index: Vec::new(),
            slots: Counts::new(),
        }
    }

    /// Slots are about to hold these.
    fn put_all(&mut self, puts: impl Iterator<Item = (u32, FrontendKey<A>)>) -> Result<(), ApplyError> {
        let puts: Vec<_> = puts
            .filter(|(index, key)| self.held(*index) != Some(*key))
            .collect();
        for (index, _) in &puts {
            self.free(*index)?;
        }
        let mut news: Vec<_> = puts.iter().map(|(_, key)| *key).collect();
        news.retain(|key| !self.slots.contains_key(key));
        write_all(&self.map, self.name, news.into_iter().map(|key| (key, 0)))?;
        puts.into_iter().for_each(|(index, key)| self.note(index, key));
        Ok(())
    }

    /// What a slot holds.
    fn held(&self, index: u32) -> Option<FrontendKey<A>> {
        self.by_index.get(index as usize).copied().flatten()
    }

    /// A slot holds `key`, which is in the map.
    fn note(&mut self, index: u32, key: FrontendKey<A>) {
        *self.slots.entry(key).or_default() += 1;
        let index = index as usize;
        if self.by_index.len() <= index {
            self.by_index.resize(index + 1, None);
        }
        self.by_index[index] = Some(key);
    }

    /// A slot holds nothing any more.
    fn free(&mut self, index: u32) -> Result<(), ApplyError> {
        let Some(key) = self.held(index) else {
            return Ok(());
        };
        if self.slots.get(&key) == Some(&1) {
            gone(self.map.remove(&key), self.name)?;
        }
        self.by_index[index as usize] = None;
        if let Some(slots) = self.slots.get_mut(&key) {
            *slots -= 1;
            if *slots == 0 {
                self.slots.remove(&key);
            }
        }
        Ok(())
    }

    /// Removes what no slot holds: an agent that was killed left it.
    fn sweep(&mut self) -> Result<(), ApplyError> {
        let (mut found, mut after) = (Differences::default(), None);
        loop {
            after = self.remove_strays(after, &mut found)?;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Puts back endpoints that are not there any more, and the bits of their addresses, of those that `most` slots from
    /// `from` on hold. Returns where to go on.
    pub(super) fn mend(
        &mut self,
        from: usize,
        most: usize,
        known: &Known,
        found: &mut Differences,
    ) -> Result<Option<usize>, ApplyError> {
        let next = from.saturating_add(most).min(self.by_index.len());
        let held = self.by_index.get(from..next).unwrap_or_default();
        for key in held.iter().flatten() {
            if known.mend(key.addr)? {
                found.note(map::KNOWN, How::Lost);
            }
            if !has(&self.map, self.name, key)? {
                self.map.insert(key, 0, 0).map_err(failed("write", self.name))?;
                found.note(self.name, How::Lost);
            }
        }
        Ok((next < self.by_index.len()).then_some(next))
    }

    /// Removes what no slot holds, of the elements of one step behind `after`. Returns where to go on.
    pub(super) fn remove_strays(
        &mut self,
        after: Option<Place>,
        found: &mut Differences,
    ) -> Result<Option<Place>, ApplyError> {
        let mut steps = Steps::new(FrontendKey::default(), 0u32);
        let (elements, next) = step(&mut steps, &self.map, self.name, after)?;
        let strays = elements
            .map(|(key, _)| key)
            .filter(|key| !self.slots.contains_key(key));
        for key in strays.collect::<Vec<_>>() {
            gone(self.map.remove(&key), self.name)?;
            found.note(self.name, How::Added);
        }
        Ok(next)
    }
}

/// What ENDPOINTS holds for a slot whose endpoint has that address.
fn key<A>(addr: A, slot: &BackendSlot) -> FrontendKey<A> {
    FrontendKey::new(addr, port_to_wire(slot.port), slot.protocol.number())
}

impl KernelMaps {
    /// Brings the set of endpoints, and of known addresses, to what a snapshot of the maps says.
    ///
    /// # Errors
    ///
    /// If a map cannot be read or written.
    pub fn adopt_endpoints(&mut self, snapshot: &Snapshot) -> Result<(), ApplyError> {
        let in_use: Vec<(u32, &BackendSlot)> = snapshot
            .backends
            .iter()
            .filter_map(|((_, index), held)| match held {
                SnapshotBackend::InUse(slot) => Some((*index, slot)),
                SnapshotBackend::Free { .. } => None,
            })
            .collect();
        in_use
            .chunks(MOST)
            .try_for_each(|slots| self.endpoints.put_all(slots))?;
        self.endpoints.v4.sweep()?;
        self.endpoints.v6.sweep()?;
        self.learn_addresses()
    }

    /// Writes slots by a few system calls. Their endpoints are known before the first flow can go there.
    pub(super) fn put_backends(&mut self, puts: &[(u32, &BackendSlot)]) -> Result<(), ApplyError> {
        for (_, slot) in puts {
            self.known.add(slot.addr)?;
        }
        self.endpoints.put_all(puts)?;
        let v4 = puts
            .iter()
            .filter_map(|(index, slot)| Some((*index, backend(from_ip(slot.addr).v4()?, slot))));
        write_all(&self.backends4, map::BACKENDS4, v4)?;
        let v6 = puts
            .iter()
            .filter_map(|(index, slot)| Some((*index, backend(from_ip(slot.addr).v6()?, slot))));
        write_all(&self.backends6, map::BACKENDS6, v6)
    }

    /// Takes a slot out of use.
    pub(super) fn free_backend(
        &mut self,
        family: Family,
        index: u32,
        generation: u32,
    ) -> Result<(), ApplyError> {
        match family {
            Family::V4 => {
                self.backends4
                    .set(index, free_backend::<V4>(generation), 0)
                    .map_err(failed("write", map::BACKENDS4))?;
                self.endpoints.v4.free(index)?;
            }
            Family::V6 => {
                self.backends6
                    .set(index, free_backend::<V6>(generation), 0)
                    .map_err(failed("write", map::BACKENDS6))?;
                self.endpoints.v6.free(index)?;
            }
        }
        self.note_gone()
    }
}

impl Endpoints {
    /// The addresses of all endpoints, some of them more than once.
    pub(super) fn for_each_address(&self, mut visit: impl FnMut(IpAddr)) {
        for key in self.v4.slots.keys() {
            visit(to_ip(Either::V4(key.addr)));
        }
        for key in self.v6.slots.keys() {
            visit(to_ip(Either::V6(key.addr)));
        }
    }

    /// Slots are about to hold these.
    fn put_all(&mut self, puts: &[(u32, &BackendSlot)]) -> Result<(), ApplyError> {
        let v4 = puts
            .iter()
            .filter_map(|(index, slot)| Some((*index, key(from_ip(slot.addr).v4()?, slot))));
        self.v4.put_all(v4)?;
        let v6 = puts
            .iter()
            .filter_map(|(index, slot)| Some((*index, key(from_ip(slot.addr).v6()?, slot))));
        self.v6.put_all(v6)
    }
}
