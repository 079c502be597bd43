//! Which role a device has: a pure function of what netlink tells of it.

use lb_common::datapath::Role;

/// What kind of device it is, as `ip -details link` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A device without a kind of its own: a network card.
    Physical,
    /// One end of a veth pair.
    Veth,
    /// A device on top of others that carries the node's own traffic: VLAN, bond, team, macvlan, VXLAN, Geneve.
    Upper,
    /// A bridge.
    Bridge,
    /// Anything else: dummy, tunnels, ifb, …
    Other,
}

/// What netlink tells of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index, unique in its namespace at any time.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address; zero if it has none of 6 bytes.
    pub hardware: [u8; 6],
    /// What kind of device it is.
    pub kind: Kind,
    /// Whether its frames begin with an Ethernet header.
    pub ethernet: bool,
    /// Whether it is the loopback device.
    pub loopback: bool,
    /// The network namespace of its other end, as the kernel numbers it for the agent's; none if that is the same one.
    pub peer_namespace: Option<i32>,
    /// Whether it is a port of a bridge, bond or team.
    pub port: bool,
    /// Whether it carries an address of global scope.
    pub addressed: bool,
    /// Whether one of these addresses comes with a network (its prefix is shorter than the address), so that the
    /// device leads to neighbours.
    pub networked: bool,
    /// Of a bridge: whether a network card or upper device is among its ports.
    pub leads_out: bool,
    /// Whether a VLAN or macvlan of the node is on top of it, which has its packets then.
    pub stacked: bool,
}

/// Name patterns that go before the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Devices that are uplinks.
    pub uplink: Vec<Pattern>,
    /// Devices that are workloads.
    pub workload: Vec<Pattern>,
}

/// A name pattern: `*` stands for any characters, `?` for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// A pattern; any text is one.
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    /// The pattern as it was written.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether the whole of `name` fits.
    pub fn matches(&self, name: &str) -> bool {
        fn fits(pattern: &[u8], name: &[u8]) -> bool {
            match (pattern, name) {
                ([], []) => true,
                ([b'*', rest @ ..], _) => (0..=name.len()).any(|skip| fits(rest, &name[skip..])),
                ([b'?', rest @ ..], [_, tail @ ..]) => fits(rest, tail),
                ([byte, rest @ ..], [first, tail @ ..]) => byte == first && fits(rest, tail),
                _ => false,
            }
        }
        fits(self.0.as_bytes(), name.as_bytes())
    }
}

