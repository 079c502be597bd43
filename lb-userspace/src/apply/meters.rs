//! What is counted of service ports.

use std::borrow::Borrow;

use aya::{
    maps::{MapData, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use lb_common::abi::{Meter, map};

use super::{ApplyError, KernelMaps, failed};

impl KernelMaps {
    /// Sets a meter to zero.
    pub(super) fn clear_meter(&mut self, number: u16) -> Result<(), ApplyError> {
        let write = failed("write", map::METERS);
        let zero = nr_cpus()
            .map_err(|(_, error)| error)
            .and_then(|cpus| PerCpuValues::try_from(vec![Meter::default(); cpus]));
        match zero {
            Ok(zero) => self.meters.set(number.into(), zero, 0).map_err(write),
            Err(error) => Err(write(error.into())),
        }
    }
}

/// What a meter holds, over all CPUs.
///
/// # Errors
///
/// If the map cannot be read, or has no such meter.
pub fn read_meter<T: Borrow<MapData>>(
    meters: &PerCpuArray<T, Meter>,
    number: u16,
) -> Result<Meter, ApplyError> {
    let of_cpus = meters
        .get(&number.into(), 0)
        .map_err(failed("read", map::METERS))?;
    let mut sum = Meter::default();
    for of_cpu in of_cpus.iter() {
        sum.add(of_cpu);
    }
    Ok(sum)
}
