//! Who has which address, and the `ip` commands that make it so.

use std::net::{Ipv4Addr, Ipv6Addr};

/// How pods are connected to their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// A veth for each pod, with a route to the pod (as Calico does).
    Routed,
    /// A bridge on the node, with a veth port for each pod (as the bridge plugin and flannel do).
    Bridged,
    /// As [`Self::Bridged`], and packets between pods of different nodes go through a VXLAN device with an address of its
    /// own, whose frames are smaller (as flannel does by default). What pods send to anywhere else is masqueraded.
    Overlay,
}

impl Wiring {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Routed, Self::Bridged, Self::Overlay];

    /// Whether pods are ports of a bridge.
    const fn has_bridge(self) -> bool {
        matches!(self, Self::Bridged | Self::Overlay)
    }
}

/// Addresses of the lab. Nodes and pods are counted from 1.
pub mod addresses {
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// IPv4 address of a node.
    pub const fn node4(node: u8) -> Ipv4Addr {
        Ipv4Addr::new(172, 18, 0, 1 + node)
    }

    /// IPv6 address of a node.
    pub const fn node6(node: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 1 + node as u16)
    }

    /// IPv4 address of a pod on a node.
    pub const fn pod4(node: u8, pod: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, node, 10 + pod)
    }

    /// IPv6 address of a pod on a node: `fd00:10:244:<node>::11` for the first.
    pub const fn pod6(node: u8, pod: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x10, 0x244, node as u16, 0, 0, 0, 0x10 + pod as u16)
    }

    /// IPv4 address of a node's bridge for pods, if it has one.
    pub const fn bridge4(node: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, node, 1)
    }

    /// IPv6 address of a node's bridge for pods, if it has one.
    pub const fn bridge6(node: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x10, 0x244, node as u16, 0, 0, 0, 1)
    }

    /// IPv4 address of a node's overlay device, if it has one.
    pub const fn overlay4(node: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, node, 0)
    }

    /// IPv6 address of a node's overlay device, if it has one. Not the first of the pods' network, as the IPv4 address is:
    /// that is the anycast address of its routers (RFC 4291, section 2.6.1).
    pub const fn overlay6(node: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x10, 0x244, node as u16, 0, 0, 0, 2)
    }

    /// IPv4 address of the client outside.
    pub const CLIENT4: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 100);
    /// IPv6 address of the client outside.
    pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 0x100);
}

/// Hardware address of the node's end of a routed pod's interface.
const GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// The overlay device of a node.
const OVERLAY: &str = "flannel.1";
/// What its header leaves of the 1500 bytes of a packet, IPv4 being outside.
const OVERLAY_MTU: u16 = 1450;

/// Hardware address of a node's overlay device.
fn overlay_mac(node: u8) -> String {
    format!("02:00:00:00:00:{node:02x}")
}

/// The name of a pod: `n1-a` is the first of node 1.
pub(crate) fn pod_name(node: u8, pod: u8) -> String {
    format!("n{node}-{}", char::from(b'a' + pod - 1))
}

/// Commands for the switch's namespace.
pub(crate) fn switch(ends: &[(String, String)]) -> Vec<String> {
    let mut lines = vec![
        "link add br0 type bridge".to_owned(),
        "link set br0 up".to_owned(),
    ];
    for (port, netns) in ends {
        lines.push(format!("link add {port} type veth peer name eth0 netns {netns}"));
        lines.push(format!("link set {port} master br0 up"));
    }
    lines
}

/// Commands for the client's namespace.
pub(crate) fn client() -> Vec<String> {
    use addresses::{CLIENT4, CLIENT6};
    vec![
        "link set lo up".to_owned(),
        format!("addr add {CLIENT4}/24 dev eth0"),
        format!("addr add {CLIENT6}/64 dev eth0 nodad"),
        "link set eth0 up".to_owned(),
    ]
}

