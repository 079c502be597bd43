//! Carries out plans on the kernel's maps.

mod audit;
mod bulk;
mod encode;
mod endpoints;
mod known;
mod meters;
mod service_cidrs;
mod snapshot;
mod sources;
mod tables;
mod uplinks;
mod walk;

use std::io;

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray},
};
use lb_common::{
    abi::{
        Backend, Either, Frontend, FrontendKey, Meter, Range, Service, ServiceNets, Traffic, Uplink, from_ip,
        map,
    },
    verdict::Reason,
};
use thiserror::Error;
use tracing::debug;

pub use self::{audit::Derived, meters::read_meter};
use self::{
    encode::{frontend_key, range_key},
    endpoints::Endpoints,
    known::Known,
    tables::Tables,
};
use crate::{
    plan::{Dataplane, Op, Partial, one_by_one},
    sys::MappedArray,
};

type V4 = u32;
type V6 = [u32; 4];

/// Why a map operation failed.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The object has no such map, or one of another kind.
    #[error(
        "the object has no map {name} of the kind that this agent writes: it does not belong to this binary"
    )]
    NoMap {
        /// Name of the map.
        name: &'static str,
    },
    /// A map could not be mapped into memory.
    #[error("map {name} into memory: {source}")]
    Mmap {
        /// Name of the map.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("{action} map {name}: {source}")]
    Map {
        /// "write" or "read".
        action: &'static str,
        /// Name of the map.
        name: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// An index beyond the map: a defect of the planner.
    #[error("map {name} has no element {index}")]
    NoElement {
        /// Name of the map.
        name: &'static str,
        /// The index.
        index: u32,
    },
}

/// The maps that the agent fills.
pub struct KernelMaps {
    frontends4: HashMap<MapData, FrontendKey<V4>, Frontend>,
    frontends6: HashMap<MapData, FrontendKey<V6>, Frontend>,
    backends4: Array<MapData, Backend<V4>>,
    backends6: Array<MapData, Backend<V6>>,
    endpoints: Endpoints,
    known: Known,
    services: MappedArray<u64>,
    tables: Tables,
    ranges4: LpmTrie<MapData, Range<V4>, u32>,
    ranges6: LpmTrie<MapData, Range<V6>, u32>,
    sources4: HashMap<MapData, u32, V4>,
    sources6: HashMap<MapData, u32, V6>,
    uplinks: HashMap<MapData, u32, Uplink>,
    cidrs4: Array<MapData, ServiceNets<u32>>,
    cidrs6: Array<MapData, ServiceNets<[u32; 4]>>,
    counters: PerCpuArray<MapData, Traffic>,
    meters: PerCpuArray<MapData, Meter>,
}

impl KernelMaps {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    ///
    /// [`ApplyError`] names the map that is missing or cannot be mapped.
    pub fn new(bpf: &mut Ebpf) -> Result<Self, ApplyError> {
        let services = take(bpf, map::SERVICES)?;
        Ok(Self {
            frontends4: typed(take(bpf, map::FRONTENDS4)?, map::FRONTENDS4)?,
            frontends6: typed(take(bpf, map::FRONTENDS6)?, map::FRONTENDS6)?,
            backends4: typed(take(bpf, map::BACKENDS4)?, map::BACKENDS4)?,
            backends6: typed(take(bpf, map::BACKENDS6)?, map::BACKENDS6)?,
            endpoints: Endpoints::new(
                typed(take(bpf, map::ENDPOINTS4)?, map::ENDPOINTS4)?,
                typed(take(bpf, map::ENDPOINTS6)?, map::ENDPOINTS6)?,
            ),
            known: Known::new(mapped::<u64, u64>(take(bpf, map::KNOWN)?, map::KNOWN, 1)?),
            services: mapped::<Service, u64>(services, map::SERVICES, 1)?,
            tables: Tables::new(take(bpf, map::MAGLEV)?)?,
            ranges4: typed(take(bpf, map::RANGES4)?, map::RANGES4)?,
            ranges6: typed(take(bpf, map::RANGES6)?, map::RANGES6)?,
            sources4: typed(take(bpf, map::SOURCES4)?, map::SOURCES4)?,
            sources6: typed(take(bpf, map::SOURCES6)?, map::SOURCES6)?,
            uplinks: typed(take(bpf, map::UPLINKS)?, map::UPLINKS)?,
            cidrs4: typed(take(bpf, map::CIDRS4)?, map::CIDRS4)?,
            cidrs6: typed(take(bpf, map::CIDRS6)?, map::CIDRS6)?,
            counters: typed(take(bpf, map::COUNTERS)?, map::COUNTERS)?,
            meters: typed(take(bpf, map::METERS)?, map::METERS)?,
        })
    }

    /// As [`read_counters`].
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn counters(&self) -> Result<Vec<(Reason, Traffic)>, ApplyError> {
        read_counters(&self.counters)
    }
}

/// How often each reason was counted, over all CPUs, and the bytes of these packets (of whole frames; calls of processes have
/// none); reasons that never happened are left out.
///
/// # Errors
///
/// If the map cannot be read.
pub fn read_counters<T: std::borrow::Borrow<MapData>>(
    counters: &PerCpuArray<T, Traffic>,
) -> Result<Vec<(Reason, Traffic)>, ApplyError> {
    let mut counted = Vec::new();
    for reason in Reason::ALL {
        let values = counters
            .get(&(*reason as u32), 0)
            .map_err(|source| ApplyError::Map {
                action: "read",
                name: map::COUNTERS,
                source,
            })?;
        let mut total = Traffic::default();
        values.iter().for_each(|of_cpu| total.add(*of_cpu));
        if total.packets > 0 {
            counted.push((*reason, total));
        }
    }
    Ok(counted)
}

fn take(bpf: &mut Ebpf, name: &'static str) -> Result<Map, ApplyError> {
    bpf.take_map(name).ok_or(ApplyError::NoMap { name })
}

fn typed<T: TryFrom<Map>>(map: Map, name: &'static str) -> Result<T, ApplyError> {
    T::try_from(map).map_err(|_| ApplyError::NoMap { name })
}

/// All elements of an array map whose elements hold `each` values of `T`.
fn mapped<E: Pod, T: crate::sys::Shared>(
    map: Map,
    name: &'static str,
    each: usize,
) -> Result<MappedArray<T>, ApplyError> {
    debug_assert_eq!(size_of::<E>(), each * size_of::<T>());
    let (data, entries) = array(map, name)?;
    MappedArray::new(data.fd(), entries * each).map_err(|source| ApplyError::Mmap { name, source })
}

/// An array map, and how many elements it has.
fn array(map: Map, name: &'static str) -> Result<(MapData, usize), ApplyError> {
    let Map::Array(data) = map else {
        return Err(ApplyError::NoMap { name });
    };
    let info = data.info().map_err(failed("read", name))?;
    Ok((data, info.max_entries() as usize))
}

/// The error of a map call.
fn failed(action: &'static str, name: &'static str) -> impl FnOnce(MapError) -> ApplyError {
    move |source| ApplyError::Map { action, name, source }
}

impl Dataplane for KernelMaps {
    type Error = ApplyError;

    fn apply_all(&mut self, ops: &[&Op]) -> Result<(), Partial<ApplyError>> {
        if ops.len() > 1 {
            match self.put_all(ops) {
                Ok(()) => return Ok(()),
                // One by one it shows which one it is.
                Err(failure) => debug!("{failure}; going on one by one"),
            }
        }
        one_by_one(ops, |op| self.apply(op)).map_err(|partial| Partial {
            unknown: ops.len() - partial.done,
            ..partial
        })
    }

    fn apply(&mut self, op: &Op) -> Result<(), ApplyError> {
        match op {
            Op::PutBackend { .. } | Op::PutFrontend { .. } => self.put_all(&[op]),
            Op::FreeBackend {
                family,
                index,
                generation,
            } => self.free_backend(*family, *index, *generation),
            Op::WriteTable { offset, slots } => self.tables.write(*offset, slots),
            Op::PutService { id, table } => self.services.set(*id, table.0).ok_or(ApplyError::NoElement {
                name: map::SERVICES,
                index: *id,
            }),
            Op::ClearMeter { meter } => self.clear_meter(*meter),
            Op::DeleteFrontend { frontend } => {
                match from_ip(frontend.addr) {
                    Either::V4(addr) => remove(
                        &mut self.frontends4,
                        map::FRONTENDS4,
                        &frontend_key(addr, frontend),
                    ),
                    Either::V6(addr) => remove(
                        &mut self.frontends6,
                        map::FRONTENDS6,
                        &frontend_key(addr, frontend),
                    ),
                }?;
                self.note_gone()
            }
            Op::PutRange { service, range } => match from_ip(range.network()) {
                Either::V4(client) => self
                    .ranges4
                    .insert(&range_key(*service, client, range), 0, 0)
                    .map_err(failed("write", map::RANGES4)),
                Either::V6(client) => self
                    .ranges6
                    .insert(&range_key(*service, client, range), 0, 0)
                    .map_err(failed("write", map::RANGES6)),
            },
            Op::DeleteRange { service, range } => match from_ip(range.network()) {
                Either::V4(client) => gone(
                    self.ranges4.remove(&range_key(*service, client, range)),
                    map::RANGES4,
                ),
                Either::V6(client) => gone(
                    self.ranges6.remove(&range_key(*service, client, range)),
                    map::RANGES6,
                ),
            },
            Op::PutAddress { addr, kind } => {
                self.known.add(*addr)?;
                let value = Frontend::of_address(*kind);
                match from_ip(*addr) {
                    Either::V4(addr) => self
                        .frontends4
                        .insert(FrontendKey::of_address(addr), value, 0)
                        .map_err(failed("write", map::FRONTENDS4)),
                    Either::V6(addr) => self
                        .frontends6
                        .insert(FrontendKey::of_address(addr), value, 0)
                        .map_err(failed("write", map::FRONTENDS6)),
                }
            }
            Op::DeleteAddress { addr } => match from_ip(*addr) {
                Either::V4(addr) => remove(
                    &mut self.frontends4,
                    map::FRONTENDS4,
                    &FrontendKey::of_address(addr),
                ),
                Either::V6(addr) => remove(
                    &mut self.frontends6,
                    map::FRONTENDS6,
                    &FrontendKey::of_address(addr),
                ),
            },
        }
    }
}

/// Removes an element, which may be gone already.
fn remove<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    key: &K,
) -> Result<(), ApplyError> {
    gone(map.remove(key), name)
}

/// What came of removing an element, which may be gone already.
fn gone(removed: Result<(), MapError>, name: &'static str) -> Result<(), ApplyError> {
    match removed {
        Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(source) => Err(ApplyError::Map {
            action: "write",
            name,
            source,
        }),
    }
}
