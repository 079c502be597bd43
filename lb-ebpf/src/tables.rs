//! The algorithm's tables, on BPF maps.
//!
//! Values are copied out: the memory behind a map may change or be reused at any time.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    maps::{Array, LruHashMap, lpm_trie::Key},
};
use lb_common::{
    abi::{
        Affinity, AffinityKey, Backend, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendKey,
        KnownBit, Range, Service, SocketKey, SocketPeer,
    },
    datapath::{Counted, InsertError, Tables, V4, V6},
};

use crate::maps::{
    AFFINITY4, AFFINITY6, BACKENDS4, BACKENDS6, CIDRS4, CIDRS6, ENDPOINTS4, ENDPOINTS6, FLOWS4, FLOWS6,
    FRAGMENTS4, FRAGMENTS6, FRONTENDS4, FRONTENDS6, KNOWN, MAGLEV, RANGES4, RANGES6, SERVICES, SOCKETS4,
    SOCKETS6, SOURCES4, SOURCES6,
};
use crate::{globals, maps};

/// `EEXIST`, as helpers return it.
const EEXIST: i32 = -17;

/// The kernel's maps.
pub(crate) struct Kernel;

/// A copy of an array element.
#[inline(always)]
fn element<T: Copy>(map: &Array<T>, index: u32) -> Option<T> {
    let element = map.get_ptr(index)?;
    // SAFETY: a lookup gives a pointer to a whole, aligned element, or none. Array elements are never freed; one that
    // is written at the same time is told by its generation.
    Some(unsafe { ptr::read_volatile(element) })
}

#[inline(always)]
fn insert<K, V>(map: &LruHashMap<K, V>, key: &K, value: &V, flags: u32) -> Result<(), InsertError> {
    match map.insert(key, value, flags.into()) {
        Ok(()) => Ok(()),
        Err(EEXIST) => Err(InsertError::Exists),
        Err(_) => Err(InsertError::Full),
    }
}

