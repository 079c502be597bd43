//! What the datapath knows when a packet of a table arrives: services and recorded flows.
//!
//! A world is described once and then put into memory tables and into kernel maps by the same numbers.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use lb_common::{
    abi::{
        Affinity, AffinityKey, Backend, BackendFlags, Either, Flow, FlowFlags, FlowKey, FlowKind, Fragment,
        FragmentKey, Frontend, FrontendFlags, FrontendKey, FrontendKind, Meter, Policies, Range, Service,
        TableRef, Tuple, from_ip, port_to_wire,
    },
    maglev::{self, Cursor, Member},
};

/// The services and flows that a case starts with.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Services; their identifiers are their places here.
    pub services: Vec<ServiceSpec>,
    /// Flows recorded before the packet arrives.
    pub flows: Vec<FlowSpec>,
    /// Addresses that belong to services as a whole.
    pub addresses: Vec<(IpAddr, FrontendKind)>,
    /// Clients that the first service allows, if only some.
    pub ranges: Option<Vec<&'static str>>,
    /// Which endpoints clients of the first service stay with.
    pub affinities: Vec<AffinitySpec>,
    /// Datagrams whose first fragment was translated before.
    pub fragments: Vec<FragmentSpec>,
    /// The node's addresses by device; 0 stands for devices without one.
    pub sources: Vec<(u32, IpAddr)>,
}

/// Index of the device that leads to other nodes and outside.
pub const UPLINK: u32 = 1_002;
/// Index of the device that leads to this node's pods.
pub const PODS: u32 = 1_003;

/// The node's routes, and its only ones: a network with the device that leads there.
pub const ROUTES: [(&str, u32); 6] = [
    ("172.18.0.0/16", UPLINK),
    ("10.244.2.0/24", UPLINK),
    ("10.244.1.0/24", PODS),
    ("fd00:172:18::/64", UPLINK),
    ("fd00:10:244:2::/64", UPLINK),
    ("fd00:10:244:1::/64", PODS),
];

/// Hosts on the uplink's wire whose hardware address is known, and that address.
pub const NEIGHBOURS: [&str; 4] = [
    "172.18.0.100",
    "10.244.2.7",
    "fd00:172:18::100",
    "fd00:10:244:2::7",
];
/// The hardware address of all of them.
pub const NEIGHBOUR_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x4e];
/// The uplink's own.
pub const UPLINK_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x55];

/// What is remembered of a client of the first service.
#[derive(Clone, Copy, Debug)]
pub struct AffinitySpec {
    /// The client.
    pub client: IpAddr,
    /// Index of its endpoint.
    pub index: u32,
    /// Generation that was remembered.
    pub generation: u32,
    /// How often it came back too late.
    pub epoch: u32,
    /// How long ago (ns) it last opened a flow.
    pub age: u64,
}

impl AffinitySpec {
    fn entry(&self, now: u64) -> Entry {
        let affinity = Affinity {
            backend: self.index,
            generation: self.generation,
            epoch: self.epoch,
            pad: 0,
            last_used: now.saturating_sub(self.age),
        };
        match from_ip(self.client) {
            Either::V4(client) => Entry::Affinity4(AffinityKey { client, service: 0 }, affinity),
            Either::V6(client) => Entry::Affinity6(AffinityKey { client, service: 0 }, affinity),
        }
    }
}

/// A datagram whose first fragment was translated.
#[derive(Clone, Copy, Debug)]
pub struct FragmentSpec {
    /// Source and destination before.
    pub from: [IpAddr; 2],
    /// Source and destination after.
    pub to: [IpAddr; 2],
    /// Identification.
    pub id: u32,
    /// [`FragmentKey::scope`].
    pub scope: u32,
    /// How long ago (ns).
    pub age: u64,
}

impl FragmentSpec {
    fn entry(&self, now: u64) -> Entry {
        let seen_at = now.saturating_sub(self.age);
        let [a, b] = self.from;
        let [c, d] = self.to;
        match [a, b, c, d].map(from_ip) {
            [
                Either::V4(src),
                Either::V4(dst),
                Either::V4(new_src),
                Either::V4(new_dst),
            ] => {
                let (key, value) = self.halves([src, dst], [new_src, new_dst], seen_at);
                Entry::Fragment4(key, value)
            }
            [
                Either::V6(src),
                Either::V6(dst),
                Either::V6(new_src),
                Either::V6(new_dst),
            ] => {
                let (key, value) = self.halves([src, dst], [new_src, new_dst], seen_at);
                Entry::Fragment6(key, value)
            }
            _ => panic!("a datagram has one family: {self:?}"),
        }
    }

