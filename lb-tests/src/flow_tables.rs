//! The flow tables of an agent in a lab.

use std::path::PathBuf;

use anyhow::Result;
use aya::maps::{HashMap, Map, MapData};
use lb_common::abi::{Flow, FlowKey, map};
use lb_testkit::Lab;
use lb_userspace::pins;

/// The folder with the maps of a node's agent.
pub fn maps(lab: &Lab, node: usize) -> PathBuf {
    pins::below(&lab.bpffs(node), "maps")
}

/// Forgets all flows of a node, as a table does that is full of other ones.
///
/// # Errors
///
/// If the tables cannot be read.
pub fn evict_all(lab: &Lab, node: usize) -> Result<()> {
    clear::<u32>(maps(lab, node).join(map::FLOWS4))?;
    clear::<[u32; 4]>(maps(lab, node).join(map::FLOWS6))
}

fn clear<A: Copy + 'static>(pin: PathBuf) -> Result<()>
where
    FlowKey<A>: aya::Pod,
    Flow<A>: aya::Pod,
{
    let map = Map::LruHashMap(MapData::from_pin(pin)?);
    let mut map = HashMap::<_, FlowKey<A>, Flow<A>>::try_from(map)?;
    let keys: Vec<_> = map.keys().collect::<Result<_, _>>()?;
    for key in keys {
        // The kernel may have been faster.
        let _ = map.remove(&key);
    }
    Ok(())
}
