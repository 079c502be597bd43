use std::vec::Vec;

use super::*;
use crate::{
    abi::{Backend, BackendFlags, Frontend, FrontendKind, Policies, Service, TableRef},
    datapath::{V4, V6},
    host::MemoryTables,
};

const TCP: u8 = proto::TCP;
const METER: u16 = 9;
const COOKIE: u64 = 0x1234_5678_9abc;

const fn ip4(octets: [u8; 4]) -> u32 {
    u32::from_ne_bytes(octets)
}

const CLUSTER_IP: u32 = ip4([10, 96, 0, 10]);
const LOOPBACK: u32 = ip4([127, 0, 0, 1]);
const PORT: u16 = 80u16.to_be();
const NODE_PORT: u16 = 31521u16.to_be();

/// One service with two frontends (ClusterIP and loopback:nodePort) over these backends.
fn world(backends: &[(u32, u16)]) -> MemoryTables {
    let tables = MemoryTables::default();
    let frontends = [
        (FrontendKey::new(CLUSTER_IP, PORT, TCP), FrontendKind::ClusterIp),
        (
            FrontendKey::new(LOOPBACK, NODE_PORT, TCP),
            FrontendKind::Localhost,
        ),
    ];
    for (key, kind) in frontends {
        tables
            .v4
            .frontends
            .borrow_mut()
            .insert(key, Frontend::new(5, kind).with_meter(METER));
    }
    for (index, (addr, port)) in (0..).zip(backends) {
        let backend = Backend {
            addr: *addr,
            generation: 1,
            port: *port,
            flags: BackendFlags::IN_USE,
            proto: TCP,
        };
        tables.v4.backends.borrow_mut().insert(index, backend);
    }
    let size = if backends.is_empty() { 0 } else { 64 };
    for slot in 0..size {
        tables
            .slots
            .borrow_mut()
            .insert(100 + slot, slot % backends.len() as u32);
    }
    tables.services.borrow_mut().insert(
        5,
        Service {
            table: TableRef::new(100, size),
        },
    );
    tables
}

fn ask(tables: &MemoryTables, cookie: u64, addr: u32, port: u16) -> Destination<u32> {
    destination::<V4, _>(tables, &call(cookie, addr, port, TCP))
}

/// A call of a process of the node that connects.
const fn call(cookie: u64, addr: u32, port: u16, proto: u8) -> Ask<u32> {
    Ask {
        caller: Caller::Node,
        connects: true,
        connected: false,
        cookie,
        addr,
        port,
        proto,
        now: 0,
    }
}

/// The frontend that a socket is shown as its peer.
fn shown(tables: &MemoryTables, cookie: u64, addr: u32, port: u16) -> Option<(u32, u16)> {
    shown_peer::<V4, _>(tables, cookie, addr, port).map(|peer| (peer.addr, peer.port))
}

const BACKEND: (u32, u16) = (ip4([10, 244, 1, 7]), 8080u16.to_be());
const OTHER: (u32, u16) = (ip4([10, 244, 2, 7]), 8080u16.to_be());

#[test]
fn a_socket_to_a_cluster_ip_is_sent_to_an_endpoint_and_remembered() {
    let tables = world(&[BACKEND]);
    let sent = Destination::Endpoint {
        addr: BACKEND.0,
        port: BACKEND.1,
    };
    assert_eq!(ask(&tables, COOKIE, CLUSTER_IP, PORT), sent);
    assert_eq!(
        shown(&tables, COOKIE, BACKEND.0, BACKEND.1),
        Some((CLUSTER_IP, PORT))
    );
}

#[test]
fn only_the_socket_that_asked_is_shown_the_service() {
    let tables = world(&[BACKEND]);
    ask(&tables, COOKIE, CLUSTER_IP, PORT);
    assert_eq!(shown(&tables, COOKIE + 1, BACKEND.0, BACKEND.1), None);
    assert_eq!(shown(&tables, COOKIE, OTHER.0, OTHER.1), None);
}