    const fn halves<A: Copy>(&self, from: [A; 2], to: [A; 2], seen_at: u64) -> (FragmentKey<A>, Fragment<A>) {
        let key = FragmentKey {
            src: from[0],
            dst: from[1],
            id: self.id,
            scope: self.scope,
        };
        let fragment = Fragment {
            src: to[0],
            dst: to[1],
            meter: Meter::NONE,
            flags: FlowKind::Forward as u8,
            pad: [0; 5],
            seen_at,
        };
        (key, fragment)
    }
}

/// One service port.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    /// Where clients send to.
    pub frontend: SocketAddr,
    /// IP protocol number.
    pub proto: u8,
    /// Which kind of address the frontend is.
    pub kind: FrontendKind,
    /// Endpoints with whether each runs on this node.
    pub endpoints: Vec<(SocketAddr, bool)>,
    /// Endpoints that keep the flows that they have and get no new ones, in the same way. Their indexes follow.
    pub kept: Vec<(SocketAddr, bool)>,
    /// Which traffic only goes to endpoints on this node.
    pub policies: Policies,
    /// What is broken about the service, for cases of a defective agent.
    pub defect: Option<Defect>,
}

/// Ways for the maps of a service to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// The table's slots name a backend beyond the map.
    SlotBeyondBackends,
    /// The backends were freed while the table still names them.
    BackendsFreed,
    /// The table lies beyond the slots.
    TableBeyondSlots,
}

/// A flow recorded before the packet arrives, both directions.
#[derive(Clone, Debug)]
pub struct FlowSpec {
    /// The client.
    pub client: SocketAddr,
    /// The frontend that the client asked.
    pub frontend: SocketAddr,
    /// The endpoint that was chosen.
    pub backend: SocketAddr,
    /// The source that the endpoint sees, if it is not the client.
    pub source: Option<SocketAddr>,
    /// Whether the client asked the endpoint's own address; that is the frontend then.
    pub direct: bool,
    /// IP protocol number.
    pub proto: u8,
    /// Number of its meter.
    pub meter: u16,
    /// Index of the endpoint, counted over all endpoints of its family in the world.
    pub index: u32,
    /// Generation that the flow recorded.
    pub generation: u32,
    /// What the forward direction has seen.
    pub forward_seen: u8,
    /// What the reply direction has seen.
    pub reply_seen: u8,
    /// How long ago (ns) each direction was last written down.
    pub age: u64,
    /// Which of the two entries exist.
    pub halves: Halves,
}

/// Which entries of a flow exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halves {
    /// Both, as it should be.
    Both,
    /// The reply entry was evicted.
    ForwardOnly,
    /// The forward entry was evicted.
    ReplyOnly,
}

/// Number of the meter of a world's first service; those of the others follow.
pub const METER: u16 = 1;
/// Generation of every backend of a world.
pub const GENERATION: u32 = 7;
/// Where the first table begins. Not 0, so that a forgotten offset shows.
const FIRST_SLOT: u32 = 64;
/// Index of the first backend of each family. Not 0, so that a forgotten index shows.
const FIRST_BACKEND: u32 = 3;

/// One map write.
#[derive(Clone, Copy, Debug)]
pub enum Entry {
    /// FRONTENDS4.
    Frontend4(FrontendKey<u32>, Frontend),
    /// FRONTENDS6.
    Frontend6(FrontendKey<[u32; 4]>, Frontend),
    /// SERVICES.
    Service(u32, Service),
    /// MAGLEV.
    Slot(u32, u32),
    /// BACKENDS4.
    Backend4(u32, Backend<u32>),
    /// BACKENDS6.
    Backend6(u32, Backend<[u32; 4]>),
    /// ENDPOINTS4.
    Endpoint4(FrontendKey<u32>),
    /// ENDPOINTS6.
    Endpoint6(FrontendKey<[u32; 4]>),
    /// FLOWS4.
    Flow4(FlowKey<u32>, Flow<u32>),
    /// FLOWS6.
    Flow6(FlowKey<[u32; 4]>, Flow<[u32; 4]>),
    /// RANGES4, with the bits of the address that count.
    Range4(Range<u32>, u8),
    /// RANGES6, with the bits of the address that count.
    Range6(Range<[u32; 4]>, u8),
    /// AFFINITY4.
    Affinity4(AffinityKey<u32>, Affinity),
    /// AFFINITY6.
    Affinity6(AffinityKey<[u32; 4]>, Affinity),
    /// FRAGMENTS4.
    Fragment4(FragmentKey<u32>, Fragment<u32>),
    /// FRAGMENTS6.
    Fragment6(FragmentKey<[u32; 4]>, Fragment<[u32; 4]>),
    /// SOURCES4.
    Source4(u32, u32),
    /// SOURCES6.
    Source6(u32, [u32; 4]),
}

