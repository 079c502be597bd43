//! `fairlead status`: what is attached, how full the maps are, what has happened to packets.

use std::{io, path::Path};

use aya::{
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray},
    programs::ProgramInfo,
};
use lb_common::{
    abi::{
        Affinity, AffinityKey, Backend, BackendFlags, Flow, FlowKey, Fragment, FragmentKey, Frontend,
        FrontendKey, NamespaceKind, Range, SocketKey, SocketPeer, TableRef, Traffic, Uplink, XdpMode, XdpWhy,
        map,
    },
    datapath::{Hook, Role},
};
use thiserror::Error;

use crate::{
    apply::{ApplyError, read_counters},
    attach::{DeviceLink, list_cgroup_hooks, list_devices, list_filtered_devices},
    flows::{FlowsError, Found, count},
    load::tc_program,
    pins,
    sys::{LinkInfo, MappedArray},
};

type V4 = u32;
type V6 = [u32; 4];

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
    /// The pin folder cannot be looked at.
    #[error("look into the pin folder {path}: {source}; run as root")]
    Look {
        /// The folder.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A map cannot be read.
    #[error("read the pinned map {name}: {source}")]
    Map {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// A map cannot be mapped into memory.
    #[error("map the pinned map {name} into memory: {source}")]
    Mmap {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The counters cannot be read.
    #[error(transparent)]
    Counters(#[from] ApplyError),
    /// The flows cannot be counted.
    #[error(transparent)]
    Flows(#[from] FlowsError),
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
    let maps = pins::below(root, "maps");
    match std::fs::read_dir(&maps) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StatusError::Nothing {
                path: root.display().to_string(),
            });
        }
        Err(source) => {
            return Err(StatusError::Look {
                path: root.display().to_string(),
                source,
            });
        }
    }
    let maps = Maps(&maps);
    write_attachments(root, &maps.uplinks()?, out)?;
    writeln!(out, "maps{:>22}{:>12}", "entries", "capacity")?;
    maps.hash::<FrontendKey<V4>, Frontend>(map::FRONTENDS4, out)?;
    maps.hash::<FrontendKey<V6>, Frontend>(map::FRONTENDS6, out)?;
    maps.services(out)?;
    maps.backends::<V4>(map::BACKENDS4, out)?;
    maps.backends::<V6>(map::BACKENDS6, out)?;
    maps.hash::<FrontendKey<V4>, u32>(map::ENDPOINTS4, out)?;
    maps.hash::<FrontendKey<V6>, u32>(map::ENDPOINTS6, out)?;
    maps.hash::<FlowKey<V4>, Flow<V4>>(map::FLOWS4, out)?;
    maps.hash::<FlowKey<V6>, Flow<V6>>(map::FLOWS6, out)?;
    maps.hash::<SocketKey<V4>, SocketPeer<V4>>(map::SOCKETS4, out)?;
    maps.hash::<SocketKey<V6>, SocketPeer<V6>>(map::SOCKETS6, out)?;
    maps.hash::<AffinityKey<V4>, Affinity>(map::AFFINITY4, out)?;
    maps.hash::<AffinityKey<V6>, Affinity>(map::AFFINITY6, out)?;
    maps.hash::<FragmentKey<V4>, Fragment<V4>>(map::FRAGMENTS4, out)?;
    maps.hash::<FragmentKey<V6>, Fragment<V6>>(map::FRAGMENTS6, out)?;
    maps.ranges::<V4>(map::RANGES4, out)?;
    maps.ranges::<V6>(map::RANGES6, out)?;
    write_flows(&count(maps.0)?, out)?;
    writeln!(out, "packets and calls, with the bytes of the packets")?;
    for (reason, Traffic { packets, bytes }) in read_counters(&maps.counters()?)? {
        let (name, help) = (reason.name(), reason.help());
        writeln!(out, "  {name:<24} {packets:>12} {bytes:>15}  {help}")?;
    }
    Ok(())
}

/// Flows by state, and source ports.
fn write_flows(found: &[Found; 2], out: &mut impl io::Write) -> Result<(), StatusError> {
    writeln!(out, "flows")?;
    for found in found {
        writeln!(out, "  {:<24} {:>11}%  full", found.name, found.percent())?;
        for (state, flows) in &found.states {
            writeln!(out, "    {:<22} {flows:>12}", state.name())?;
        }
        if let Some(fullest) = &found.fullest {
            writeln!(
                out,
                "    {:<22} {:>12}  have a source port of the node's range",
                "translated_port", found.with_ports
            )?;
            writeln!(
                out,
                "    {:<22} {:>12}  of them to {fullest}",
                "most", fullest.flows
            )?;
        }
    }
    Ok(())
}

/// Devices and socket hooks. `uplinks` tells the XDP mode of each uplink.
fn write_attachments(
    root: &Path,
    uplinks: &[(u32, Uplink)],
    out: &mut impl io::Write,
) -> Result<(), StatusError> {
    let links = pins::below(root, "links");
    writeln!(out, "devices")?;
    let devices = list_devices(&links);
    for (index, uplink) in uplinks {
        let of_device = |link: &&DeviceLink| link.info.is_some_and(|info| info.ifindex == *index);
        let name = devices
            .iter()
            .find(of_device)
            .map_or_else(|| format!("index {index}"), |link| link.device.clone());
        let mode = XdpMode::from_number(uplink.xdp).unwrap_or_default().name();
        let why = XdpWhy::from_number(uplink.why).unwrap_or_default().text();
        writeln!(out, "  {name:<16} {:<8} {mode} ({why})", "xdp")?;
    }
    for link in devices {
        let state = state(link.info, |info| info.ifindex != 0);
        let role = link.info.map_or("", |info| role(root, info.program_id));
        writeln!(out, "  {:<16} {:<8} {state}{role}", link.device, link.direction())?;
    }
    for device in list_filtered_devices(&pins::below(root, "filters")) {
        writeln!(out, "  {device:<16} {:<8} clsact filters", "both")?;
    }
    let hooks = list_cgroup_hooks(&links);
    if hooks.iter().all(|link| link.info.is_none()) {
        writeln!(out, "socket hooks: off")?;
        return Ok(());
    }
    match served_pods(root)? {
        None => writeln!(out, "socket hooks: host")?,
        Some(pods) => writeln!(out, "socket hooks: all, {pods} pods' network namespaces")?,
    }
    for link in hooks {
        let state = state(link.info, |info| info.cgroup_id != 0);
        writeln!(out, "  {:<25} {state}", link.program)?;
    }
    Ok(())
}

/// What a device is to the ingress program on it; the agent's log says why. The program is found by its pin: to ask the
/// kernel for one by its number takes `CAP_SYS_ADMIN`.
fn role(root: &Path, program_id: u32) -> &'static str {
    let is = |role| {
        let pin = pins::below(root, "progs").join(tc_program(Hook::Ingress(role)));
        ProgramInfo::from_pin(pin).is_ok_and(|program| program.id() == program_id)
    };
    if is(Role::Uplink) {
        ", as an uplink"
    } else if is(Role::Workload) {
        ", as a workload"
    } else {
        ""
    }
}