#[test]
fn every_loopback_address_reaches_a_node_port_and_is_shown_as_it_was_asked() {
    let tables = world(&[BACKEND]);
    for asked in [LOOPBACK, ip4([127, 0, 0, 53]), ip4([127, 255, 255, 254])] {
        assert_eq!(
            ask(&tables, COOKIE, asked, NODE_PORT),
            Destination::Endpoint {
                addr: BACKEND.0,
                port: BACKEND.1
            }
        );
        assert_eq!(
            shown(&tables, COOKIE, BACKEND.0, BACKEND.1),
            Some((asked, NODE_PORT))
        );
    }
    let near = ip4([128, 0, 0, 1]);
    assert_eq!(
        ask(&tables, COOKIE, near, NODE_PORT),
        Destination::Unchanged(Reason::SocketNotService)
    );
}

#[test]
fn what_is_no_service_stays_as_it_is() {
    let tables = world(&[BACKEND]);
    for (addr, port, proto) in [
        (CLUSTER_IP, NODE_PORT, TCP),
        (BACKEND.0, BACKEND.1, TCP),
        (CLUSTER_IP, PORT, proto::UDP),
    ] {
        let asked = destination::<V4, _>(&tables, &call(COOKIE, addr, port, proto));
        assert_eq!(asked, Destination::Unchanged(Reason::SocketNotService));
    }
    assert!(tables.v4.sockets.borrow().is_empty());
}

#[test]
fn unknown_ports_of_cluster_ips_are_refused_but_a_udp_socket_may_be_connected_to_them() {
    const UDP: u8 = proto::UDP;
    const SERVICES: u32 = ip4([10, 96, 0, 0]);
    const NOBODYS: u32 = ip4([10, 96, 0, 77]);
    let mut tables = world(&[BACKEND]);
    let balancer = ip4([203, 0, 113, 7]);
    for (addr, kind) in [
        (CLUSTER_IP, FrontendKind::ClusterIp),
        (balancer, FrontendKind::LoadBalancer),
    ] {
        let (key, entry) = (FrontendKey::of_address(addr), Frontend::of_address(kind));
        tables.v4.frontends.borrow_mut().insert(key, entry);
    }
    tables.v4.service_cidrs.push(crate::abi::Prefix {
        net: SERVICES,
        mask: ip4([255, 255, 0, 0]),
    });
    let outside = ip4([10, 97, 0, 10]);
    for (addr, refused) in [
        (CLUSTER_IP, Reason::SocketUnknownPort),
        (NOBODYS, Reason::UnallocatedAddress),
        (balancer, Reason::SocketNotService),
        (outside, Reason::SocketNotService),
    ] {
        let asked = |proto, connects| {
            let port = 81u16.to_be();
            let call = Ask {
                connects,
                ..call(COOKIE, addr, port, proto)
            };
            destination::<V4, _>(&tables, &call)
        };
        for (proto, connects) in [(TCP, true), (UDP, false)] {
            assert_eq!(asked(proto, connects), Destination::Unchanged(refused));
        }
        for (proto, connects) in [(UDP, true), (proto::ICMP, true)] {
            let passed = Destination::Unchanged(Reason::SocketNotService);
            assert_eq!(asked(proto, connects), passed);
        }
    }
}

#[test]
fn a_load_balancer_s_address_whose_ranges_leave_the_node_out_refuses_its_processes() {
    let tables = world(&[BACKEND]);
    let asked = |flags| {
        let frontend = Frontend::new(5, FrontendKind::LoadBalancer).with_flags(flags);
        let key = FrontendKey::new(CLUSTER_IP, PORT, TCP);
        tables.v4.frontends.borrow_mut().insert(key, frontend);
        ask(&tables, COOKIE, CLUSTER_IP, PORT)
    };
    assert_eq!(
        asked(FrontendFlags::RANGES | FrontendFlags::NODE_REFUSED),
        Destination::Unchanged(Reason::SocketSourceNotAllowed)
    );
    assert_eq!(
        asked(FrontendFlags::RANGES),
        Destination::Endpoint {
            addr: BACKEND.0,
            port: BACKEND.1
        },
        "no range has to hold an address that a socket does not have yet"
    );
}

