//! What the XDP programs know of the node's uplinks.

use std::collections::BTreeMap;

use lb_common::abi::{Uplink, map};

use super::{ApplyError, KernelMaps, sources::bring};

impl KernelMaps {
    /// Brings the map of uplinks, by the index of the device, to what `wanted` says.
    ///
    /// # Errors
    ///
    /// If the map cannot be read or written.
    pub fn set_uplinks(&mut self, wanted: &BTreeMap<u32, Uplink>) -> Result<(), ApplyError> {
        bring(&mut self.uplinks, map::UPLINKS, wanted)
    }
}
