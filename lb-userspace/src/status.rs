//! `fairlead status`: what is attached, how full the maps are, what has happened to packets.

use std::{io, path::Path};

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray};
use lb_common::abi::{Flow, FlowKey, Frontend, FrontendKey, SocketKey, SocketPeer, map};
use thiserror::Error;

use crate::{
    apply::{ApplyError, read_counters},
    attach::list_devices,
    pins,
};

/// Why the state cannot be shown.
#[derive(Debug, Error)]
pub enum StatusError {
    /// There are no maps.
    #[error(
        "no agent has left anything in {path}: start one with `fairlead run`, or name its pin folder with --bpffs"
    )]
    Nothing {
        /// The pin folder.
        path: String,
    },
    /// A map cannot be read.
    #[error("read the pinned map {name}: {source}")]
    Map {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// The counters cannot be read.
    #[error(transparent)]
    Counters(#[from] ApplyError),
    /// The text cannot be written.
    #[error("write the status: {0}")]
    Write(#[from] io::Error),
}

/// Writes the state of the dataplane that is pinned in `root` to `out`.
///
/// # Errors
///
/// [`StatusError`] names what cannot be read.
pub fn write(root: &Path, out: &mut impl io::Write) -> Result<(), StatusError> {
    let maps = pins::maps_below(root);
    if !maps.exists() {
        return Err(StatusError::Nothing {
            path: root.display().to_string(),
        });
    }
    writeln!(out, "devices")?;
    for link in list_devices(&pins::links_below(root)) {
        let state = match link.info {
            Some(info) if info.ifindex != 0 => format!("program {} by link {}", info.program_id, info.id),
            Some(_) => "the device is gone".to_owned(),
            None => "the link cannot be opened".to_owned(),
        };
        writeln!(out, "  {:<16} {:<8} {state}", link.device, link.direction)?;
    }
    writeln!(out, "maps{:>22}{:>12}", "entries", "capacity")?;
    type V4 = u32;
    type V6 = [u32; 4];
    fill::<FrontendKey<V4>, Frontend>(&maps, map::FRONTENDS4, out)?;
    fill::<FrontendKey<V6>, Frontend>(&maps, map::FRONTENDS6, out)?;
    fill::<FlowKey<V4>, Flow<V4>>(&maps, map::FLOWS4, out)?;
    fill::<FlowKey<V6>, Flow<V6>>(&maps, map::FLOWS6, out)?;
    fill::<SocketKey<V4>, SocketPeer<V4>>(&maps, map::SOCKETS4, out)?;
    fill::<SocketKey<V6>, SocketPeer<V6>>(&maps, map::SOCKETS6, out)?;
    let counters = open(&maps, map::COUNTERS)?;
    let counters = PerCpuArray::<MapData, u64>::try_from(Map::PerCpuArray(counters)).map_err(|source| {
        StatusError::Map {
            name: map::COUNTERS,
            source,
        }
    })?;
    writeln!(out, "packets and calls")?;
    for (reason, count) in read_counters(&counters)? {
        writeln!(out, "  {:<24} {count:>12}  {}", reason.name(), reason.help())?;
    }
    Ok(())
}

fn open(maps: &Path, name: &'static str) -> Result<MapData, StatusError> {
    MapData::from_pin(maps.join(name)).map_err(|source| StatusError::Map { name, source })
}

/// A line on how full a hash map is.
fn fill<K: aya::Pod, V: aya::Pod>(
    maps: &Path,
    name: &'static str,
    out: &mut impl io::Write,
) -> Result<(), StatusError> {
    let failed = |source| StatusError::Map { name, source };
    let data = open(maps, name)?;
    let info = data.info().map_err(failed)?;
    let capacity = info.max_entries();
    let map = if name.starts_with("FRONTENDS") {
        Map::HashMap(data)
    } else {
        Map::LruHashMap(data)
    };
    let map = HashMap::<MapData, K, V>::try_from(map).map_err(failed)?;
    writeln!(
        out,
        "  {name:<12}{:>12}{capacity:>12}",
        map.keys().filter(Result::is_ok).count()
    )?;
    Ok(())
}