#[test]
fn a_service_without_endpoints_refuses() {
    let tables = world(&[]);
    let asked = ask(&tables, COOKIE, CLUSTER_IP, PORT);
    assert_eq!(asked, Destination::Unchanged(Reason::SocketNoEndpoints));
    assert_eq!(Reason::SocketNoEndpoints.action(), crate::verdict::Action::Drop);
}

#[test]
fn a_freed_backend_is_never_sent_to() {
    let tables = world(&[BACKEND]);
    tables.v4.backends.borrow_mut().get_mut(&0).unwrap().flags = 0;
    assert_eq!(
        ask(&tables, COOKIE, CLUSTER_IP, PORT),
        Destination::Unchanged(Reason::SocketBadTable)
    );
}

#[test]
fn sockets_spread_and_each_stays_with_its_endpoint() {
    let tables = world(&[BACKEND, OTHER]);
    let chosen: Vec<_> = (0..200)
        .map(|cookie| ask(&tables, cookie, CLUSTER_IP, PORT))
        .collect();
    let first = chosen
        .iter()
        .filter(|to| {
            **to == Destination::Endpoint {
                addr: BACKEND.0,
                port: BACKEND.1,
            }
        })
        .count();
    assert!(
        (60..=140).contains(&first),
        "{first} of 200 went to the first of two endpoints"
    );
    for (cookie, before) in (0..200).zip(&chosen) {
        assert_eq!(ask(&tables, cookie, CLUSTER_IP, PORT), *before);
    }
}

#[test]
fn ipv6_loopback_is_one_address() {
    let one = [0, 0, 0, 1u32.to_be()];
    assert_eq!(V6::loopback(one), Some(one));
    assert_eq!(V6::loopback([0, 0, 0, 2u32.to_be()]), None);
    assert_eq!(V6::loopback([0; 4]), None);
}

/// The node's own processes are inside of the cluster: the policy for external traffic does not mean them.
#[test]
fn policy_local_for_internal_traffic_holds_for_cluster_ips_only() {
    let tables = world(&[BACKEND]);
    let both = Policies {
        internal_local: true,
        external_local: true,
        affinity: 0,
    };
    let table = TableRef::new(100, 64).with_policies(both);
    tables.services.borrow_mut().insert(5, Service { table });
    assert_eq!(
        ask(&tables, COOKIE, CLUSTER_IP, PORT),
        Destination::Unchanged(Reason::SocketNoLocalEndpoints)
    );
    let sent = Destination::Endpoint {
        addr: BACKEND.0,
        port: BACKEND.1,
    };
    assert_eq!(ask(&tables, COOKIE, LOOPBACK, NODE_PORT), sent);
    tables.services.borrow_mut().insert(
        5,
        Service {
            table: table.with_local(),
        },
    );
    for slot in 164..228 {
        tables.slots.borrow_mut().insert(slot, 0);
    }
    assert_eq!(ask(&tables, COOKIE, CLUSTER_IP, PORT), sent);
}

/// All processes of the node are one client, and come back to their endpoint until they stay away for too long.
#[test]
fn affinity_keeps_the_node_with_its_endpoint_until_the_timeout() {
    const S: u64 = 1_000_000_000;
    let backends: Vec<(u32, u16)> = (1..=16).map(|n| (ip4([10, 244, 1, n]), BACKEND.1)).collect();
    let tables = world(&backends);
    let table = TableRef::new(100, 64).with_policies(Policies {
        affinity: 60,
        ..Policies::default()
    });
    tables.services.borrow_mut().insert(5, Service { table });
    let at = |cookie, now| {
        let call = Ask {
            now,
            ..call(cookie, CLUSTER_IP, PORT, TCP)
        };
        destination::<V4, _>(&tables, &call)
    };
    let first = at(1, 0);
    for (cookie, now) in [(2, 0), (3, 59 * S), (4, 118 * S), (5, 178 * S)] {
        assert_eq!(at(cookie, now), first, "after {} s", now / S);
    }
    // With sixteen endpoints, twenty timeouts lead back to the same one each time once in 10^24.
    let later: Vec<_> = (1..=20).map(|nth| at(6, (178 + 61 * nth) * S)).collect();
    assert!(
        later.iter().any(|destination| *destination != first),
        "it may change then"
    );
}

