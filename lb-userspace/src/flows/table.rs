//! A hash map that is walked through in small steps.

use std::{io, os::fd::AsFd as _, path::Path};

use aya::{
    Pod,
    maps::{HashMap, IterableMap as _, Map, MapData, MapError},
};

use super::FlowsError;
use crate::sys::{self, Place};

/// Elements that a step begins with room for. A bucket of the kernel's table holds one or two.
const ROOM: usize = 1_024;

/// Elements, and where to go on; none at the end.
type Step<K, V> = (Vec<(K, V)>, Option<Place>);

/// An LRU map that is pinned.
pub(super) struct Table<K: Pod, V: Pod> {
    pub(super) name: &'static str,
    pub(super) capacity: u32,
    map: HashMap<MapData, K, V>,
    keys: Vec<K>,
    values: Vec<V>,
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
            keys: vec![key; ROOM],
            values: vec![value; ROOM],
        })
    }

    /// Some of the elements behind `after`.
    pub(super) fn step(&mut self, after: Option<Place>) -> Result<Step<K, V>, FlowsError> {
        loop {
            let fd = self.map.map().fd().as_fd();
            match sys::lookup_batch(fd, after, &mut self.keys, &mut self.values) {
                Ok((count, next)) => {
                    let read = self.keys.iter().zip(&self.values).take(count);
                    return Ok((read.map(|(key, value)| (*key, *value)).collect(), next));
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    let room = self.keys.len() * 2;
                    let (key, value) = (self.keys[0], self.values[0]);
                    self.keys.resize(room, key);
                    self.values.resize(room, value);
                }
                Err(source) => return Err(self.failed(source)),
            }
        }
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

    fn failed(&self, source: io::Error) -> FlowsError {
        FlowsError::Read {
            name: self.name,
            source,
        }
    }
}