impl World {
    /// All map entries of this world at the time `now` (ns).
    pub fn entries(&self, now: u64) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut next_slot = FIRST_SLOT;
        let mut next_backend = [FIRST_BACKEND; 2];
        for (id, service) in self.services.iter().enumerate() {
            service.entries(id as u32, &mut next_slot, &mut next_backend, &mut entries);
            if id == 0 && self.ranges.is_some() {
                guard(&mut entries);
            }
        }
        let ranges = self.ranges.iter().flatten();
        entries.extend(ranges.map(|text| {
            let net: IpNet = text.parse().unwrap_or_else(|_| panic!("{text} is no network"));
            match from_ip(net.network()) {
                Either::V4(client) => Entry::Range4(Range { service: 0, client }, net.prefix_len()),
                Either::V6(client) => Entry::Range6(Range { service: 0, client }, net.prefix_len()),
            }
        }));
        for flow in &self.flows {
            flow.entries(now, &mut entries);
        }
        entries.extend(self.addresses.iter().map(|(addr, kind)| match from_ip(*addr) {
            Either::V4(addr) => Entry::Frontend4(FrontendKey::of_address(addr), Frontend::of_address(*kind)),
            Either::V6(addr) => Entry::Frontend6(FrontendKey::of_address(addr), Frontend::of_address(*kind)),
        }));
        entries.extend(self.affinities.iter().map(|affinity| affinity.entry(now)));
        entries.extend(self.fragments.iter().map(|fragment| fragment.entry(now)));
        entries.extend(self.sources.iter().map(|(device, addr)| match from_ip(*addr) {
            Either::V4(addr) => Entry::Source4(*device, addr),
            Either::V6(addr) => Entry::Source6(*device, addr),
        }));
        entries
    }
}

/// Tells the frontends to ask for ranges.
fn guard(entries: &mut [Entry]) {
    for entry in entries {
        if let Entry::Frontend4(_, frontend) | Entry::Frontend6(_, frontend) = entry {
            frontend.flags = FrontendFlags::RANGES;
        }
    }
}

/// Index of the `nth` endpoint of a family, counted over all services of the world.
pub fn backend_index(nth: u32) -> u32 {
    FIRST_BACKEND + nth
}

fn build(members: &[Member], size: u32) -> Vec<u32> {
    let mut table = vec![0; size as usize];
    maglev::build(members, &mut vec![Cursor::default(); members.len()], &mut table);
    table
}

impl ServiceSpec {
    fn entries(&self, id: u32, next_slot: &mut u32, next_backend: &mut [u32; 2], entries: &mut Vec<Entry>) {
        let frontend = Frontend::new(id, self.kind).with_meter(METER + id as u16);
        let port = port_to_wire(self.frontend.port());
        entries.push(match from_ip(self.frontend.ip()) {
            Either::V4(addr) => Entry::Frontend4(FrontendKey::new(addr, port, self.proto), frontend),
            Either::V6(addr) => Entry::Frontend6(FrontendKey::new(addr, port, self.proto), frontend),
        });
        let next = &mut next_backend[usize::from(self.frontend.is_ipv6())];
        let mut members = Vec::new();
        let mut local_members = Vec::new();
        for (endpoint, local) in &self.endpoints {
            let index = *next;
            *next += 1;
            self.endpoint(
                index,
                *endpoint,
                if *local { BackendFlags::LOCAL } else { 0 },
                entries,
            );
            let port = port_to_wire(endpoint.port());
            let id = match from_ip(endpoint.ip()) {
                Either::V4(addr) => maglev::endpoint_id(addr, port),
                Either::V6(addr) => maglev::endpoint_id(addr, port),
            };
            let backend = if self.defect == Some(Defect::SlotBeyondBackends) {
                u32::MAX - 1
            } else {
                index
            };
            let member = Member {
                id,
                weight: 1,
                backend,
            };
            members.push(member);
            if *local && self.policies != Policies::default() {
                local_members.push(member);
            }
        }
        for (endpoint, local) in &self.kept {
            let local = if *local { BackendFlags::LOCAL } else { 0 };
            self.endpoint(*next, *endpoint, local | BackendFlags::KEPT, entries);
            *next += 1;
        }
        let size = maglev::table_size(members.len());
        let offset = match self.defect {
            Some(Defect::TableBeyondSlots) => u32::MAX - 1024,
            _ => *next_slot,
        };
        let mut table = TableRef::new(offset, size).with_policies(self.policies);
        let mut slots = build(&members, size);
        if !local_members.is_empty() {
            table = table.with_local();
            slots.extend(build(&local_members, size));
        }
        if self.defect != Some(Defect::TableBeyondSlots) {
            let slots = (offset..).zip(slots);
            entries.extend(slots.map(|(slot, backend)| Entry::Slot(slot, backend)));
            *next_slot += table.total();
        }
        entries.push(Entry::Service(id, Service { table }));
    }