/// The role of a device and why it has it, or why it has none.
///
/// - The loopback device has none: the socket hooks serve the node's own processes.
/// - A device without Ethernet header has none: the programs parse Ethernet frames.
/// - A device that matches a pattern has the role that the pattern gives.
/// - A veth with an address in a network is the node's own (a node inside a namespace or container). Any other veth is
///   a workload, be it routed or a port of a bridge: the node's end of a pod's interface. The CNI plugin `ptp` (kind's
///   default network uses it) gives that end the pods' gateway address with a prefix of full length.
/// - A veth without an address on which a VLAN or macvlan of the node stands is no pod's: the device on top sees its packets.
/// - A network card or upper device is an uplink if it carries a global address of the node. Ports of a bond or bridge
///   carry none; the device on top sees their packets.
/// - A bridge with a global address and a network card or upper device as a port is an uplink: what is sent to the node
///   passes it, with the bridge's own hardware address, which need not be the card's, and the node's routes lead to it.
///   (A card that is a veth, as in a container, looks like a pod's: such a bridge has to be named.)
/// - Any other bridge has none: its ports have.
///
/// # Errors
///
/// The reason, for logs.
pub fn role(device: &Device, overrides: &Overrides) -> Result<(Role, &'static str), &'static str> {
    let named = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(&device.name));
    if device.loopback {
        return Err("it is the loopback device");
    }
    if !device.ethernet {
        return Err("its frames have no Ethernet header");
    }
    if named(&overrides.uplink) {
        return Ok((Role::Uplink, "it is named by --uplink"));
    }
    if named(&overrides.workload) {
        return Ok((Role::Workload, "it is named by --workload"));
    }
    match device.kind {
        Kind::Veth if device.networked && !device.port => Ok((
            Role::Uplink,
            "it is a veth with an address of the node in a network",
        )),
        Kind::Veth if device.stacked && !device.addressed => Err("another device is on top of it"),
        Kind::Veth => Ok((Role::Workload, "it is the node's end of a pod's veth")),
        Kind::Physical | Kind::Upper if device.port => Err("it is a port of another device"),
        Kind::Physical if device.addressed => {
            Ok((Role::Uplink, "it is a network card with an address of the node"))
        }
        Kind::Upper if device.addressed => Ok((
            Role::Uplink,
            "it is a device on top of another with an address of the node",
        )),
        Kind::Physical | Kind::Upper => Err("it carries no address of the node"),
        Kind::Bridge if device.addressed && device.leads_out => Ok((
            Role::Uplink,
            "it is a bridge with an address of the node and a network card as a port",
        )),
        Kind::Bridge => Err("it is a bridge, whose ports are attached to"),
        Kind::Other => Err("devices of its kind carry no pods and no outside traffic"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, kind: Kind) -> Device {
        let name = name.to_owned();
        Device {
            index: 7,
            name,
            hardware: [2, 0, 0, 0, 0, 7],
            kind,
            ethernet: true,
            loopback: false,
            peer_namespace: None,
            port: false,
            addressed: false,
            networked: false,
            leads_out: false,
            stacked: false,
        }
    }

    fn addressed(name: &str, kind: Kind) -> Device {
        Device {
            addressed: true,
            networked: true,
            ..device(name, kind)
        }
    }

    fn port(name: &str, kind: Kind) -> Device {
        Device {
            port: true,
            ..device(name, kind)
        }
    }

    #[test]
    fn roles_follow_kind_and_address() {
        let none = Overrides::default();
        for (case, device, expected) in [
            (
                "a network card with an address",
                addressed("eth0", Kind::Physical),
                Ok(Role::Uplink),
            ),
            ("a network card in a bond", port("eth1", Kind::Physical), Err(())),
            (
                "a network card without address",
                device("eth2", Kind::Physical),
                Err(()),
            ),
            ("a bond", addressed("bond0", Kind::Upper), Ok(Role::Uplink)),
            ("a VLAN", addressed("bond0.100", Kind::Upper), Ok(Role::Uplink)),
            (
                "an overlay device",
                addressed("flannel.1", Kind::Upper),
                Ok(Role::Uplink),
            ),
            ("a routed pod", device("cali1234", Kind::Veth), Ok(Role::Workload)),
            (
                "a pod on a bridge",
                port("veth1234", Kind::Veth),
                Ok(Role::Workload),
            ),
            (
                "the uplink of a node in a container",
                addressed("eth0", Kind::Veth),
                Ok(Role::Uplink),
            ),
            (
                "a pod of the ptp plugin, with the gateway's address on the node's end",
                Device {
                    networked: false,
                    ..addressed("veth1234", Kind::Veth)
                },
                Ok(Role::Workload),
            ),
            (
                "a network card with an address of full length",
                Device {
                    networked: false,
                    ..addressed("eth0", Kind::Physical)
                },
                Ok(Role::Uplink),
            ),
            ("the pods' bridge", addressed("cni0", Kind::Bridge), Err(())),
            (
                "a bridge with the card as a port",
                Device {
                    leads_out: true,
                    ..addressed("br0", Kind::Bridge)
                },
                Ok(Role::Uplink),
            ),
            (
                "a bridge that joins others to the card's network, and not the node",
                Device {
                    leads_out: true,
                    ..device("br1", Kind::Bridge)
                },
                Err(()),
            ),
            ("a macvlan", addressed("mv0", Kind::Upper), Ok(Role::Uplink)),
            (
                "what a macvlan is on top of, in a container",
                Device {
                    stacked: true,
                    ..device("eth0", Kind::Veth)
                },
                Err(()),
            ),
            (
                "an uplink that a VLAN is on top of as well, in a container",
                Device {
                    stacked: true,
                    ..addressed("eth0", Kind::Veth)
                },
                Ok(Role::Uplink),
            ),
            ("a dummy device", addressed("kube-ipvs0", Kind::Other), Err(())),
        ] {
            let found = role(&device, &none).map(|(role, _)| role).map_err(|_| ());
            assert_eq!(found, expected, "{case}");
        }
    }

    #[test]
    fn patterns_go_before_rules() {
        let overrides = Overrides {
            uplink: vec![Pattern::new("ens*")],
            workload: vec![Pattern::new("tap?"), Pattern::new("lo")],
        };
        let found = |device: Device| role(&device, &overrides).map(|(role, _)| role);
        assert_eq!(found(device("ens5", Kind::Veth)), Ok(Role::Uplink));
        assert_eq!(found(device("tap1", Kind::Other)), Ok(Role::Workload));
        assert_eq!(found(device("veth1", Kind::Veth)), Ok(Role::Workload));
    }

    #[test]
    fn no_pattern_reaches_loopback_or_a_device_without_ethernet() {
        let all = Overrides {
            uplink: vec![Pattern::new("*")],
            workload: vec![],
        };
        assert!(
            role(
                &Device {
                    loopback: true,
                    ..device("lo", Kind::Other)
                },
                &all
            )
            .is_err()
        );
        assert!(
            role(
                &Device {
                    ethernet: false,
                    ..device("wg0", Kind::Other)
                },
                &all
            )
            .is_err()
        );
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, fits) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth*", "eth", true),
            ("*", "", true),
            ("e?h*1", "eth0.1", true),
            ("?", "", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(name), fits, "{pattern} {name}");
        }
    }
}
