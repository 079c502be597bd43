//! Reads back what the maps hold, for an agent that starts over a dataplane that runs.

use std::collections::BTreeMap;

use ipnet::IpNet;
use lb_common::abi::{Either, Frontend, FrontendKey, FrontendKind, Range, TableRef, map, to_ip};

use super::{
    ApplyError, KernelMaps,
    encode::{decode_backend, decode_frontend, decode_frontend_value, decode_range},
    failed,
    walk::for_each,
};
use crate::plan::{Family, Snapshot};

impl KernelMaps {
    /// The slots that a service's table has in MAGLEV; none if it is empty or does not lie inside.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn table(&self, table: TableRef) -> Result<Option<Vec<u32>>, ApplyError> {
        self.tables.read(table)
    }

    /// What the maps hold, without the tables.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot, ApplyError> {
        let mut snapshot = Snapshot::default();
        for family in Family::ALL {
            self.read_frontends(family, &mut snapshot)?;
        }
        for (index, entry) in (0..).zip(self.backends4.iter()) {
            let value = entry.map_err(failed("read", map::BACKENDS4))?;
            if let Some(backend) = decode_backend(value, Either::V4) {
                snapshot.backends.insert((Family::V4, index), backend);
            }
        }
        for (index, entry) in (0..).zip(self.backends6.iter()) {
            let value = entry.map_err(failed("read", map::BACKENDS6))?;
            if let Some(backend) = decode_backend(value, Either::V6) {
                snapshot.backends.insert((Family::V6, index), backend);
            }
        }
        self.read_ranges(&mut snapshot)?;
        self.read_services(&mut snapshot);
        Ok(snapshot)
    }

    /// The frontends and addresses of a family.
    fn read_frontends(&self, family: Family, snapshot: &mut Snapshot) -> Result<(), ApplyError> {
        match family {
            Family::V4 => for_each(&self.frontends4, map::FRONTENDS4, |key, value| {
                note_frontend(snapshot, key, value, Either::V4);
            }),
            Family::V6 => for_each(&self.frontends6, map::FRONTENDS6, |key, value| {
                note_frontend(snapshot, key, value, Either::V6);
            }),
        }
    }

    pub(super) fn read_ranges(&self, snapshot: &mut Snapshot) -> Result<(), ApplyError> {
        let mut add = |service: u32, range: Option<IpNet>| {
            snapshot.ranges.entry(service).or_default().extend(range);
        };
        for key in self.ranges4.keys() {
            let key = key.map_err(failed("read", map::RANGES4))?;
            let Range { service, client } = key.data();
            add(service, decode_range(key.prefix_len(), Either::V4(client)));
        }
        for key in self.ranges6.keys() {
            let key = key.map_err(failed("read", map::RANGES6))?;
            let Range { service, client } = key.data();
            add(service, decode_range(key.prefix_len(), Either::V6(client)));
        }
        Ok(())
    }

    /// The services that frontends name, and what else is not empty: leftovers of an agent that was
    /// killed between two operations.
    fn read_services(&self, snapshot: &mut Snapshot) {
        let mut services = BTreeMap::new();
        for frontend in snapshot.frontends.values() {
            if let Some(word) = self.services.get(frontend.service) {
                services.insert(frontend.service, TableRef(word));
            }
        }
        for id in 0..u32::try_from(self.services.len()).unwrap_or(u32::MAX) {
            match self.services.get(id).map(TableRef) {
                Some(table) if table != TableRef::EMPTY => services.entry(id).or_insert(table),
                _ => continue,
            };
        }
        snapshot.services = services;
    }
}

/// Takes in an element of FRONTENDS.
pub(super) fn note_frontend<A: Copy>(
    snapshot: &mut Snapshot,
    key: FrontendKey<A>,
    value: Frontend,
    either: impl Fn(A) -> Either,
) {
    if key.is_address() {
        let addr = to_ip(either(key.addr));
        let kind = FrontendKind::from_number(value.kind);
        snapshot.addresses.insert(addr, kind);
    } else if let Some(frontend) = decode_frontend(key, either) {
        snapshot.frontends.insert(frontend, decode_frontend_value(value));
    }
}