/// Commands for a node's namespace: its own device, its pods' devices, and the ways to the pods of the others.
pub(crate) fn node(node: u8, nodes: u8, pods: &[String], wiring: Wiring) -> Vec<String> {
    use addresses::{CLIENT4, CLIENT6, bridge4, bridge6, node4, node6, overlay4, overlay6, pod4, pod6};
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("addr add {}/24 dev eth0", node4(node)),
        format!("addr add {}/64 dev eth0 nodad", node6(node)),
        "link set eth0 up".to_owned(),
        format!("route add default via {CLIENT4}"),
        format!("route add default via {CLIENT6}"),
    ];
    if wiring == Wiring::Overlay {
        lines.extend(overlay(node, nodes));
    }
    for other in (1..=nodes).filter(|other| *other != node) {
        let (v4, v6) = match wiring {
            Wiring::Routed | Wiring::Bridged => {
                (format!("via {}", node4(other)), format!("via {}", node6(other)))
            }
            Wiring::Overlay => (
                format!("via {} dev {OVERLAY} onlink", overlay4(other)),
                format!("via {} dev {OVERLAY} onlink", overlay6(other)),
            ),
        };
        lines.push(format!("route add 10.244.{other}.0/24 {v4}"));
        lines.push(format!("route add fd00:10:244:{other}::/64 {v6}"));
    }
    if wiring.has_bridge() {
        lines.extend([
            "link add cni0 type bridge".to_owned(),
            format!("addr add {}/24 dev cni0", bridge4(node)),
            format!("addr add {}/64 dev cni0 nodad", bridge6(node)),
            "link set cni0 up".to_owned(),
        ]);
    }
    for (pod, netns) in (1..).zip(pods) {
        let veth = format!("veth-{}", pod_name(node, pod));
        match wiring {
            Wiring::Routed => lines.extend([
                format!("link add {veth} address {GATEWAY_MAC} type veth peer name eth0 netns {netns}"),
                format!("link set {veth} up"),
                format!("addr add fe80::1/64 dev {veth} nodad"),
                format!("route add {}/32 dev {veth}", pod4(node, pod)),
                format!("route add {}/128 dev {veth}", pod6(node, pod)),
            ]),
            Wiring::Bridged | Wiring::Overlay => lines.extend([
                format!("link add {veth} type veth peer name eth0 netns {netns}"),
                format!("link set {veth} master cni0 up"),
                // As the bridge plugin's hairpinMode: a pod may be an endpoint of a service that it asks, and then its
                // packet goes back to the port that it came from.
                format!("link set {veth} type bridge_slave hairpin on"),
            ]),
        }
    }
    lines
}

/// Commands for a node's overlay device. There are two nodes, so that all its frames go to the other one.
fn overlay(node: u8, nodes: u8) -> Vec<String> {
    use addresses::{node4, overlay4, overlay6};
    let mut lines = Vec::new();
    for other in (1..=nodes).filter(|other| *other != node) {
        lines.extend([
            format!(
                "link add {OVERLAY} address {} mtu {OVERLAY_MTU} type vxlan id 1 dstport 8472 local {} remote {} dev eth0 \
                 nolearning",
                overlay_mac(node),
                node4(node),
                node4(other)
            ),
            format!("addr add {}/32 dev {OVERLAY}", overlay4(node)),
            format!("addr add {}/128 dev {OVERLAY} nodad", overlay6(node)),
            format!("link set {OVERLAY} up"),
        ]);
        for addr in [overlay4(other).to_string(), overlay6(other).to_string()] {
            let mac = overlay_mac(other);
            lines.push(format!(
                "neigh add {addr} lladdr {mac} dev {OVERLAY} nud permanent"
            ));
        }
    }
    lines
}

/// The node's own rules, as flannel sets them: pods' packets to addresses that are no pods' get the node's as their source,
/// because others would send their answers past the overlay.
pub(crate) const MASQUERADE: &str = "
table ip cni {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade
  }
}
table ip6 cni {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ip6 saddr fd00:10:244::/48 ip6 daddr != fd00:10:244::/48 masquerade
  }
}
";

/// Commands for a pod's namespace.
pub(crate) fn pod(node: u8, pod: u8, wiring: Wiring) -> Vec<String> {
    let (v4, v6): (Ipv4Addr, Ipv6Addr) = (addresses::pod4(node, pod), addresses::pod6(node, pod));
    let mut lines = vec!["link set lo up".to_owned()];
    match wiring {
        Wiring::Routed => lines.extend([
            format!("addr add {v4}/32 dev eth0"),
            format!("addr add {v6}/128 dev eth0 nodad"),
            "link set eth0 up".to_owned(),
            "route add 169.254.1.1 dev eth0 scope link".to_owned(),
            "route add default via 169.254.1.1 dev eth0".to_owned(),
            format!("neigh add 169.254.1.1 lladdr {GATEWAY_MAC} dev eth0 nud permanent"),
            "route add default via fe80::1 dev eth0".to_owned(),
            format!("neigh add fe80::1 lladdr {GATEWAY_MAC} dev eth0 nud permanent"),
        ]),
        Wiring::Bridged | Wiring::Overlay => lines.extend([
            format!("addr add {v4}/24 dev eth0"),
            format!("addr add {v6}/64 dev eth0 nodad"),
            "link set eth0 up".to_owned(),
            format!("route add default via {}", addresses::bridge4(node)),
            format!("route add default via {}", addresses::bridge6(node)),
        ]),
    }
    if wiring == Wiring::Overlay {
        lines.push(format!("link set eth0 mtu {OVERLAY_MTU}"));
    }
    lines
}
