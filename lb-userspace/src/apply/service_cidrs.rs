//! The networks that cluster IPs are given from.

use std::collections::BTreeSet;

use aya::{
    Pod,
    maps::{Array, MapData},
};
use ipnet::IpNet;
use lb_common::{
    abi::{EitherPrefix, Prefix, ServiceNets, map},
    limits,
};

use super::{ApplyError, KernelMaps, failed};
use crate::plan::{Differences, How};

impl KernelMaps {
    /// Brings the networks that cluster IPs are given from to what `wanted` says. Returns those that find no room: there is
    /// room for [`limits::SERVICE_CIDRS`] of each family.
    ///
    /// # Errors
    ///
    /// If a map cannot be written.
    pub fn set_service_cidrs(&mut self, wanted: &BTreeSet<IpNet>) -> Result<Vec<IpNet>, ApplyError> {
        let (nets4, nets6, left) = split(wanted);
        set(&mut self.cidrs4, map::CIDRS4, &ServiceNets::new(nets4))?;
        set(&mut self.cidrs6, map::CIDRS6, &ServiceNets::new(nets6))?;
        Ok(left)
    }

    /// The same with what the maps were told before; counts in `found` those that hold something else.
    ///
    /// # Errors
    ///
    /// If a map cannot be written.
    pub fn mend_service_cidrs(
        &mut self,
        told: &BTreeSet<IpNet>,
        found: &mut Differences,
    ) -> Result<(), ApplyError> {
        let (nets4, nets6, _) = split(told);
        for (name, differs) in [
            (
                map::CIDRS4,
                set(&mut self.cidrs4, map::CIDRS4, &ServiceNets::new(nets4))?,
            ),
            (
                map::CIDRS6,
                set(&mut self.cidrs6, map::CIDRS6, &ServiceNets::new(nets6))?,
            ),
        ] {
            found.add(name, How::Changed, u64::from(differs));
        }
        Ok(())
    }
}

type Split = (Vec<Prefix<u32>>, Vec<Prefix<[u32; 4]>>, Vec<IpNet>);

/// The networks of each family, and those that find no room. A network within another one needs none.
fn split(wanted: &BTreeSet<IpNet>) -> Split {
    let (mut nets4, mut nets6, mut left) = (Vec::new(), Vec::new(), Vec::new());
    let outermost = wanted.iter().filter(|net| {
        let mut others = wanted.iter();
        !others.any(|other| other != *net && other.contains(*net))
    });
    for net in outermost {
        match EitherPrefix::new(net.addr(), net.prefix_len()) {
            EitherPrefix::V4(prefix) if nets4.len() < limits::SERVICE_CIDRS => nets4.push(prefix),
            EitherPrefix::V6(prefix) if nets6.len() < limits::SERVICE_CIDRS => nets6.push(prefix),
            _ => left.push(*net),
        }
    }
    (nets4, nets6, left)
}

/// Writes what is not there already. Returns whether it had to.
fn set<T: Pod + PartialEq>(
    map: &mut Array<MapData, T>,
    name: &'static str,
    wanted: &T,
) -> Result<bool, ApplyError> {
    if map.get(&0, 0).is_ok_and(|there| there == *wanted) {
        return Ok(false);
    }
    map.set(0, wanted, 0).map_err(failed("write", name))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_within_others_take_no_room_and_those_without_room_are_told() {
        let nets: BTreeSet<IpNet> = [
            "10.96.0.0/16",
            "10.96.4.0/24",
            "10.97.0.0/16",
            "10.98.0.0/16",
            "10.99.0.0/16",
            "10.100.0.0/16",
            "fd00::/112",
        ]
        .map(|net| net.parse().unwrap())
        .into();
        let (nets4, nets6, left) = split(&nets);
        assert_eq!((nets4.len(), nets6.len()), (limits::SERVICE_CIDRS, 1));
        assert_eq!(left, ["10.100.0.0/16".parse::<IpNet>().unwrap()]);
    }
}
