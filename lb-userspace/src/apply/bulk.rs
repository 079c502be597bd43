//! Backends and frontends, however many, by a few system calls.

use std::os::fd::AsFd as _;

use aya::{
    Pod,
    maps::{IterableMap, MapData},
    sys::SyscallError,
};
use lb_common::abi::{Frontend, from_ip, map};

use super::{ApplyError, KernelMaps, encode::frontend_key, failed};
use crate::{plan::Op, sys};

impl KernelMaps {
    /// Carries out operations that [go with](Op::goes_with) each other: backends, or frontends.
    pub(super) fn put_all(&mut self, ops: &[&Op]) -> Result<(), ApplyError> {
        let backends = ops.iter().filter_map(|op| match op {
            Op::PutBackend { index, slot } => Some((*index, slot)),
            _ => None,
        });
        let backends: Vec<_> = backends.collect();
        if !backends.is_empty() {
            return self.put_backends(&backends);
        }
        self.put_frontends(ops)
    }

    fn put_frontends(&self, ops: &[&Op]) -> Result<(), ApplyError> {
        let puts = ops.iter().filter_map(|op| match op {
            Op::PutFrontend {
                frontend,
                service,
                kind,
                flags,
                meter,
            } => {
                let value = Frontend::new(*service, *kind).with_flags(*flags);
                Some((frontend, value.with_meter(*meter)))
            }
            _ => None,
        });
        let puts: Vec<_> = puts.collect();
        for (frontend, _) in &puts {
            self.known.add(frontend.addr)?;
        }
        let v4 = puts.iter().filter_map(|(frontend, value)| {
            Some((frontend_key(from_ip(frontend.addr).v4()?, frontend), *value))
        });
        write_all(&self.frontends4, map::FRONTENDS4, v4)?;
        let v6 = puts.iter().filter_map(|(frontend, value)| {
            Some((frontend_key(from_ip(frontend.addr).v6()?, frontend), *value))
        });
        write_all(&self.frontends6, map::FRONTENDS6, v6)
    }
}

/// Writes elements of a map.
pub(super) fn write_all<K: Pod, V: Pod>(
    map: &impl IterableMap<K, V>,
    name: &'static str,
    elements: impl Iterator<Item = (K, V)>,
) -> Result<(), ApplyError> {
    let (keys, values): (Vec<K>, Vec<V>) = elements.unzip();
    if keys.is_empty() {
        return Ok(());
    }
    let data: &MapData = map.map();
    sys::update_batch(data.fd().as_fd(), &keys, &values).map_err(|io_error| {
        let call = "bpf_map_update_batch";
        failed("write", name)(SyscallError { call, io_error }.into())
    })
}
