//! The network namespaces whose sockets are served, noted in the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use aya::maps::{HashMap, Map, MapData, MapError};
use lb_common::abi::{NamespaceKind, map};
use tracing::{debug, warn};

use super::{SocketsError, lost::open, namespaces};
use crate::pins::PinFolder;

/// How often namespaces that are not found are looked for: a runtime may make a pod's interface before others can see its
/// namespace.
const LOOKS: u32 = 10;

/// Follows the network namespaces of pods.
pub(super) struct Pods {
    map: HashMap<MapData, u64, u32>,
    /// Cookie of the agent's own namespace; none if pods are not served by their sockets.
    own: Option<u64>,
    /// Namespaces by device, as the kernel numbers them.
    wanted: BTreeMap<u32, i32>,
    /// Their cookies, by device and number.
    found: BTreeMap<(u32, i32), u64>,
    looks_left: u32,
    /// It was told that the map is full.
    told: bool,
}

impl fmt::Debug for Pods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pods")
            .field("found", &self.found)
            .finish_non_exhaustive()
    }
}

impl Pods {
    /// Opens the map and notes whether pods are served: by the presence of the node's own namespace (`own`, a cookie). What
    /// an earlier agent noted of pods stays until the first look.
    ///
    /// # Errors
    ///
    /// If the map is unusable.
    pub(super) fn open(pins: &PinFolder, own: Option<u64>) -> Result<Self, SocketsError> {
        let path = pins.maps().join(map::NAMESPACES);
        let failed = |source| SocketsError::Map { path, source };
        let mut this = Self {
            map: open(pins, map::NAMESPACES, Map::HashMap)?,
            own,
            wanted: BTreeMap::new(),
            found: BTreeMap::new(),
            looks_left: 0,
            told: false,
        };
        match own {
            Some(own) => this
                .map
                .insert(own, NamespaceKind::Node as u32, 0)
                .map_err(failed)?,
            None => this.note(&BTreeSet::new()).map_err(failed)?,
        }
        Ok(this)
    }

    /// Takes note of which namespaces are wanted; [`Self::look`] looks for them.
    pub(super) fn follow(&mut self, wanted: BTreeMap<u32, i32>) {
        self.found
            .retain(|(device, number), _| wanted.get(device) == Some(number));
        self.wanted = wanted;
        self.looks_left = LOOKS;
    }

    /// Looks for namespaces that are not known yet, and brings the map to what is known. Says whether to look again.
    pub(super) fn look(&mut self) -> bool {
        let missing = |this: &Self| -> BTreeSet<i32> {
            let wanted = this.wanted.iter().map(|(device, number)| (*device, *number));
            wanted
                .filter(|place| !this.found.contains_key(place))
                .map(|(_, number)| number)
                .collect()
        };
        let unknown = missing(self);
        if !unknown.is_empty() {
            match namespaces::cookies(&unknown) {
                Ok(cookies) => {
                    for (device, number) in &self.wanted {
                        if let Some(cookie) = cookies.get(number) {
                            self.found.insert((*device, *number), *cookie);
                        }
                    }
                }
                Err(error) => debug!("look for pods' network namespaces: {error}"),
            }
        }
        let cookies: BTreeSet<u64> = self.found.values().copied().collect();
        if let Err(error) = self.note(&cookies)
            && !self.told
        {
            self.told = true;
            warn!(
                "note a pod's network namespace in the map {}: {error}; some pods are served by their packets",
                map::NAMESPACES
            );
        }
        self.looks_left = self.looks_left.saturating_sub(1);
        let unknown = missing(self);
        if self.looks_left == 0 && !unknown.is_empty() {
            debug!(
                ?unknown,
                "pods whose network namespaces are not found are served by their packets"
            );
        }
        self.looks_left > 0 && !unknown.is_empty()
    }

    /// Brings the map to these pods, and the node's own namespace if pods are served.
    fn note(&mut self, pods: &BTreeSet<u64>) -> Result<(), MapError> {
        let noted: Vec<u64> = self.map.keys().collect::<Result<_, _>>()?;
        for cookie in noted {
            if !pods.contains(&cookie) && Some(cookie) != self.own {
                self.map.remove(&cookie)?;
            }
        }
        for cookie in pods.iter().filter(|cookie| Some(**cookie) != self.own) {
            self.map.insert(cookie, NamespaceKind::Pod as u32, 0)?;
        }
        Ok(())
    }
}