    /// A slot of BACKENDS, and its endpoint in ENDPOINTS.
    fn endpoint(&self, index: u32, endpoint: SocketAddr, flags: u8, entries: &mut Vec<Entry>) {
        entries.push(self.backend(index, endpoint, flags));
        let port = port_to_wire(endpoint.port());
        if self.defect.is_none() {
            entries.push(match from_ip(endpoint.ip()) {
                Either::V4(addr) => Entry::Endpoint4(FrontendKey::new(addr, port, self.proto)),
                Either::V6(addr) => Entry::Endpoint6(FrontendKey::new(addr, port, self.proto)),
            });
        }
    }

    fn backend(&self, index: u32, endpoint: SocketAddr, mut flags: u8) -> Entry {
        if self.defect != Some(Defect::BackendsFreed) {
            flags |= BackendFlags::IN_USE;
        }
        let (port, proto, generation) = (port_to_wire(endpoint.port()), self.proto, GENERATION);
        match from_ip(endpoint.ip()) {
            Either::V4(addr) => Entry::Backend4(
                index,
                Backend {
                    addr,
                    generation,
                    port,
                    flags,
                    proto,
                },
            ),
            Either::V6(addr) => Entry::Backend6(
                index,
                Backend {
                    addr,
                    generation,
                    port,
                    flags,
                    proto,
                },
            ),
        }
    }
}

impl FlowSpec {
    fn entries(&self, now: u64, entries: &mut Vec<Entry>) {
        let source = self.source.unwrap_or(self.client);
        match [self.client, self.frontend, self.backend, source].map(|addr| from_ip(addr.ip())) {
            [
                Either::V4(client),
                Either::V4(frontend),
                Either::V4(backend),
                Either::V4(source),
            ] => {
                entries.extend(
                    self.halves(client, frontend, backend, source, now)
                        .map(|(key, flow)| Entry::Flow4(key, flow)),
                );
            }
            [
                Either::V6(client),
                Either::V6(frontend),
                Either::V6(backend),
                Either::V6(source),
            ] => {
                entries.extend(
                    self.halves(client, frontend, backend, source, now)
                        .map(|(key, flow)| Entry::Flow6(key, flow)),
                );
            }
            _ => panic!("a flow has one family: {self:?}"),
        }
    }

    fn halves<A: Copy + PartialEq>(
        &self,
        client: A,
        frontend: A,
        backend: A,
        source: A,
        now: u64,
    ) -> impl Iterator<Item = (FlowKey<A>, Flow<A>)> {
        let port = |addr: SocketAddr| port_to_wire(addr.port());
        let source_port = port(self.source.unwrap_or(self.client));
        let asked = Tuple::new(client, frontend, port(self.client), port(self.frontend));
        let sent = Tuple::new(source, backend, source_port, port(self.backend));
        let flags = if source != client {
            FlowFlags::REDIRECT
        } else if self.direct {
            FlowFlags::DIRECT
        } else {
            0
        };
        let flow = |tuple, kind: FlowKind, seen| Flow {
            tuple,
            meter: self.meter,
            flags: FlowFlags::of(kind, flags),
            seen,
            backend: self.index,
            generation: self.generation,
            last_seen: now.saturating_sub(self.age),
        };
        let forward = (
            FlowKey::new(asked, self.proto),
            flow(sent, FlowKind::Forward, self.forward_seen),
        );
        let reply = (
            FlowKey::new(sent.reversed(), self.proto),
            flow(asked.reversed(), FlowKind::Reply, self.reply_seen),
        );
        let (forward, reply) = match self.halves {
            Halves::Both => (Some(forward), Some(reply)),
            Halves::ForwardOnly => (Some(forward), None),
            Halves::ReplyOnly => (None, Some(reply)),
        };
        forward.into_iter().chain(reply)
    }
}
