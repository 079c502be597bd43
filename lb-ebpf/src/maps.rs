//! The maps. Sizes here are defaults; the agent sets them before loading. All but the log buffer, [`WORKS`],
//! [`EARLY_WORKS`] and [`ANSWERS`] are pinned by name.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray},
};
use lb_common::{
    abi::{
        Affinity, AffinityKey, Backend, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendKey,
        KnownBit, Meter, NamespaceKind, Range, Service, ServiceNets, SocketKey, SocketPeer, Traffic, Uplink,
    },
    datapath::{Counted, Works},
    limits,
    verdict::Reason,
};

type V4 = u32;
type V6 = [u32; 4];

/// What serves an address and port.
#[map]
pub(crate) static FRONTENDS4: HashMap<FrontendKey<V4>, Frontend> = HashMap::pinned(limits::FRONTENDS, 0);
/// What serves an address and port.
#[map]
pub(crate) static FRONTENDS6: HashMap<FrontendKey<V6>, Frontend> = HashMap::pinned(limits::FRONTENDS, 0);

/// Each service's place in [`MAGLEV`]; the agent changes an element by one store into mapped memory.
#[map]
pub(crate) static SERVICES: Array<Service> = Array::pinned(limits::SERVICES, BPF_F_MMAPABLE);

/// Backend indexes, two to an element.
#[map]
pub(crate) static MAGLEV: Array<[u32; 2]> = Array::pinned(limits::MAGLEV_SLOTS / 2, BPF_F_MMAPABLE);

/// Endpoints.
#[map]
pub(crate) static BACKENDS4: Array<Backend<V4>> = Array::pinned(limits::BACKENDS, 0);
/// Endpoints.
#[map]
pub(crate) static BACKENDS6: Array<Backend<V6>> = Array::pinned(limits::BACKENDS, 0);

/// Addresses of backends in use.
#[map]
pub(crate) static ENDPOINTS4: HashMap<FrontendKey<V4>, u32> = HashMap::pinned(limits::BACKENDS, 0);
/// Addresses of backends in use.
#[map]
pub(crate) static ENDPOINTS6: HashMap<FrontendKey<V6>, u32> = HashMap::pinned(limits::BACKENDS, 0);

/// Which addresses frontends and endpoints have; the agent changes an element by one store into mapped memory.
#[map]
pub(crate) static KNOWN: Array<u64> = Array::pinned(KnownBit::WORDS, BPF_F_MMAPABLE);

/// Recorded flows, an entry for each direction.
#[map]
pub(crate) static FLOWS4: LruHashMap<FlowKey<V4>, Flow<V4>> = LruHashMap::pinned(2 * limits::FLOWS, 0);
/// Recorded flows, an entry for each direction.
#[map]
pub(crate) static FLOWS6: LruHashMap<FlowKey<V6>, Flow<V6>> = LruHashMap::pinned(2 * limits::FLOWS, 0);

/// What the peers of sockets stand for.
#[map]
pub(crate) static SOCKETS4: LruHashMap<SocketKey<V4>, SocketPeer<V4>> =
    LruHashMap::pinned(limits::SOCKETS, 0);
/// What the peers of sockets stand for.
#[map]
pub(crate) static SOCKETS6: LruHashMap<SocketKey<V6>, SocketPeer<V6>> =
    LruHashMap::pinned(limits::SOCKETS, 0);

/// Network namespaces whose sockets are served, by cookie.
#[map]
static NAMESPACES: HashMap<u64, u32> = HashMap::pinned(limits::NAMESPACES, 0);

/// Whether the network namespace with that cookie is a pod's of this node.
#[inline(always)]
pub(crate) fn is_pod(cookie: u64) -> bool {
    let Some(kind) = NAMESPACES.get_ptr(cookie) else {
        return false;
    };
    // SAFETY: the element stays readable until the program ends (RCU).
    let kind = unsafe { *kind };
    kind == NamespaceKind::Pod as u32
}

/// Addresses of the node by device.
#[map]
pub(crate) static SOURCES4: HashMap<u32, V4> = HashMap::pinned(limits::SOURCES, 0);

/// Addresses of the node by device.
#[map]
pub(crate) static SOURCES6: HashMap<u32, V6> = HashMap::pinned(limits::SOURCES, 0);

/// The networks that cluster IPs are given from.
#[map]
pub(crate) static CIDRS4: Array<ServiceNets<V4>> = Array::pinned(1, 0);

/// The networks that cluster IPs are given from.
#[map]
pub(crate) static CIDRS6: Array<ServiceNets<V6>> = Array::pinned(1, 0);