const UDP: u8 = proto::UDP;

/// The same world with the cluster IP for UDP as well.
fn with_udp(tables: MemoryTables) -> MemoryTables {
    tables.v4.frontends.borrow_mut().insert(
        FrontendKey::new(CLUSTER_IP, PORT, UDP),
        Frontend::new(5, FrontendKind::ClusterIp),
    );
    tables
}

fn ask_of_pod(tables: &MemoryTables, addr: u32, port: u16, proto: u8, connects: bool) -> Destination<u32> {
    let call = Ask {
        caller: Caller::Pod,
        connects,
        ..call(COOKIE, addr, port, proto)
    };
    destination::<V4, _>(tables, &call)
}

#[test]
fn a_pod_is_sent_to_an_endpoint_unless_packets_know_better() {
    let tables = with_udp(world(&[BACKEND]));
    let sent = Destination::Endpoint {
        addr: BACKEND.0,
        port: BACKEND.1,
    };
    let left = Destination::Unchanged(Reason::SocketLeftToPackets);
    assert_eq!(ask_of_pod(&tables, CLUSTER_IP, PORT, TCP, true), sent);
    assert_eq!(ask_of_pod(&tables, CLUSTER_IP, PORT, UDP, false), sent);
    assert_eq!(ask_of_pod(&tables, CLUSTER_IP, PORT, UDP, true), left);
    tables.services.borrow_mut().insert(
        5,
        Service {
            table: TableRef::new(100, 64).with_policies(Policies {
                affinity: 60,
                ..Policies::default()
            }),
        },
    );
    assert_eq!(ask_of_pod(&tables, CLUSTER_IP, PORT, TCP, true), left);
    assert_eq!(ask_of_pod(&tables, CLUSTER_IP, PORT, UDP, false), left);
}

#[test]
fn a_pod_that_asks_a_load_balancer_is_left_to_packets() {
    let tables = world(&[BACKEND]);
    let addr = ip4([203, 0, 113, 1]);
    tables.v4.frontends.borrow_mut().insert(
        FrontendKey::new(addr, PORT, TCP),
        Frontend::new(5, FrontendKind::LoadBalancer),
    );
    assert_eq!(
        ask_of_pod(&tables, addr, PORT, TCP, true),
        Destination::Unchanged(Reason::SocketLeftToPackets)
    );
}

#[test]
fn the_loopback_addresses_of_a_pod_are_its_own() {
    let tables = world(&[BACKEND]);
    for addr in [LOOPBACK, ip4([127, 0, 0, 53])] {
        assert_eq!(
            ask_of_pod(&tables, addr, NODE_PORT, TCP, true),
            Destination::Unchanged(Reason::SocketNotService)
        );
    }
}

/// The agent tells by it which sockets have lost their endpoint.
#[test]
fn a_socket_remembers_index_and_generation_of_its_endpoint() {
    let tables = world(&[BACKEND]);
    ask(&tables, COOKIE, CLUSTER_IP, PORT);
    let of = |tables| {
        let peer = shown_peer::<V4, MemoryTables>(tables, COOKIE, BACKEND.0, BACKEND.1).unwrap();
        (peer.backend, peer.generation)
    };
    assert_eq!(of(&tables), (0, 1));
    tables.v4.backends.borrow_mut().get_mut(&0).unwrap().generation = 2;
    ask(&tables, COOKIE, CLUSTER_IP, PORT);
    assert_eq!(of(&tables), (0, 2));
}

#[test]
fn a_socket_is_counted_when_it_is_sent_to_an_endpoint_and_not_again() {
    let tables = world(&[BACKEND]);
    for (cookie, sockets) in [(COOKIE, 1), (COOKIE, 1), (COOKIE + 1, 2)] {
        ask(&tables, cookie, CLUSTER_IP, PORT);
        let counted = tables.meters.borrow().get(&METER).copied();
        let expected = Meter {
            sockets,
            ..Meter::default()
        };
        assert_eq!(counted, Some(expected));
    }
    let empty = world(&[]);
    ask(&empty, COOKIE, CLUSTER_IP, PORT);
    assert!(empty.meters.borrow().is_empty(), "nobody serves");
}
