//! What the pinned maps look like: sizes, types and flags; and whether those that are there do.

use aya::maps::{MapInfo, MapType, lpm_trie};
use lb_common::{
    abi::{
        Affinity, AffinityKey, Backend, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendKey,
        KnownBit, Meter, Range, Service, ServiceNets, SocketKey, SocketPeer, Traffic, Uplink, map,
    },
    limits,
    verdict::Reason,
};

use super::LoadError;
use crate::pins::PinFolder;

/// Sizes of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Flows per family; each takes two entries.
    pub flows: u32,
    /// Frontends per family.
    pub frontends: u32,
    /// Services.
    pub services: u32,
    /// Backends per family.
    pub backends: u32,
    /// Maglev slots of all services together.
    pub maglev_slots: u32,
    /// Service ports that are counted by themselves.
    pub meters: u16,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            flows: limits::FLOWS,
            frontends: limits::FRONTENDS,
            services: limits::SERVICES,
            backends: limits::BACKENDS,
            maglev_slots: limits::MAGLEV_SLOTS,
            meters: limits::METERS,
        }
    }
}

/// What a map must look like.
pub(super) struct Layout {
    pub(super) name: &'static str,
    pub(super) kind: MapType,
    pub(super) flags: u32,
    pub(super) key: usize,
    pub(super) value: usize,
    pub(super) entries: u32,
}

impl Sizes {
    /// Type, flags, key size, value size and number of elements of every pinned map.
    pub(super) fn layouts(&self) -> [Layout; map::PINNED.len()] {
        type V4 = u32;
        type V6 = [u32; 4];
        fn of<K, V>(name: &'static str, entries: u32) -> Layout {
            let (kind, flags) = kind_and_flags(name);
            Layout {
                name,
                kind,
                flags,
                key: size_of::<K>(),
                value: size_of::<V>(),
                entries,
            }
        }
        [
            of::<FrontendKey<V4>, Frontend>(map::FRONTENDS4, self.frontends),
            of::<FrontendKey<V6>, Frontend>(map::FRONTENDS6, self.frontends),
            of::<u32, Service>(map::SERVICES, self.services),
            of::<u32, [u32; 2]>(map::MAGLEV, self.maglev_slots / 2),
            of::<u32, Backend<V4>>(map::BACKENDS4, self.backends),
            of::<u32, Backend<V6>>(map::BACKENDS6, self.backends),
            of::<FrontendKey<V4>, u32>(map::ENDPOINTS4, self.backends),
            of::<FrontendKey<V6>, u32>(map::ENDPOINTS6, self.backends),
            of::<FlowKey<V4>, Flow<V4>>(map::FLOWS4, self.flows.saturating_mul(2)),
            of::<FlowKey<V6>, Flow<V6>>(map::FLOWS6, self.flows.saturating_mul(2)),
            of::<SocketKey<V4>, SocketPeer<V4>>(map::SOCKETS4, limits::SOCKETS),
            of::<SocketKey<V6>, SocketPeer<V6>>(map::SOCKETS6, limits::SOCKETS),
            of::<u64, u32>(map::NAMESPACES, limits::NAMESPACES),
            of::<AffinityKey<V4>, Affinity>(map::AFFINITY4, limits::AFFINITIES),
            of::<AffinityKey<V6>, Affinity>(map::AFFINITY6, limits::AFFINITIES),
            of::<FragmentKey<V4>, Fragment<V4>>(map::FRAGMENTS4, limits::FRAGMENTS),
            of::<FragmentKey<V6>, Fragment<V6>>(map::FRAGMENTS6, limits::FRAGMENTS),
            of::<lpm_trie::Key<Range<V4>>, u32>(map::RANGES4, limits::RANGES),
            of::<lpm_trie::Key<Range<V6>>, u32>(map::RANGES6, limits::RANGES),
            of::<u32, V4>(map::SOURCES4, limits::SOURCES),
            of::<u32, V6>(map::SOURCES6, limits::SOURCES),
            of::<u32, u64>(map::KNOWN, KnownBit::WORDS),
            of::<u32, Uplink>(map::UPLINKS, limits::UPLINKS),
            of::<u32, ServiceNets<V4>>(map::CIDRS4, 1),
            of::<u32, ServiceNets<V6>>(map::CIDRS6, 1),
            of::<u32, Traffic>(map::COUNTERS, Reason::COUNT),
            of::<u32, Meter>(map::METERS, u32::from(self.meters) + 1),
        ]
    }
}

/// `BPF_F_NO_PREALLOC`.
const BPF_F_NO_PREALLOC: u32 = 1;

/// `BPF_F_MMAPABLE`.
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// Type and flags of a map, as the kernel side declares it. A plain hash in the place of an LRU one would fill up for
/// good, so the sizes alone do not tell whether a map can be taken over.
fn kind_and_flags(name: &str) -> (MapType, u32) {
    match name {
        map::FRONTENDS4
        | map::FRONTENDS6
        | map::ENDPOINTS4
        | map::ENDPOINTS6
        | map::SOURCES4
        | map::SOURCES6
        | map::NAMESPACES
        | map::UPLINKS => (MapType::Hash, 0),
        map::SERVICES | map::MAGLEV | map::KNOWN => (MapType::Array, BPF_F_MMAPABLE),
        map::RANGES4 | map::RANGES6 => (MapType::LpmTrie, BPF_F_NO_PREALLOC),
        map::COUNTERS | map::METERS => (MapType::PerCpuArray, 0),
        map::BACKENDS4 | map::BACKENDS6 | map::CIDRS4 | map::CIDRS6 => (MapType::Array, 0),
        _ => (MapType::LruHash, 0),
    }
}

/// Which maps are pinned and can be taken over. Pinning by name takes over whatever has the name, so all of them are looked
/// at first. METERS of another size is left out: no packet needs it.
pub(super) fn check_pinned(pins: &PinFolder, layouts: &[Layout]) -> Result<Vec<&'static str>, LoadError> {
    let mut adopted = Vec::new();
    'layouts: for layout in layouts {
        let path = pins.maps().join(layout.name);
        if !path.exists() {
            continue;
        }
        let info = match MapInfo::from_pin(&path) {
            Ok(info) => info,
            Err(source) => return Err(LoadError::OpenMap { path, source }),
        };
        let kind = info
            .map_type()
            .map_or_else(|_| "unknown".into(), |kind| format!("{kind:?}"));
        for (what, found, needed) in [
            ("the type", kind, format!("{:?}", layout.kind)),
            (
                "the flags",
                format!("{:#x}", info.map_flags()),
                format!("{:#x}", layout.flags),
            ),
            (
                "keys of (bytes)",
                info.key_size().to_string(),
                layout.key.to_string(),
            ),
            (
                "values of (bytes)",
                info.value_size().to_string(),
                layout.value.to_string(),
            ),
            (
                "elements:",
                info.max_entries().to_string(),
                layout.entries.to_string(),
            ),
        ] {
            if found != needed && layout.name == map::METERS {
                continue 'layouts;
            }
            if found != needed {
                return Err(LoadError::Layout {
                    path,
                    what,
                    found,
                    needed,
                });
            }
        }
        adopted.push(layout.name);
    }
    Ok(adopted)
}