/// Which endpoints clients stay with.
#[map]
pub(crate) static AFFINITY4: LruHashMap<AffinityKey<V4>, Affinity> =
    LruHashMap::pinned(limits::AFFINITIES, 0);

/// Which endpoints clients stay with.
#[map]
pub(crate) static AFFINITY6: LruHashMap<AffinityKey<V6>, Affinity> =
    LruHashMap::pinned(limits::AFFINITIES, 0);

/// What was done with the first fragments of datagrams.
#[map]
pub(crate) static FRAGMENTS4: LruHashMap<FragmentKey<V4>, Fragment<V4>> =
    LruHashMap::pinned(limits::FRAGMENTS, 0);

/// What was done with the first fragments of datagrams.
#[map]
pub(crate) static FRAGMENTS6: LruHashMap<FragmentKey<V6>, Fragment<V6>> =
    LruHashMap::pinned(limits::FRAGMENTS, 0);
/// The clients that services with source ranges allow.
#[map]
pub(crate) static RANGES4: LpmTrie<Range<V4>, u32> = LpmTrie::pinned(limits::RANGES, BPF_F_NO_PREALLOC);

/// The clients that services with source ranges allow.
#[map]
pub(crate) static RANGES6: LpmTrie<Range<V6>, u32> = LpmTrie::pinned(limits::RANGES, BPF_F_NO_PREALLOC);

/// Where the tc programs work on a packet. Not pinned: it holds nothing between packets.
#[map]
static WORKS: PerCpuArray<Works> = PerCpuArray::with_max_entries(1, 0);

/// Room to work on a packet; there always is.
#[inline(always)]
pub(crate) fn works() -> Option<&'static mut Works> {
    let works = WORKS.get_ptr_mut(0)?;
    // SAFETY: the memory is this CPU's, is never freed while a program that uses the map is loaded, and only one tc
    // program runs on a CPU at a time: they run with bottom halves disabled, and none of them calls this twice.
    Some(unsafe { &mut *works })
}

/// Where the XDP programs work on a packet. Another map than the tc programs': a tc program must not find in the midst of
/// its work that a frame has arrived.
#[map]
static EARLY_WORKS: PerCpuArray<Works> = PerCpuArray::with_max_entries(1, 0);

/// Room to work on a packet; there always is.
#[inline(always)]
pub(crate) fn early_works() -> Option<&'static mut Works> {
    let works = EARLY_WORKS.get_ptr_mut(0)?;
    // SAFETY: as in `works`, for the XDP programs: they run in NAPI context, where none interrupts another.
    Some(unsafe { &mut *works })
}

/// The node's uplinks by device.
#[map]
static UPLINKS: HashMap<u32, Uplink> = HashMap::pinned(limits::UPLINKS, 0);

/// What is known of an uplink.
#[inline(always)]
pub(crate) fn uplink(ifindex: u32) -> Option<Uplink> {
    let uplink = UPLINKS.get_ptr(ifindex)?;
    // SAFETY: the element stays readable until the program ends (RCU).
    Some(unsafe { *uplink })
}

/// The present second's beginning (ns), and how many senders were told in it that nobody serves.
#[map]
static ANSWERS: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// Whether this CPU may tell one more sender at the time `now` (ns).
#[inline(always)]
pub(crate) fn may_answer(now: u64) -> bool {
    let Some(answers) = ANSWERS.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the pointer is to this CPU's element, which only this program run uses.
    let [begin, count] = unsafe { &mut *answers };
    if now.wrapping_sub(*begin) >= 1_000_000_000 {
        *begin = now;
        *count = 0;
    }
    *count += 1;
    *count <= limits::ANSWERS_PER_SECOND
}

/// Packets and calls by reason, with the bytes of the packets.
#[map]
static COUNTERS: PerCpuArray<Traffic> = PerCpuArray::pinned(Reason::COUNT, 0);

/// Counts a packet of so many bytes, or a call, which has none.
#[inline(always)]
pub(crate) fn count(reason: Reason, bytes: u64) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer is to this CPU's counter, which only this program run writes.
        unsafe { (*counter).add(Traffic { packets: 1, bytes }) };
    }
}

/// What went through service ports, by the numbers that frontends and flows hold.
#[map]
static METERS: PerCpuArray<Meter> = PerCpuArray::pinned(limits::METERS as u32 + 1, 0);

/// Adds to the meter of that number, if there is one.
#[inline(always)]
pub(crate) fn meter(number: u16, counted: &Counted) {
    if let Some(meter) = METERS.get_ptr_mut(number as u32) {
        // SAFETY: the pointer is to this CPU's element. Packets and calls of processes, which they may interrupt, write
        // different words of it.
        unsafe { (*meter).count(counted) };
    }
}
