//! The maps of a node, filled as an agent does it: backends, tables, services, and the other way round for what goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    abi::{
        Address, Backend, BackendFlags, Either, Frontend, FrontendKey, FrontendKind, Service, TableRef,
        from_ip, port_to_wire,
    },
    host::{MemoryTables, PerFamily},
    maglev::{self, Cursor, Member},
};

/// A service port: its identifier and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Index into SERVICES.
    pub id: u32,
    /// IP protocol number.
    pub proto: u8,
}

/// The agent of a node.
#[derive(Debug, Default)]
pub struct Control {
    /// By index into BACKENDS: generation, and whose it is.
    slots: Vec<(u32, Option<(Port, SocketAddr)>)>,
    next_slot: u32,
}

impl Control {
    /// An agent that came to a node with so many used backend slots: indexes differ from node to node.
    pub fn after(slots: usize) -> Self {
        Self {
            slots: vec![(1, None); slots],
            next_slot: 0,
        }
    }

    /// Adds a frontend.
    pub fn frontend(tables: &MemoryTables, addr: SocketAddr, port: Port, kind: FrontendKind) {
        fn put<A: Address>(per: &PerFamily<A>, addr: A, at: u16, port: Port, kind: FrontendKind) {
            let key = FrontendKey::new(addr, port_to_wire(at), port.proto);
            per.frontends
                .borrow_mut()
                .insert(key, Frontend::new(port.id, kind));
        }
        match from_ip(addr.ip()) {
            Either::V4(ip) => put(&tables.v4, ip, addr.port(), port, kind),
            Either::V6(ip) => put(&tables.v6, ip, addr.port(), port, kind),
        }
    }

    /// Brings a service port to these endpoints; `is_local` tells which of them run on this node.
    pub fn set(
        &mut self,
        tables: &MemoryTables,
        port: Port,
        endpoints: &BTreeSet<SocketAddr>,
        is_local: impl Fn(IpAddr) -> bool,
    ) {
        let mut members = BTreeMap::new();
        for endpoint in endpoints {
            let index = self.index(port, *endpoint);
            let generation = self.slots[index as usize].0;
            let mut flags = BackendFlags::IN_USE;
            if is_local(endpoint.ip()) {
                flags |= BackendFlags::LOCAL;
            }
            write(tables, index, *endpoint, (generation, flags, port.proto));
            members.insert(*endpoint, index);
        }
        let table = self.table(tables, &members);
        tables.services.borrow_mut().insert(port.id, Service { table });
        for index in 0..self.slots.len() {
            let (generation, owner) = self.slots[index];
            if let Some((owner, endpoint)) = owner
                && owner == port
                && !endpoints.contains(&endpoint)
            {
                self.slots[index] = (generation + 1, None);
                write(tables, index as u32, endpoint, (generation + 1, 0, 0));
            }
        }
    }

    /// The index of an endpoint: the one it has, or the first that is free.
    fn index(&mut self, port: Port, endpoint: SocketAddr) -> u32 {
        let place = |wanted: Option<(Port, SocketAddr)>| {
            move |(_, owner): &(u32, Option<(Port, SocketAddr)>)| *owner == wanted
        };
        let has = self.slots.iter().position(place(Some((port, endpoint))));
        let index = has
            .or_else(|| self.slots.iter().position(place(None)))
            .unwrap_or_else(|| {
                self.slots.push((1, None));
                self.slots.len() - 1
            });
        self.slots[index].1 = Some((port, endpoint));
        index as u32
    }

    /// Writes a table into space that was never used.
    fn table(&mut self, tables: &MemoryTables, members: &BTreeMap<SocketAddr, u32>) -> TableRef {
        let members: Vec<Member> = members
            .iter()
            .map(|(endpoint, index)| {
                let port = port_to_wire(endpoint.port());
                Member {
                    id: match from_ip(endpoint.ip()) {
                        Either::V4(ip) => maglev::endpoint_id(ip, port),
                        Either::V6(ip) => maglev::endpoint_id(ip, port),
                    },
                    weight: 1,
                    backend: *index,
                }
            })
            .collect();
        let size = maglev::table_size(members.len());
        let mut slots = vec![0; size as usize];
        maglev::build(&members, &mut vec![Cursor::default(); members.len()], &mut slots);
        let offset = self.next_slot;
        self.next_slot += size;
        tables.slots.borrow_mut().extend((offset..).zip(slots));
        TableRef::new(offset, size)
    }
}

/// Writes a backend: its generation, flags and protocol.
fn write(tables: &MemoryTables, index: u32, endpoint: SocketAddr, (generation, flags, proto): (u32, u8, u8)) {
    fn put<A: Address>(per: &PerFamily<A>, index: u32, backend: Backend<A>) {
        per.backends.borrow_mut().insert(index, backend);
    }
    let port = port_to_wire(endpoint.port());
    match from_ip(endpoint.ip()) {
        Either::V4(addr) => put(
            &tables.v4,
            index,
            Backend {
                addr,
                generation,
                port,
                flags,
                proto,
            },
        ),
        Either::V6(addr) => put(
            &tables.v6,
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
