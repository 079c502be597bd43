//! Reading back a part of the maps at a time, and putting right what only this folder keeps account of.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::AsFd as _,
};

use aya::{
    Pod,
    maps::{Array, IterableMap, MapData},
};
use ipnet::IpNet;
use lb_common::abi::{Address, Backend, Either, Frontend, FrontendKey, TableRef, from_ip, map};

use super::{
    ApplyError, KernelMaps,
    encode::{decode_backend, free_backend, frontend_key},
    failed,
    known::Known,
    snapshot::note_frontend,
    walk::{has, step, unread},
};
use crate::{
    plan::{BackendSlot, Differences, Family, FrontendAddr, How, ReadBack, Snapshot, SnapshotBackend},
    sys::{self, Place, Steps},
};

/// How many elements of ENDPOINTS are looked for at once.
const ENDPOINTS_AT_ONCE: usize = 2_048;

/// A part of what follows from backends and frontends: the set of endpoints, and the bits of addresses. The parts follow
/// each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derived {
    /// Endpoints of a family that are to be there, and bits of their addresses, from that slot of BACKENDS on.
    Endpoints(Family, usize),
    /// Endpoints of a family that are not, from that place on.
    Strays(Family, Option<Place>),
    /// Bits of the addresses of frontends of a family, from that place on.
    Known(Family, Option<Place>),
}

impl Derived {
    /// Where it begins.
    pub const FIRST: Self = Self::Endpoints(Family::V4, 0);
}

impl KernelMaps {
    /// Brings a part to what it was made to be, counts in `found` what was not so, and returns the next part; none after the
    /// last one.
    ///
    /// # Errors
    ///
    /// If a map cannot be read or written.
    pub fn mend(&mut self, part: Derived, found: &mut Differences) -> Result<Option<Derived>, ApplyError> {
        Ok(match part {
            Derived::Endpoints(family, from) => {
                let next = match family {
                    Family::V4 => self
                        .endpoints
                        .v4
                        .mend(from, ENDPOINTS_AT_ONCE, &self.known, found)?,
                    Family::V6 => self
                        .endpoints
                        .v6
                        .mend(from, ENDPOINTS_AT_ONCE, &self.known, found)?,
                };
                Some(next.map_or(Derived::Strays(family, None), |next| {
                    Derived::Endpoints(family, next)
                }))
            }
            Derived::Strays(family, after) => {
                let next = match family {
                    Family::V4 => self.endpoints.v4.remove_strays(after, found)?,
                    Family::V6 => self.endpoints.v6.remove_strays(after, found)?,
                };
                Some(match (next, family) {
                    (Some(_), _) => Derived::Strays(family, next),
                    (None, Family::V4) => Derived::Endpoints(Family::V6, 0),
                    (None, Family::V6) => Derived::Known(Family::V4, None),
                })
            }
            Derived::Known(family, after) => {
                let next = match family {
                    Family::V4 => mend_known(&self.known, &self.frontends4, map::FRONTENDS4, after, found)?,
                    Family::V6 => mend_known(&self.known, &self.frontends6, map::FRONTENDS6, after, found)?,
                };
                match (next, family) {
                    (Some(_), _) => Some(Derived::Known(family, next)),
                    (None, Family::V4) => Some(Derived::Known(Family::V6, None)),
                    (None, Family::V6) => None,
                }
            }
        })
    }
}

/// Sets the bits of addresses of some frontends behind `after`. Returns where to go on.
fn mend_known<A: Address + Default>(
    known: &Known,
    frontends: &impl IterableMap<FrontendKey<A>, Frontend>,
    name: &'static str,
    after: Option<Place>,
    found: &mut Differences,
) -> Result<Option<Place>, ApplyError>
where
    FrontendKey<A>: Pod,
{
    let mut steps = Steps::new(FrontendKey::default(), Frontend::default());
    let (elements, next) = step(&mut steps, frontends, name, after)?;
    for (key, _) in elements {
        if known.mend(key.addr)? {
            found.note(map::KNOWN, How::Lost);
        }
    }
    Ok(next)
}

impl ReadBack for KernelMaps {
    type Error = ApplyError;

