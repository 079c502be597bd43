//! A hash map that is walked through in small steps.

use std::{os::fd::AsFd as _, path::Path};

use aya::{
    Pod,
    maps::{HashMap, IterableMap as _, Map, MapData, MapError},
};

use super::FlowsError;
use crate::sys::{Place, Steps};

/// Elements, and where to go on; none at the end.
type Step<K, V> = (Vec<(K, V)>, Option<Place>);

/// An LRU map that is pinned.
pub(super) struct Table<K: Pod, V: Pod> {
    pub(super) name: &'static str,
    pub(super) capacity: u32,
    map: HashMap<MapData, K, V>,
    steps: Steps<K, V>,
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Opens the map of that name in the folder of pinned maps. `key` and `value` are any of theirs.
    pub(super) fn open(maps: &Path, name: &'static str, key: K, value: V) -> Result<Self, FlowsError> {
        let failed = |source| FlowsError::Map { name, source };
        let data = MapData::from_pin(maps.join(name)).map_err(failed)?;
        let info = data.info().map_err(failed)?;
        let sizes = (info.key_size() as usize, info.value_size() as usize);
        if sizes != (size_of::<K>(), size_of::<V>()) {
            return Err(FlowsError::Layout { name });
        }
        let capacity = info.max_entries();
        let map = HashMap::try_from(Map::LruHashMap(data)).map_err(failed)?;
        Ok(Self {
            name,
            capacity,
            map,
            steps: Steps::new(key, value),
        })
    }

    /// Some of the elements behind `after`.
    pub(super) fn step(&mut self, after: Option<Place>) -> Result<Step<K, V>, FlowsError> {
        let name = self.name;
        let read = self.steps.step(self.map.map().fd().as_fd(), after);
        let (read, next) = read.map_err(|source| FlowsError::Read { name, source })?;
        Ok((read.collect(), next))
    }

    /// The value of a key. Looking does not keep it from being evicted.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        self.map.get(key, 0).ok()
    }

    /// Removes an element; true if it was there.
    pub(super) fn remove(&mut self, key: &K) -> Result<bool, FlowsError> {
        match self.map.remove(key) {
            Ok(()) => Ok(true),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
                Ok(false)
            }
            Err(source) => Err(FlowsError::Map {
                name: self.name,
                source,
            }),
        }
    }
}
