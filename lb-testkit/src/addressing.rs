//! The addresses of every lab. They are the same in each lab (its namespaces keep them apart) and the same as in the
//! manifests of the `examples` folder.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Nodes of a lab.
pub const NODES: usize = 2;

/// The most pods that a node can have: their names end in one letter.
pub const MAX_PODS_PER_NODE: usize = 26;

/// Device of a node that leads to the switch, and the only device of a pod and of the outside client.
pub const UPLINK: &str = "eth0";

/// Bridge that joins the pods of a node in [`Wiring::Bridged`](crate::Wiring::Bridged).
pub const POD_BRIDGE: &str = "cni0";

/// IPv4 address of the outside client.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 100);

/// IPv6 address of the outside client.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 0x100);

/// Gateway of a pod that is wired by a routed veth: no host has this address, a permanent neighbour entry answers.
pub const ROUTED_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// As [`ROUTED_GATEWAY_V4`]; every routed veth has it on the node's side.
pub const ROUTED_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Hardware address of the node's side of every routed veth, so that pods can know it beforehand.
pub(crate) const ROUTED_GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// IPv4 address of a node; `node` counts from 0.
pub fn node_v4(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(172, 18, 0, octet(node + 2))
}

/// IPv6 address of a node; `node` counts from 0.
pub fn node_v6(node: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, written(node + 2))
}

/// IPv4 address of a pod: `.10` for the first of its node. `node` and `pod` count from 0.
pub fn pod_v4(node: usize, pod: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, octet(node + 1), octet(10 + pod))
}

/// IPv6 address of a pod: `::10` for the first of its node (the digits of its IPv4 address, read as hexadecimal).
pub fn pod_v6(node: usize, pod: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x244, written(node + 1), 0, 0, 0, written(10 + pod))
}

/// Address of the bridge of a node, the gateway of its bridged pods.
pub fn bridge_v4(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, octet(node + 1), 1)
}

/// As [`bridge_v4`].
pub fn bridge_v6(node: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x244, written(node + 1), 0, 0, 0, 1)
}

/// The pods of a node, as `address/length`.
pub fn pod_subnet_v4(node: usize) -> String {
    format!("10.244.{}.0/24", node + 1)
}

/// As [`pod_subnet_v4`].
pub fn pod_subnet_v6(node: usize) -> String {
    format!("fd00:10:244:{}::/64", node + 1)
}

fn octet(number: usize) -> u8 {
    u8::try_from(number).expect("nodes and pods of a lab are counted in tens")
}

/// The number whose hexadecimal digits are the decimal digits of `number`.
fn written(number: usize) -> u16 {
    u16::from_str_radix(&number.to_string(), 16).expect("nodes and pods of a lab are counted in tens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_show_the_same_digits() {
        assert_eq!(pod_v4(1, 2).to_string(), "10.244.2.12");
        assert_eq!(pod_v6(1, 2).to_string(), "fd00:10:244:2::12");
        assert_eq!(node_v4(1).to_string(), "172.18.0.3");
        assert_eq!(node_v6(1).to_string(), "fd00:172:18::3");
        assert_eq!(CLIENT_V6.to_string(), "fd00:172:18::100");
    }
}
