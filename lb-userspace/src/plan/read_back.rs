//! Asking a dataplane that runs what it holds, and what was found that nobody had planned.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;

use super::{BackendSlot, Family, FrontendAddr, Snapshot, SnapshotBackend, TableRef};
use crate::sys::Place;

/// Whatever holds what plans have brought about, and can be asked for it a part at a time.
pub trait ReadBack {
    /// Why something cannot be read.
    type Error;

    /// Some frontends and addresses of a family, those behind `after`, and nothing else of a snapshot; and where to go on.
    ///
    /// # Errors
    /// The map cannot be read.
    fn frontends(
        &self,
        family: Family,
        after: Option<Place>,
    ) -> Result<(Snapshot, Option<Place>), Self::Error>;

    /// Whether there is a frontend, whatever it leads to.
    ///
    /// # Errors
    /// The map cannot be read.
    fn has_frontend(&self, frontend: &FrontendAddr) -> Result<bool, Self::Error>;

    /// Whether there is an entry of an address.
    ///
    /// # Errors
    /// The map cannot be read.
    fn has_address(&self, addr: IpAddr) -> Result<bool, Self::Error>;

    /// The source ranges of both families, by service.
    ///
    /// # Errors
    /// A map cannot be read.
    fn ranges(&self) -> Result<BTreeMap<u32, BTreeSet<IpNet>>, Self::Error>;

    /// `SERVICES[id]`; none if that is beyond its end.
    fn service(&self, id: u32) -> Option<TableRef>;

    /// The slots that a table has in MAGLEV; none if it is empty or does not lie inside.
    ///
    /// # Errors
    /// The map cannot be read.
    fn table(&self, table: TableRef) -> Result<Option<Vec<u32>>, Self::Error>;

    /// A backend; none if the slot was never used.
    ///
    /// # Errors
    /// The map cannot be read.
    fn backend(&self, family: Family, index: u32) -> Result<Option<SnapshotBackend>, Self::Error>;

    /// Those of `most` slots, from `from` on, that are in use, with their indexes. `from` lies within the map.
    ///
    /// # Errors
    /// The map cannot be read.
    fn backends(&self, family: Family, from: u32, most: u32) -> Result<Vec<(u32, BackendSlot)>, Self::Error>;
}

/// How an element is not what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// It is gone.
    Lost,
    /// It holds something else.
    Changed,
    /// It was not there.
    Added,
}

/// How many elements somebody else has changed, by map. A table of MAGLEV counts as one element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences(BTreeMap<(&'static str, How), u64>);

impl Differences {
    /// Takes in one more.
    pub fn note(&mut self, map: &'static str, how: How) {
        self.add(map, how, 1);
    }

    /// Takes in some more.
    pub fn add(&mut self, map: &'static str, how: How, number: u64) {
        if number > 0 {
            *self.0.entry((map, how)).or_default() += number;
        }
    }

    /// Takes in those of another part.
    pub fn extend(&mut self, other: &Self) {
        for ((map, how), number) in &other.0 {
            self.add(map, *how, *number);
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are, by map.
    pub fn by_map(&self) -> BTreeMap<&'static str, u64> {
        let mut by_map = BTreeMap::new();
        for ((map, _), number) in &self.0 {
            *by_map.entry(*map).or_default() += number;
        }
        by_map
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, ((map, how), number)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            let how = match how {
                How::Lost => "lost",
                How::Changed => "changed",
                How::Added => "added",
            };
            write!(f, "{comma}{number} {how} in {map}")?;
        }
        Ok(())
    }
}
