//! Tells the operator when tables or source ports come to their end.

use std::path::Path;

use aya::maps::{Map, MapData, PerCpuArray};
use lb_common::{
    abi::{Traffic, map},
    datapath::Ports,
    verdict::Reason,
};
use tracing::{debug, info, warn};

use super::{FlowsError, Found};
use crate::apply::read_counters;

/// From here on (percent) a table or the ports are as good as full.
const NEARLY_FULL: u64 = 90;
/// Below it is told that there is room again.
const ROOM_AGAIN: u64 = 75;

/// Drops that mean that something is full.
const FULL: [(Reason, &str); 2] = [
    (
        Reason::SnatExhausted,
        "all source ports that were tried are taken: give more with --snat-ports, or shorten the timeouts of flows",
    ),
    (
        Reason::FlowTableFull,
        "a flow table took no more: raise --max-flows",
    ),
];

/// What was told already.
pub(super) struct Watch {
    counters: PerCpuArray<MapData, Traffic>,
    dropped: [u64; FULL.len()],
    ports: Ports,
    /// By family, whether it was told that the table is nearly full.
    tables: [bool; 2],
    /// The same of the ports towards an endpoint.
    endpoints: [bool; 2],
}

impl Watch {
    pub(super) fn open(maps: &Path, ports: Ports) -> Result<Self, FlowsError> {
        let name = map::COUNTERS;
        let failed = |source| FlowsError::Map { name, source };
        let data = MapData::from_pin(maps.join(name)).map_err(failed)?;
        let mut this = Self {
            counters: PerCpuArray::try_from(Map::PerCpuArray(data)).map_err(failed)?,
            dropped: [0; FULL.len()],
            ports,
            tables: [false; 2],
            endpoints: [false; 2],
        };
        this.dropped = this.count()?;
        Ok(this)
    }

    fn count(&self) -> Result<[u64; FULL.len()], FlowsError> {
        let counted = read_counters(&self.counters)?;
        Ok(FULL.map(|(reason, _)| {
            let found = counted.iter().find(|(counted, _)| *counted == reason);
            found.map_or(0, |(_, counted)| counted.packets)
        }))
    }

    /// Tells what has changed.
    pub(super) fn look(&mut self, found: &[Found; 2]) {
        for ((found, table), endpoint) in found.iter().zip(&mut self.tables).zip(&mut self.endpoints) {
            if found.removed > 0 {
                debug!(
                    map = found.name,
                    removed = found.removed,
                    entries = found.entries,
                    "removed flows that were over"
                );
            }
            match crossed(table, found.percent()) {
                Some(true) => warn!(
                    map = found.name,
                    percent = found.percent(),
                    "the flow table is nearly full; beyond it those flows are forgotten that were idle for longest: \
                     raise --max-flows"
                ),
                Some(false) => info!(map = found.name, "there is room in the flow table again"),
                None => {}
            }
            let Some(fullest) = &found.fullest else {
                *endpoint = false;
                continue;
            };
            let percent = fullest.flows * 100 / u64::from(self.ports.count.max(1));
            match crossed(endpoint, percent) {
                Some(true) => warn!(
                    endpoint = %fullest, percent,
                    "the source ports towards an endpoint are nearly all taken; beyond them its new flows are dropped: \
                     give more with --snat-ports, or shorten the timeouts of flows"
                ),
                Some(false) => info!("there are source ports towards every endpoint again"),
                None => {}
            }
        }
        match self.count() {
            Ok(now) => {
                for ((before, now), (reason, remedy)) in self.dropped.iter_mut().zip(now).zip(FULL) {
                    if now > *before {
                        warn!(reason = reason.name(), packets = now - *before, "{remedy}");
                    }
                    *before = now;
                }
            }
            Err(failure) => debug!("{failure}"),
        }
    }
}

/// Whether what was told has to be changed, and to what.
fn crossed(told: &mut bool, percent: u64) -> Option<bool> {
    let now = percent >= if *told { ROOM_AGAIN } else { NEARLY_FULL };
    (std::mem::replace(told, now) != now).then_some(now)
}

#[cfg(test)]
mod tests {
    use super::crossed;

    #[test]
    fn it_is_told_once_that_a_table_is_nearly_full_and_once_that_it_has_room_again() {
        let mut told = false;
        let said: Vec<_> = [10, 89, 90, 100, 91, 80, 75, 74, 80, 89, 90]
            .into_iter()
            .map(|percent| crossed(&mut told, percent))
            .collect();
        let mut expected = vec![None; 11];
        (expected[2], expected[7], expected[10]) = (Some(true), Some(false), Some(true));
        assert_eq!(said, expected);
    }
}
