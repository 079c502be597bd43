//! The maps in ordinary memory.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    vec::Vec,
};

use crate::{
    abi::{
        Affinity, AffinityKey, Backend, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendKey, Meter,
        Prefix, Service, SocketKey, SocketPeer,
    },
    datapath::{Counted, Family, InsertError, Tables, V4, V6},
};

type Map<K, V> = RefCell<HashMap<K, V>>;

/// The maps of both families. Sizes are not limited, except that of the flow tables on request.
#[derive(Clone, Debug, Default)]
pub struct MemoryTables {
    /// SERVICES.
    pub services: Map<u32, Service>,
    /// MAGLEV, by slot.
    pub slots: Map<u32, u32>,
    /// The maps of IPv4.
    pub v4: PerFamily<u32>,
    /// The maps of IPv6.
    pub v6: PerFamily<[u32; 4]>,
    /// METERS, by number.
    pub meters: Map<u16, Meter>,
    /// Most entries of a flow map; none for no limit. Unlike the kernel's LRU map, a full one refuses.
    pub max_flow_entries: Option<usize>,
}

/// The maps of one family.
#[derive(Clone, Debug)]
pub struct PerFamily<A> {
    /// FRONTENDS.
    pub frontends: Map<FrontendKey<A>, Frontend>,
    /// RANGES, by service.
    pub ranges: Map<u32, Vec<Prefix<A>>>,
    /// Networks that are for services alone.
    pub service_cidrs: Vec<Prefix<A>>,
    /// BACKENDS.
    pub backends: Map<u32, Backend<A>>,
    /// ENDPOINTS.
    pub endpoints: RefCell<HashSet<FrontendKey<A>>>,
    /// FLOWS.
    pub flows: Map<FlowKey<A>, Flow<A>>,
    /// SOCKETS.
    pub sockets: Map<SocketKey<A>, SocketPeer<A>>,
    /// SOURCES.
    pub sources: Map<u32, A>,
    /// AFFINITY.
    pub affinities: Map<AffinityKey<A>, Affinity>,
    /// FRAGMENTS.
    pub fragments: Map<FragmentKey<A>, Fragment<A>>,
}

impl<A> Default for PerFamily<A> {
    fn default() -> Self {
        Self {
            frontends: RefCell::default(),
            ranges: RefCell::default(),
            service_cidrs: Vec::new(),
            backends: RefCell::default(),
            endpoints: RefCell::default(),
            flows: RefCell::default(),
            sockets: RefCell::default(),
            sources: RefCell::default(),
            affinities: RefCell::default(),
            fragments: RefCell::default(),
        }
    }
}

/// Finds the maps of a family.
pub trait HasFamily<F: Family> {
    /// The maps of family `F`.
    fn family(&self) -> &PerFamily<F::Addr>;
}

impl HasFamily<V4> for MemoryTables {
    fn family(&self) -> &PerFamily<u32> {
        &self.v4
    }
}

impl HasFamily<V6> for MemoryTables {
    fn family(&self) -> &PerFamily<[u32; 4]> {
        &self.v6
    }
}

fn copy<T: Copy>(found: Option<&T>, into: &mut T) -> bool {
    if let Some(found) = found {
        *into = *found;
    }
    found.is_some()
}

impl<F: Family> Tables<F> for MemoryTables
where
    Self: HasFamily<F>,
{
    fn may_be_known(&self, addr: F::Addr) -> bool {
        let tables = self.family();
        let (frontends, endpoints) = (tables.frontends.borrow(), tables.endpoints.borrow());
        frontends
            .keys()
            .chain(endpoints.iter())
            .any(|key| key.addr == addr)
    }

    fn frontend(&self, key: &FrontendKey<F::Addr>) -> Option<Frontend> {
        self.family().frontends.borrow().get(key).copied()
    }

    fn is_for_services(&self, addr: F::Addr) -> bool {
        self.family()
            .service_cidrs
            .iter()
            .any(|prefix| prefix.contains(addr))
    }

    fn is_allowed(&self, service: u32, client: F::Addr) -> bool {
        let ranges = self.family().ranges.borrow();
        let ranges = ranges.get(&service);
        ranges.is_some_and(|ranges| ranges.iter().any(|range| range.contains(client)))
    }

    fn service(&self, id: u32) -> Option<Service> {
        self.services.borrow().get(&id).copied()
    }

    fn slot(&self, slot: u32) -> Option<u32> {
        self.slots.borrow().get(&slot).copied()
    }

    fn backend(&self, index: u32, into: &mut Backend<F::Addr>) -> bool {
        copy(self.family().backends.borrow().get(&index), into)
    }

    fn is_endpoint(&self, key: &FrontendKey<F::Addr>) -> bool {
        self.family().endpoints.borrow().contains(key)
    }

    fn flow(&self, key: &FlowKey<F::Addr>, into: &mut Flow<F::Addr>) -> bool {
        copy(self.family().flows.borrow().get(key), into)
    }

    fn affinity(&self, key: &AffinityKey<F::Addr>, into: &mut Affinity) -> bool {
        copy(self.family().affinities.borrow().get(key), into)
    }

    fn remember_affinity(&self, key: &AffinityKey<F::Addr>, affinity: &Affinity) {
        self.family().affinities.borrow_mut().insert(*key, *affinity);
    }

    fn fragment(&self, key: &FragmentKey<F::Addr>, into: &mut Fragment<F::Addr>) -> bool {
        copy(self.family().fragments.borrow().get(key), into)
    }

    fn remember_fragment(&self, key: &FragmentKey<F::Addr>, fragment: &Fragment<F::Addr>) {
        self.family().fragments.borrow_mut().insert(*key, *fragment);
    }

    fn source(&self, ifindex: u32) -> Option<F::Addr> {
        self.family().sources.borrow().get(&ifindex).copied()
    }

    fn insert_flow(&self, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Result<(), InsertError> {
        if self.family().flows.borrow().contains_key(key) {
            return Err(InsertError::Exists);
        }
        self.replace_flow(key, flow)
    }

    fn replace_flow(&self, key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Result<(), InsertError> {
        let mut flows = self.family().flows.borrow_mut();
        if !flows.contains_key(key) && self.max_flow_entries.is_some_and(|most| flows.len() >= most) {
            return Err(InsertError::Full);
        }
        flows.insert(*key, *flow);
        Ok(())
    }

    fn note_flow(&self, key: &FlowKey<F::Addr>, seen: u8, now: u64) {
        if let Some(flow) = self.family().flows.borrow_mut().get_mut(key) {
            flow.seen |= seen;
            flow.last_seen = now;
        }
    }

    fn delete_flow(&self, key: &FlowKey<F::Addr>) {
        self.family().flows.borrow_mut().remove(key);
    }

    fn has_meters(&self) -> bool {
        true
    }

    fn count(&self, meter: u16, counted: &Counted) {
        self.meters.borrow_mut().entry(meter).or_default().count(counted);
    }

    fn socket(&self, key: &SocketKey<F::Addr>) -> Option<SocketPeer<F::Addr>> {
        self.family().sockets.borrow().get(key).copied()
    }

    fn remember_socket(&self, key: &SocketKey<F::Addr>, peer: &SocketPeer<F::Addr>) {
        self.family().sockets.borrow_mut().insert(*key, *peer);
    }
}
