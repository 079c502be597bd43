//! What only the kernel knows: packets by reason and by Service, and how full the maps are.

use std::{
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aya::{
    Pod,
    maps::{Map, MapData, PerCpuArray},
};
use lb_common::abi::{
    Affinity, AffinityKey, Fragment, FragmentKey, Frontend, FrontendKey, Meter, SocketKey, SocketPeer,
    Traffic, map,
};
use tracing::debug;

use super::Metrics;
use crate::{
    apply::{read_counters, read_meter},
    status::{StatusError, ranges},
    sys,
};

type V4 = u32;
type V6 = [u32; 4];

/// Reading is worth that long: whoever asks more often gets the same again.
const FRESH: Duration = Duration::from_secs(10);

/// Elements that are read at a time; a bucket of the kernel's table holds one or two.
const BATCH: usize = 1_024;

/// The pinned maps.
pub(crate) struct Kernel {
    maps: PathBuf,
    counters: PerCpuArray<MapData, Traffic>,
    meters: PerCpuArray<MapData, Meter>,
    read: Option<Instant>,
}

impl Kernel {
    /// Opens the maps that are pinned in `maps`.
    ///
    /// # Errors
    ///
    /// If the maps of counters cannot be opened.
    pub(crate) fn open(maps: &Path) -> Result<Self, StatusError> {
        Ok(Self {
            maps: maps.to_owned(),
            counters: of_cpus(maps, map::COUNTERS)?,
            meters: of_cpus(maps, map::METERS)?,
            read: None,
        })
    }

    /// Brings the metrics to what the kernel says, unless that was done a moment ago. Takes milliseconds where maps are
    /// full.
    pub(crate) fn read(&mut self, metrics: &Metrics, now: Instant) {
        if self
            .read
            .is_some_and(|read| now.saturating_duration_since(read) < FRESH)
        {
            return;
        }
        self.read = Some(now);
        match read_counters(&self.counters) {
            Ok(counted) => metrics.own.set_packets(&counted),
            Err(failure) => debug!("{failure}"),
        }
        if let Err(failure) = metrics.services.read(|number| read_meter(&self.meters, number)) {
            debug!("{failure}");
        }
        if let Err(failure) = self.count(metrics) {
            debug!("{failure}");
        }
    }

    fn count(&self, metrics: &Metrics) -> Result<(), StatusError> {
        macro_rules! count {
            ($($name:ident: $key:ty => $value:ty),* $(,)?) => {$(
                let (used, capacity) =
                    entries::<[u8; size_of::<$key>()], [u8; size_of::<$value>()]>(&self.maps, map::$name)?;
                metrics.own.set_map(map::$name, used, capacity);
            )*};
        }
        count! {
            FRONTENDS4: FrontendKey<V4> => Frontend,
            FRONTENDS6: FrontendKey<V6> => Frontend,
            ENDPOINTS4: FrontendKey<V4> => u32,
            ENDPOINTS6: FrontendKey<V6> => u32,
            SOCKETS4: SocketKey<V4> => SocketPeer<V4>,
            SOCKETS6: SocketKey<V6> => SocketPeer<V6>,
            AFFINITY4: AffinityKey<V4> => Affinity,
            AFFINITY6: AffinityKey<V6> => Affinity,
            FRAGMENTS4: FragmentKey<V4> => Fragment<V4>,
            FRAGMENTS6: FragmentKey<V6> => Fragment<V6>,
        }
        for (name, entries, capacity) in ranges(&self.maps)? {
            metrics.own.set_map(name, entries, capacity);
        }
        Ok(())
    }
}

/// A pinned array with an element for each CPU.
fn of_cpus<V: Pod>(maps: &Path, name: &'static str) -> Result<PerCpuArray<MapData, V>, StatusError> {
    let failed = |source| StatusError::Map { name, source };
    let data = MapData::from_pin(maps.join(name)).map_err(failed)?;
    PerCpuArray::try_from(Map::PerCpuArray(data)).map_err(failed)
}

/// How many elements a hash map has, and how many it has room for. `K` and `V` are arrays of the bytes of its keys and values.
fn entries<K: Pod + Bytes, V: Pod + Bytes>(
    maps: &Path,
    name: &'static str,
) -> Result<(u64, u64), StatusError> {
    let failed = |source| StatusError::Map { name, source };
    let data = MapData::from_pin(maps.join(name)).map_err(failed)?;
    let info = data.info().map_err(failed)?;
    let unread = |source| StatusError::Mmap { name, source };
    if (info.key_size() as usize, info.value_size() as usize) != (size_of::<K>(), size_of::<V>()) {
        return Err(unread(io::Error::other("its elements have another size")));
    }
    let (mut keys, mut values) = (vec![K::ZERO; BATCH], vec![V::ZERO; BATCH]);
    let (mut entries, mut place) = (0, None);
    loop {
        match sys::lookup_batch(data.fd().as_fd(), place, &mut keys, &mut values) {
            Ok((count, next)) => {
                entries += count as u64;
                place = next;
                if place.is_none() {
                    return Ok((entries, info.max_entries().into()));
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                keys.resize(keys.len() * 2, K::ZERO);
                values.resize(values.len() * 2, V::ZERO);
            }
            Err(source) => return Err(unread(source)),
        }
    }
}

/// Bytes to read into.
trait Bytes: Copy {
    const ZERO: Self;
}

impl<const N: usize> Bytes for [u8; N] {
    const ZERO: Self = [0; N];
}
