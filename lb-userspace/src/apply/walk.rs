//! Reading hash maps: element by element, or all of them by few system calls.

use std::{io, os::fd::AsFd as _};

use aya::{
    Pod,
    maps::{HashMap, IterableMap, MapData, MapError},
    sys::SyscallError,
};

use super::{ApplyError, failed};
use crate::sys::{Place, Steps};

/// Whether a map has an element.
pub(super) fn has<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    name: &'static str,
    key: &K,
) -> Result<bool, ApplyError> {
    match map.get(key, 0) {
        Ok(_) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(source) => Err(failed("read", name)(source)),
    }
}

/// Shows all elements of a hash map.
pub(super) fn for_each<K: Pod + Default, V: Pod + Default>(
    map: &impl IterableMap<K, V>,
    name: &'static str,
    mut visit: impl FnMut(K, V),
) -> Result<(), ApplyError> {
    let mut steps = Steps::new(K::default(), V::default());
    let mut after = None;
    loop {
        let (elements, next) = step(&mut steps, map, name, after)?;
        elements.for_each(|(key, value)| visit(key, value));
        if next.is_none() {
            return Ok(());
        }
        after = next;
    }
}

/// Some elements of a hash map behind `after`, and where to go on.
pub(super) fn step<K: Pod, V: Pod>(
    steps: &mut Steps<K, V>,
    map: &impl IterableMap<K, V>,
    name: &'static str,
    after: Option<Place>,
) -> Result<(impl Iterator<Item = (K, V)>, Option<Place>), ApplyError> {
    let data: &MapData = map.map();
    steps.step(data.fd().as_fd(), after).map_err(unread(name))
}

/// The error of a walk.
pub(super) fn unread(name: &'static str) -> impl FnOnce(io::Error) -> ApplyError {
    move |io_error| {
        let call = "bpf_map_lookup_batch";
        failed("read", name)(MapError::from(SyscallError { call, io_error }))
    }
}
