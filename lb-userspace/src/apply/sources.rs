//! The node's addresses by device.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use aya::{
    Pod,
    maps::{HashMap, MapData},
};
use lb_common::abi::{Either, from_ip, map};

use super::{ApplyError, KernelMaps, failed};
use crate::plan::Family;

impl KernelMaps {
    /// Brings the sources of packets that the node sends out itself to what `wanted` says: by family and index of the
    /// device, 0 for devices without an address. What is there already is not written again.
    ///
    /// # Errors
    ///
    /// If a map cannot be read or written.
    pub fn set_sources(&mut self, wanted: &BTreeMap<(Family, u32), IpAddr>) -> Result<(), ApplyError> {
        let mut v4 = BTreeMap::new();
        let mut v6 = BTreeMap::new();
        for ((_, device), addr) in wanted {
            match from_ip(*addr) {
                Either::V4(addr) => drop(v4.insert(*device, addr)),
                Either::V6(addr) => drop(v6.insert(*device, addr)),
            }
        }
        bring(&mut self.sources4, map::SOURCES4, &v4)?;
        bring(&mut self.sources6, map::SOURCES6, &v6)
    }
}

/// Brings a map by device to what `wanted` says.
pub(super) fn bring<A: Pod + PartialEq>(
    map: &mut HashMap<MapData, u32, A>,
    name: &'static str,
    wanted: &BTreeMap<u32, A>,
) -> Result<(), ApplyError> {
    let present: BTreeSet<u32> = map
        .keys()
        .collect::<Result<_, _>>()
        .map_err(failed("read", name))?;
    for (device, addr) in wanted {
        if !map.get(device, 0).is_ok_and(|there| there == *addr) {
            map.insert(device, addr, 0).map_err(failed("write", name))?;
        }
    }
    for device in present {
        if !wanted.contains_key(&device) {
            map.remove(&device).map_err(failed("write", name))?;
        }
    }
    Ok(())
}