/// The tables of one family, on its maps.
macro_rules! tables {
    ($family:ty, $addr:ty, $cidrs:ident, $frontends:ident, $backends:ident, $endpoints:ident, $flows:ident, $sockets:ident, $sources:ident, $affinities:ident, $fragments:ident, $ranges:ident) => {
        impl Tables<$family> for Kernel {
            #[inline(always)]
            fn may_be_known(&self, addr: $addr) -> bool {
                let bit = KnownBit::of(addr);
                // The element is there: that it might not be is the verifier's idea.
                let Some(word) = KNOWN.get_ptr(bit.word) else {
                    return true;
                };
                // SAFETY: as in `element`; the agent writes it by one store.
                unsafe { ptr::read_volatile(word) & bit.mask != 0 }
            }

            #[inline(always)]
            fn frontend(&self, key: &FrontendKey<$addr>) -> Option<Frontend> {
                let frontend = $frontends.get_ptr(key)?;
                // SAFETY: the element stays readable until the program ends (RCU).
                Some(unsafe { *frontend })
            }

            #[inline(always)]
            fn is_for_services(&self, addr: $addr) -> bool {
                let Some(nets) = $cidrs.get_ptr(0) else {
                    return false;
                };
                // SAFETY: as in `element`. It is read where it lies: networks that change under a reader hold for one packet
                // more or less.
                unsafe { (*nets).contain(addr) }
            }

            #[inline(always)]
            fn is_allowed(&self, service: u32, client: $addr) -> bool {
                const BITS: u32 = Range::<$addr>::BITS + 8 * size_of::<$addr>() as u32;
                $ranges
                    .get(Key::new(BITS, Range { service, client }))
                    .is_some()
            }

            #[inline(always)]
            fn service(&self, id: u32) -> Option<Service> {
                element(&SERVICES, id)
            }

            #[inline(always)]
            fn slot(&self, slot: u32) -> Option<u32> {
                let pair = MAGLEV.get_ptr(slot >> 1)?.cast::<u32>();
                // SAFETY: the element holds two words, and the offset is 0 or 1.
                Some(unsafe { ptr::read_volatile(pair.add((slot & 1) as usize)) })
            }

            #[inline(always)]
            fn backend(&self, index: u32, into: &mut Backend<$addr>) -> bool {
                let Some(backend) = $backends.get_ptr(index) else {
                    return false;
                };
                // SAFETY: as in `element`. The two do not overlap: assigned by value, they might for all that LLVM knows,
                // and it would copy byte by byte.
                unsafe { ptr::copy_nonoverlapping(backend, into, 1) };
                true
            }

            #[inline(always)]
            fn is_endpoint(&self, key: &FrontendKey<$addr>) -> bool {
                $endpoints.get_ptr(key).is_some()
            }

            #[inline(always)]
            fn flow(&self, key: &FlowKey<$addr>, into: &mut Flow<$addr>) -> bool {
                let Some(flow) = $flows.get_ptr(key) else {
                    return false;
                };
                // SAFETY: the element stays readable until the program ends. It may be evicted and given to another
                // flow while it is read (LRU maps reuse elements at once); that window is a few ns. The two do not
                // overlap.
                unsafe { ptr::copy_nonoverlapping(flow, into, 1) };
                true
            }

            #[inline(always)]
            fn affinity(&self, key: &AffinityKey<$addr>, into: &mut Affinity) -> bool {
                let Some(affinity) = $affinities.get_ptr(key) else {
                    return false;
                };
                // SAFETY: as for flows.
                unsafe { ptr::copy_nonoverlapping(affinity, into, 1) };
                true
            }

            #[inline(always)]
            fn remember_affinity(&self, key: &AffinityKey<$addr>, affinity: &Affinity) {
                // Without the entry the client is sent by its address again.
                let _ = $affinities.insert(key, affinity, BPF_ANY.into());
            }

            #[inline(always)]
            fn fragment(&self, key: &FragmentKey<$addr>, into: &mut Fragment<$addr>) -> bool {
                let Some(fragment) = $fragments.get_ptr(key) else {
                    return false;
                };
                // SAFETY: as for flows.
                unsafe { ptr::copy_nonoverlapping(fragment, into, 1) };
                true
            }

            #[inline(always)]
            fn remember_fragment(&self, key: &FragmentKey<$addr>, fragment: &Fragment<$addr>) {
                // Without the entry the rest of the datagram is lost, as in a network that loses packets.
                let _ = $fragments.insert(key, fragment, BPF_ANY.into());
            }

            #[inline(always)]
            fn source(&self, ifindex: u32) -> Option<$addr> {
                let source = $sources.get_ptr(&ifindex)?;
                // SAFETY: the element stays readable until the program ends (RCU).
                Some(unsafe { *source })
            }

            #[inline(always)]
            fn insert_flow(&self, key: &FlowKey<$addr>, flow: &Flow<$addr>) -> Result<(), InsertError> {
                insert(&$flows, key, flow, BPF_NOEXIST)
            }

            #[inline(always)]
            fn replace_flow(&self, key: &FlowKey<$addr>, flow: &Flow<$addr>) -> Result<(), InsertError> {
                insert(&$flows, key, flow, BPF_ANY)
            }

            #[inline(always)]
            fn note_flow(&self, key: &FlowKey<$addr>, seen: u8, now: u64) {
                if let Some(flow) = $flows.get_ptr_mut(key) {
                    // SAFETY: as for reading; both stores are of one aligned word or byte. Two CPUs that note the
                    // same direction at once may lose a bit, which the next packet that carries it sets again.
                    unsafe {
                        (*flow).seen |= seen;
                        ptr::write_volatile(&raw mut (*flow).last_seen, now);
                    }
                }
            }

            #[inline(always)]
            fn delete_flow(&self, key: &FlowKey<$addr>) {
                // There is nothing to do about an entry that is gone already.
                let _ = $flows.remove(key);
            }

            #[inline(always)]
            fn has_meters(&self) -> bool {
                globals::service_stats()
            }

            #[inline(always)]
            fn count(&self, meter: u16, counted: &Counted) {
                maps::meter(meter, counted);
            }

            #[inline(always)]
            fn socket(&self, key: &SocketKey<$addr>) -> Option<SocketPeer<$addr>> {
                let peer = $sockets.get_ptr(key)?;
                // SAFETY: as for flows.
                Some(unsafe { *peer })
            }

            #[inline(always)]
            fn remember_socket(&self, key: &SocketKey<$addr>, peer: &SocketPeer<$addr>) {
                // Without the entry the process sees the endpoint's address; the connection works all the same.
                let _ = $sockets.insert(key, peer, BPF_ANY.into());
            }
        }
    };
}

tables!(
    V4, u32, CIDRS4, FRONTENDS4, BACKENDS4, ENDPOINTS4, FLOWS4, SOCKETS4, SOURCES4, AFFINITY4, FRAGMENTS4,
    RANGES4
);
tables!(
    V6, [u32; 4], CIDRS6, FRONTENDS6, BACKENDS6, ENDPOINTS6, FLOWS6, SOCKETS6, SOURCES6, AFFINITY6,
    FRAGMENTS6, RANGES6
);
