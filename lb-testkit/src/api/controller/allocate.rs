//! Cluster IPs and node ports: who has which.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::api::store::Key;

/// The first addresses that are given out: `10.96.16.0` and `fd00:10:96::1000`. Those before are for tests that choose.
const FIRST: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 16, 0)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x1000)),
];
/// Node ports, as `--service-node-port-range` has them by default.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// What Services hold.
#[derive(Debug)]
pub(crate) struct Allocator {
    pub(super) families: Vec<&'static str>,
    addresses: BTreeMap<IpAddr, Key>,
    ports: BTreeMap<u16, Key>,
    held: BTreeMap<Key, Held>,
    next_address: [u32; 2],
    next_port: u16,
}

/// What one Service holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl Default for Allocator {
    fn default() -> Self {
        Self {
            families: vec!["IPv4", "IPv6"],
            addresses: BTreeMap::new(),
            ports: BTreeMap::new(),
            held: BTreeMap::new(),
            next_address: [1; 2],
            next_port: *NODE_PORTS.start(),
        }
    }
}

impl Allocator {
    /// Takes all from a Service.
    pub(super) fn release(&mut self, key: &Key) -> Held {
        let held = self.held.remove(key).unwrap_or_default();
        for address in &held.addresses {
            self.addresses.remove(address);
        }
        for port in &held.ports {
            self.ports.remove(port);
        }
        held
    }

    /// Gives a Service back what it had, and nothing else.
    pub(super) fn restore(&mut self, key: &Key, held: Held) {
        self.release(key);
        for address in held.addresses {
            self.claim_address(key, address);
        }
        for port in held.ports {
            self.claim_port(key, port);
        }
    }

    /// Whether a Service gets this address: nobody else has it.
    pub(super) fn claim_address(&mut self, key: &Key, address: IpAddr) -> bool {
        let owner = self.addresses.entry(address).or_insert_with(|| key.clone());
        let own = owner == key;
        if own {
            self.held.entry(key.clone()).or_default().addresses.push(address);
        }
        own
    }

    /// Whether a Service gets this port: nobody else has it.
    pub(super) fn claim_port(&mut self, key: &Key, port: u16) -> bool {
        let owner = self.ports.entry(port).or_insert_with(|| key.clone());
        let own = owner == key;
        if own {
            self.held.entry(key.clone()).or_default().ports.push(port);
        }
        own
    }

    /// An address that nobody has.
    pub(super) fn any_address(&mut self, key: &Key, family: &str) -> IpAddr {
        let index = usize::from(family == "IPv6");
        loop {
            let number = self.next_address[index];
            self.next_address[index] += 1;
            let address = match FIRST[index] {
                IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + number).into(),
                IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() + u128::from(number)).into(),
            };
            if !self.addresses.contains_key(&address) {
                self.claim_address(key, address);
                return address;
            }
        }
    }

    /// A node port that nobody has, if there is one.
    pub(super) fn any_port(&mut self, key: &Key) -> Option<u16> {
        for _ in NODE_PORTS {
            let port = self.next_port;
            self.next_port = if port == *NODE_PORTS.end() {
                *NODE_PORTS.start()
            } else {
                port + 1
            };
            if !self.ports.contains_key(&port) {
                self.claim_port(key, port);
                return Some(port);
            }
        }
        None
    }
}
