//! MAGLEV: the tables of all services.
//!
//! The map can be some hundred megabytes large. A table is written and read through a mapping of its own pages, which is gone
//! afterwards: a mapping of the whole map would count as the agent's memory.

use aya::maps::{Map, MapData};
use lb_common::abi::{TableRef, map};

use super::{ApplyError, array};
use crate::sys::MappedArray;

/// The map.
pub(super) struct Tables {
    data: MapData,
    slots: usize,
}

impl Tables {
    pub(super) fn new(map: Map) -> Result<Self, ApplyError> {
        let (data, elements) = array(map, map::MAGLEV)?;
        // An element is two slots.
        let slots = 2 * elements;
        Ok(Self { data, slots })
    }

    /// Writes slots from `offset` on, each by one store.
    pub(super) fn write(&self, offset: u32, slots: &[u32]) -> Result<(), ApplyError> {
        let Some(window) = self.window(offset, slots.len())? else {
            return Err(ApplyError::NoElement {
                name: map::MAGLEV,
                index: offset.saturating_add(u32::try_from(slots.len()).unwrap_or(u32::MAX)),
            });
        };
        for (index, backend) in (0..).zip(slots) {
            window.set(index, *backend).ok_or(ApplyError::NoElement {
                name: map::MAGLEV,
                index: offset + index,
            })?;
        }
        Ok(())
    }

    /// The slots of a service's tables; none if it has none, or they reach out of the map.
    pub(super) fn read(&self, table: TableRef) -> Result<Option<Vec<u32>>, ApplyError> {
        let total = table.total();
        let window = self.window(table.offset(), total as usize)?;
        Ok(window.and_then(|window| (0..total).map(|slot| window.get(slot)).collect()))
    }

    /// Some slots in a row; none if there are none, or not all of them.
    fn window(&self, offset: u32, len: usize) -> Result<Option<MappedArray<u32>>, ApplyError> {
        let first = offset as usize;
        let is_inside = first.checked_add(len).is_some_and(|end| end <= self.slots);
        if len == 0 || !is_inside {
            return Ok(None);
        }
        let window = MappedArray::part(self.data.fd(), first, len);
        window.map(Some).map_err(|source| ApplyError::Mmap {
            name: map::MAGLEV,
            source,
        })
    }
}
