//! Backends, and the set of their addresses.
//!
//! Several slots of BACKENDS can hold one endpoint: one for each service port. ENDPOINTS holds its address as long as one
//! of them does, so that the kernel programs know what is sent to an endpoint directly.

use std::{collections::HashMap as Counts, net::IpAddr};

use aya::{
    Pod,
    maps::{HashMap, MapData},
};
use lb_common::abi::{Either, FrontendKey, from_ip, map, port_to_wire, to_ip};

use super::{
    ApplyError, KernelMaps, V4, V6,
    encode::{backend, free_backend},
    failed, gone,
};
use crate::plan::{BackendSlot, Family, Snapshot, SnapshotBackend};

/// ENDPOINTS4 and ENDPOINTS6.
pub(super) struct Endpoints {
    v4: OfFamily<V4>,
    v6: OfFamily<V6>,
}

struct OfFamily<A> {
    name: &'static str,
    map: HashMap<MapData, FrontendKey<A>, u32>,
    /// The endpoint that a slot of BACKENDS holds.
    by_index: Counts<u32, FrontendKey<A>>,
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
    A: Copy + Eq + std::hash::Hash + 'static,
    FrontendKey<A>: Pod,
{
    fn new(name: &'static str, map: HashMap<MapData, FrontendKey<A>, u32>) -> Self {
        Self {
            name,
            map,
            by_index: Counts::new(),
            slots: Counts::new(),
        }
    }

    /// A slot is about to hold `key`.
    fn put(&mut self, index: u32, key: FrontendKey<A>) -> Result<(), ApplyError> {
        if self.by_index.get(&index) == Some(&key) {
            return Ok(());
        }
        self.free(index)?;
        if !self.slots.contains_key(&key) {
            self.map.insert(key, 0, 0).map_err(failed("write", self.name))?;
        }
        *self.slots.entry(key).or_default() += 1;
        self.by_index.insert(index, key);
        Ok(())
    }

    /// A slot holds nothing any more.
    fn free(&mut self, index: u32) -> Result<(), ApplyError> {
        let Some(key) = self.by_index.get(&index).copied() else {
            return Ok(());
        };
        if self.slots.get(&key) == Some(&1) {
            gone(self.map.remove(&key), self.name)?;
        }
        self.by_index.remove(&index);
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
        let present: Vec<_> = self
            .map
            .keys()
            .collect::<Result<_, _>>()
            .map_err(failed("read", self.name))?;
        for key in present.iter().filter(|key| !self.slots.contains_key(key)) {
            gone(self.map.remove(key), self.name)?;
        }
        Ok(())
    }
}

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
        for ((_, index), held) in &snapshot.backends {
            if let SnapshotBackend::InUse(slot) = held {
                self.endpoints.put(*index, slot)?;
            }
        }
        self.endpoints.v4.sweep()?;
        self.endpoints.v6.sweep()?;
        self.learn_addresses()
    }

    /// Writes a slot. Its endpoint is known before the first flow can go there.
    pub(super) fn put_backend(&mut self, index: u32, slot: &BackendSlot) -> Result<(), ApplyError> {
        self.known.add(slot.addr)?;
        self.endpoints.put(index, slot)?;
        match from_ip(slot.addr) {
            Either::V4(addr) => self
                .backends4
                .set(index, backend(addr, slot), 0)
                .map_err(failed("write", map::BACKENDS4)),
            Either::V6(addr) => self
                .backends6
                .set(index, backend(addr, slot), 0)
                .map_err(failed("write", map::BACKENDS6)),
        }
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

    fn put(&mut self, index: u32, slot: &BackendSlot) -> Result<(), ApplyError> {
        match from_ip(slot.addr) {
            Either::V4(addr) => self.v4.put(index, key(addr, slot)),
            Either::V6(addr) => self.v6.put(index, key(addr, slot)),
        }
    }
}