    fn frontends(
        &self,
        family: Family,
        after: Option<Place>,
    ) -> Result<(Snapshot, Option<Place>), ApplyError> {
        match family {
            Family::V4 => some_frontends(&self.frontends4, map::FRONTENDS4, after, Either::V4),
            Family::V6 => some_frontends(&self.frontends6, map::FRONTENDS6, after, Either::V6),
        }
    }

    fn has_frontend(&self, frontend: &FrontendAddr) -> Result<bool, ApplyError> {
        match from_ip(frontend.addr) {
            Either::V4(addr) => has(&self.frontends4, map::FRONTENDS4, &frontend_key(addr, frontend)),
            Either::V6(addr) => has(&self.frontends6, map::FRONTENDS6, &frontend_key(addr, frontend)),
        }
    }

    fn has_address(&self, addr: IpAddr) -> Result<bool, ApplyError> {
        match from_ip(addr) {
            Either::V4(addr) => has(&self.frontends4, map::FRONTENDS4, &FrontendKey::of_address(addr)),
            Either::V6(addr) => has(&self.frontends6, map::FRONTENDS6, &FrontendKey::of_address(addr)),
        }
    }

    fn ranges(&self) -> Result<BTreeMap<u32, BTreeSet<IpNet>>, ApplyError> {
        let mut snapshot = Snapshot::default();
        self.read_ranges(&mut snapshot)?;
        Ok(snapshot.ranges)
    }

    fn service(&self, id: u32) -> Option<TableRef> {
        self.services.get(id).map(TableRef)
    }

    fn table(&self, table: TableRef) -> Result<Option<Vec<u32>>, ApplyError> {
        self.tables.read(table)
    }

    fn backend(&self, family: Family, index: u32) -> Result<Option<SnapshotBackend>, ApplyError> {
        Ok(match family {
            Family::V4 => {
                let value = self.backends4.get(&index, 0);
                decode_backend(value.map_err(failed("read", map::BACKENDS4))?, Either::V4)
            }
            Family::V6 => {
                let value = self.backends6.get(&index, 0);
                decode_backend(value.map_err(failed("read", map::BACKENDS6))?, Either::V6)
            }
        })
    }

    fn backends(&self, family: Family, from: u32, most: u32) -> Result<Vec<(u32, BackendSlot)>, ApplyError> {
        match family {
            Family::V4 => in_use(&self.backends4, map::BACKENDS4, from, most, Either::V4),
            Family::V6 => in_use(&self.backends6, map::BACKENDS6, from, most, Either::V6),
        }
    }
}

/// Some frontends and addresses behind `after`, and where to go on.
fn some_frontends<A: Copy + Default>(
    map: &impl IterableMap<FrontendKey<A>, Frontend>,
    name: &'static str,
    after: Option<Place>,
    either: impl Fn(A) -> Either,
) -> Result<(Snapshot, Option<Place>), ApplyError>
where
    FrontendKey<A>: Pod,
{
    let mut snapshot = Snapshot::default();
    let mut steps = Steps::new(FrontendKey::default(), Frontend::default());
    let (elements, next) = step(&mut steps, map, name, after)?;
    elements.for_each(|(key, value)| note_frontend(&mut snapshot, key, value, &either));
    Ok((snapshot, next))
}

/// Those of some slots that are in use.
fn in_use<A: Address + 'static>(
    map: &Array<MapData, Backend<A>>,
    name: &'static str,
    from: u32,
    most: u32,
    either: impl Fn(A) -> Either,
) -> Result<Vec<(u32, BackendSlot)>, ApplyError>
where
    Backend<A>: Pod,
{
    let mut indexes = vec![0; most as usize];
    let mut values = vec![free_backend::<A>(0); most as usize];
    let data: &MapData = map.map();
    let fd = data.fd().as_fd();
    let read = sys::lookup_batch(fd, Place::before(from), &mut indexes, &mut values);
    let (count, _) = read.map_err(unread(name))?;
    let slots = indexes.into_iter().zip(values).take(count);
    let in_use = slots.filter_map(|(index, value)| match decode_backend(value, &either)? {
        SnapshotBackend::InUse(slot) => Some((index, slot)),
        SnapshotBackend::Free { .. } => None,
    });
    Ok(in_use.collect())
}
