//! Source ports for flows that cannot keep their own.

use crate::{
    abi::{Address, FlowKey, port_from_wire, port_to_wire},
    maglev,
};

/// A range of ports that nobody else on the node uses: outside of the local ephemeral range and of the NodePorts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The first, in host order.
    pub first: u16,
    /// How many; not 0.
    pub count: u16,
}

impl Ports {
    /// Whether a port (bytes as in the packet) is one of them.
    #[inline(always)]
    pub const fn contains(self, port: u16) -> bool {
        port_from_wire(port).wrapping_sub(self.first) < self.count
    }

    /// The port (bytes as in the packet) to try at that attempt. Attempts spread evenly over the range from wherever
    /// `hash` begins (Weyl's sequence: multiples of the golden ratio).
    #[inline(always)]
    pub const fn candidate(self, hash: u32, attempt: u32) -> u16 {
        let place = hash.wrapping_add(attempt.wrapping_mul(0x9e37_79b9));
        let offset = (place as u64 * self.count as u64) >> 32;
        port_to_wire(self.first.wrapping_add(offset as u16))
    }
}

/// Where a flow begins to look for a port: what [`Ports::candidate`] takes.
#[inline(always)]
pub fn port_hash<A: Address>(key: &FlowKey<A>) -> u32 {
    let to = maglev::mix(key.tuple.dst.fold());
    maglev::flow_hash(
        key.tuple.src,
        key.tuple.src_port(),
        key.tuple.dst_port(),
        key.proto(),
    ) ^ to as u32
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::limits::SNAT_ATTEMPTS;

    const PORTS: Ports = Ports {
        first: 1024,
        count: 28_976,
    };

    #[test]
    fn candidates_lie_in_the_range_and_differ() {
        for hash in [0, 1, 0x7fff_ffff, u32::MAX] {
            let tried: HashSet<u16> = (0..SNAT_ATTEMPTS)
                .map(|attempt| PORTS.candidate(hash, attempt))
                .collect();
            assert_eq!(tried.len(), SNAT_ATTEMPTS as usize);
            assert!(tried.iter().all(|port| PORTS.contains(*port)));
        }
    }

    #[test]
    fn the_range_ends_where_it_says() {
        for (port, inside) in [
            (1023, false),
            (1024, true),
            (29_999, true),
            (30_000, false),
            (0, false),
        ] {
            assert_eq!(PORTS.contains(port_to_wire(port)), inside, "{port}");
        }
        let all = Ports {
            first: 65_535,
            count: 1,
        };
        assert!(all.contains(port_to_wire(65_535)) && !all.contains(0));
    }

    #[test]
    fn every_port_of_a_range_is_reached() {
        let few = Ports {
            first: 61_000,
            count: 16,
        };
        let reached: HashSet<u16> = (0..SNAT_ATTEMPTS)
            .map(|attempt| few.candidate(7, attempt))
            .collect();
        assert_eq!(reached.len(), 16);
    }
}