/// How many pods are served by their sockets; none if no pods are to be.
fn served_pods(root: &Path) -> Result<Option<usize>, StatusError> {
    let name = map::NAMESPACES;
    let failed = |source| StatusError::Map { name, source };
    let folder = pins::below(root, "maps");
    let (data, _) = Maps(&folder).open(name)?;
    let map = HashMap::<MapData, u64, u32>::try_from(Map::HashMap(data)).map_err(failed)?;
    let (mut all, mut pods) = (false, 0);
    for entry in &map {
        let (_, kind) = entry.map_err(failed)?;
        all |= kind == NamespaceKind::Node as u32;
        pods += usize::from(kind == NamespaceKind::Pod as u32);
    }
    Ok(all.then_some(pods))
}

fn state(info: Option<LinkInfo>, hangs: impl Fn(&LinkInfo) -> bool) -> String {
    match info {
        Some(info) if hangs(&info) => format!("program {} by link {}", info.program_id, info.id),
        Some(_) => "detached: what it hung on is gone".to_owned(),
        None => "not attached".to_owned(),
    }
}

/// The folder of pinned maps.
struct Maps<'a>(&'a Path);

impl Maps<'_> {
    fn open(&self, name: &'static str) -> Result<(MapData, u32), StatusError> {
        let failed = |source| StatusError::Map { name, source };
        let data = MapData::from_pin(self.0.join(name)).map_err(failed)?;
        let capacity = data.info().map_err(failed)?.max_entries();
        Ok((data, capacity))
    }

    /// A line on how full a hash map is.
    fn hash<K: aya::Pod, V: aya::Pod>(
        &self,
        name: &'static str,
        out: &mut impl io::Write,
    ) -> Result<(), StatusError> {
        let (data, capacity) = self.open(name)?;
        let map = if name.starts_with("FRONTENDS") || name.starts_with("ENDPOINTS") {
            Map::HashMap(data)
        } else {
            Map::LruHashMap(data)
        };
        let map =
            HashMap::<MapData, K, V>::try_from(map).map_err(|source| StatusError::Map { name, source })?;
        line(out, name, map.keys().filter(Result::is_ok).count(), capacity)
    }

    /// A line on how many source ranges there are.
    fn ranges<A: Copy + 'static>(
        &self,
        name: &'static str,
        out: &mut impl io::Write,
    ) -> Result<(), StatusError>
    where
        Range<A>: aya::Pod,
    {
        let (entries, capacity) = self.count_ranges::<A>(name)?;
        line(out, name, entries, capacity)
    }

    fn count_ranges<A: Copy + 'static>(&self, name: &'static str) -> Result<(usize, u32), StatusError>
    where
        Range<A>: aya::Pod,
    {
        let (data, capacity) = self.open(name)?;
        let map = LpmTrie::<MapData, Range<A>, u32>::try_from(Map::LpmTrie(data))
            .map_err(|source| StatusError::Map { name, source })?;
        Ok((map.keys().filter(Result::is_ok).count(), capacity))
    }

    /// Lines on how many services there are and how many slots their tables take.
    fn services(&self, out: &mut impl io::Write) -> Result<(), StatusError> {
        let name = map::SERVICES;
        let (data, capacity) = self.open(name)?;
        let services = MappedArray::<u64>::new(data.fd(), capacity as usize)
            .map_err(|source| StatusError::Mmap { name, source })?;
        let sizes: Vec<usize> = (0..capacity)
            .filter_map(|id| services.get(id))
            .map(|word| TableRef(word).total() as usize)
            .filter(|size| *size > 0)
            .collect();
        line(out, name, sizes.len(), capacity)?;
        // Two slots an element.
        let (_, elements) = self.open(map::MAGLEV)?;
        line(out, map::MAGLEV, sizes.iter().sum(), elements.saturating_mul(2))
    }

    fn backends<A: Copy + 'static>(
        &self,
        name: &'static str,
        out: &mut impl io::Write,
    ) -> Result<(), StatusError>
    where
        Backend<A>: aya::Pod,
    {
        let failed = |source| StatusError::Map { name, source };
        let (data, capacity) = self.open(name)?;
        let backends = Array::<MapData, Backend<A>>::try_from(Map::Array(data)).map_err(failed)?;
        let mut in_use = 0;
        for backend in backends.iter() {
            in_use += usize::from(backend.map_err(failed)?.flags & BackendFlags::IN_USE != 0);
        }
        line(out, name, in_use, capacity)
    }

    /// The uplinks by index.
    fn uplinks(&self) -> Result<Vec<(u32, Uplink)>, StatusError> {
        let name = map::UPLINKS;
        let failed = |source| StatusError::Map { name, source };
        let (data, _) = self.open(name)?;
        let map = HashMap::<MapData, u32, Uplink>::try_from(Map::HashMap(data)).map_err(failed)?;
        let mut uplinks = map.iter().collect::<Result<Vec<_>, _>>().map_err(failed)?;
        uplinks.sort_unstable_by_key(|(index, _)| *index);
        Ok(uplinks)
    }

    fn counters(&self) -> Result<PerCpuArray<MapData, Traffic>, StatusError> {
        let name = map::COUNTERS;
        let (data, _) = self.open(name)?;
        PerCpuArray::try_from(Map::PerCpuArray(data)).map_err(|source| StatusError::Map { name, source })
    }
}

/// How many source ranges there are in the maps that are pinned in `maps`, and how many they have room for.
///
/// # Errors
///
/// If they cannot be read.
pub(crate) fn ranges(maps: &Path) -> Result<[(&'static str, u64, u64); 2], StatusError> {
    let maps = Maps(maps);
    let of = |name, (entries, capacity): (usize, u32)| (name, entries as u64, u64::from(capacity));
    Ok([
        of(map::RANGES4, maps.count_ranges::<V4>(map::RANGES4)?),
        of(map::RANGES6, maps.count_ranges::<V6>(map::RANGES6)?),
    ])
}

fn line(out: &mut impl io::Write, name: &str, entries: usize, capacity: u32) -> Result<(), StatusError> {
    writeln!(out, "  {name:<12}{entries:>12}{capacity:>12}")?;
    Ok(())
}
