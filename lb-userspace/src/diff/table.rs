//! The content of a service's Maglev table.

use std::collections::BTreeMap;

use lb_common::{
    abi::{Either, from_ip, port_to_wire},
    maglev::{self, Cursor, Member},
};

use crate::desired::EndpointAddr;

/// Builds tables, and keeps the memory for it.
#[derive(Debug, Default)]
pub(super) struct Builder {
    members: Vec<Member>,
    cursors: Vec<Cursor>,
}

impl Builder {
    /// A table of `size` slots of those endpoints, each with its index in BACKENDS. Which endpoint a slot belongs to
    /// depends on nothing but the set of endpoints and the size.
    pub(super) fn build(&mut self, endpoints: &BTreeMap<EndpointAddr, u32>, size: u32) -> Vec<u32> {
        self.members.clear();
        self.members.extend(endpoints.iter().map(|(endpoint, backend)| {
            let port = port_to_wire(endpoint.port);
            let id = match from_ip(endpoint.addr) {
                Either::V4(addr) => maglev::endpoint_id(addr, port),
                Either::V6(addr) => maglev::endpoint_id(addr, port),
            };
            Member {
                id,
                weight: 1,
                backend: *backend,
            }
        }));
        self.cursors.resize(self.members.len(), Cursor::default());
        let mut table = vec![0; size as usize];
        maglev::build(&self.members, &mut self.cursors, &mut table);
        table
    }
}
