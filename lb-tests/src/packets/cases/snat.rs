//! Flows whose endpoint sees another source: from outside to another node, from a pod to itself, and ports that are taken.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    abi::{Address, Either, FlowKey, FrontendKind, Tuple, from_ip, port_from_wire, port_to_wire},
    datapath::{Hook, port_hash},
    limits::SNAT_ATTEMPTS,
    verdict::Reason,
};
use lb_testkit::packet::{Build, addr};

use super::{
    Addresses, FROM_UPLINK, FROM_WORKLOAD, MATRIX, first, flow, later, redirected, rewritten, service,
    services::with_port, untouched,
};
use crate::packets::{
    case::Case,
    native::SNAT_PORTS,
    world::{FlowSpec, PODS, UPLINK, World},
};

/// A port that clients outside may keep: no port of the node's own sockets, and no NodePort.
const FREE: u16 = 5_000;
/// The largest packet that the node's routes take, in bytes: what a veth has.
const MTU: u32 = 1_500;

/// A case whose packet comes by the uplink and goes back as an ICMP error.
fn answered(
    name: String,
    world: World,
    packet: &Build,
    reason: Reason,
    answer: impl FnOnce(&Build) -> Vec<u8>,
) -> Case {
    redirected(Case {
        rewritten: Some(answer(packet)),
        ..untouched(name, FROM_UPLINK, world, packet.bytes(), reason)
    })
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (a, name, proto) in MATRIX {
        let label = |rule: &str| format!("{name}_over_{}_{rule}", a.name);
        cases.extend(opening(a, proto, &label));
        cases.extend(ports_taken(a, proto, &label));
        cases.extend(recorded(a, proto, &label));
        cases.extend(no_way(a, proto, &label));
        cases.extend(hairpin(a, proto, &label));
    }
    cases
}

/// The port that a flow of `client` to `frontend` tries at that attempt, on the address of `source`.
pub(super) fn candidate(proto: u8, client: &str, frontend: &str, source: &str, attempt: u32) -> String {
    fn hash<A: Address>(src: A, dst: A, client: SocketAddr, frontend: SocketAddr, proto: u8) -> u32 {
        let (from, to) = (port_to_wire(client.port()), port_to_wire(frontend.port()));
        port_hash(&FlowKey::new(Tuple::new(src, dst, from, to), proto))
    }
    let (client, frontend) = (addr(client), addr(frontend));
    let hash = match (from_ip(client.ip()), from_ip(frontend.ip())) {
        (Either::V4(src), Either::V4(dst)) => hash(src, dst, client, frontend, proto),
        (Either::V6(src), Either::V6(dst)) => hash(src, dst, client, frontend, proto),
        _ => panic!("a flow has one family"),
    };
    with_port(source, port_from_wire(SNAT_PORTS.candidate(hash, attempt)))
}

fn ip(text: &str) -> IpAddr {
    addr(text).ip()
}

/// A NodePort service with one endpoint on another node; the node's address is its uplink's.
pub(super) fn node_port(a: Addresses, proto: u8) -> World {
    let mut world = service(proto, FrontendKind::NodePort, a.node_port, a.remote, false);
    world.sources = vec![(UPLINK, ip(a.node_port))];
    world
}

fn opening(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let keeps = first(proto, &with_port(a.outside, FREE), a.node_port);
    let cannot_keep = first(proto, a.outside, a.node_port);
    let sent = |packet: &Build, source: &str| packet.clone().to(a.remote).from(source).hops(63);
    let mut nameless = node_port(a, proto);
    nameless.sources = vec![(0, ip(a.node_port)), (PODS, ip(a.local))];
    vec![
        redirected(rewritten(
            label("from_outside_to_another_node_gets_the_nodes_address_and_keeps_its_port"),
            FROM_UPLINK,
            node_port(a, proto),
            &keeps,
            Reason::NewFlow,
            &sent(&keeps, &with_port(a.node_port, FREE)),
        )),
        redirected(rewritten(
            label("from_outside_does_not_keep_a_port_of_the_nodes_own_range"),
            FROM_UPLINK,
            node_port(a, proto),
            &cannot_keep,
            Reason::NewFlow,
            &sent(
                &cannot_keep,
                &candidate(proto, a.outside, a.node_port, a.node_port, 0),
            ),
        )),
        redirected(rewritten(
            label("from_outside_over_a_device_without_address_gets_the_nodes_first"),
            FROM_UPLINK,
            nameless,
            &keeps,
            Reason::NewFlow,
            &sent(&keeps, &with_port(a.node_port, FREE)),
        )),
    ]
}

/// The flow of somebody else who has `port` on the node's address towards the same endpoint.
fn other_flow(a: Addresses, proto: u8, source: &str, nth: u16) -> FlowSpec {
    let mut flow = flow(proto, &with_port(a.outside, 20_000 + nth), a.node_port, a.remote);
    flow.source = Some(addr(source));
    flow
}

fn ports_taken(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let client = with_port(a.outside, FREE);
    let packet = first(proto, &client, a.node_port);
    let own = with_port(a.node_port, FREE);
    let mut taken = node_port(a, proto);
    taken.flows.push(other_flow(a, proto, &own, 0));
    let mut exhausted = taken.clone();
    for attempt in 1..SNAT_ATTEMPTS {
        let source = candidate(proto, &client, a.node_port, a.node_port, attempt);
        exhausted
            .flows
            .push(other_flow(a, proto, &source, attempt as u16));
    }
    vec![
        redirected(rewritten(
            label("from_outside_whose_port_is_taken_gets_another"),
            FROM_UPLINK,
            taken,
            &packet,
            Reason::NewFlow,
            &packet
                .clone()
                .to(a.remote)
                .from(&candidate(proto, &client, a.node_port, a.node_port, 1))
                .hops(63),
        )),
        untouched(
            label("from_outside_is_dropped_when_all_ports_tried_are_taken"),
            FROM_UPLINK,
            exhausted,
            packet.bytes(),
            Reason::SnatExhausted,
        ),
    ]
}

fn recorded(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let source = with_port(a.node_port, 7_000);
    let mut world = node_port(a, proto);
    let mut known = flow(proto, a.outside, a.node_port, a.remote);
    known.source = Some(addr(&source));
    world.flows.push(known);
    let forward = later(proto, a.outside, a.node_port);
    let reply = later(proto, a.remote, &source);
    let restored = reply.clone().from(a.node_port).to(a.outside).hops(63);
    vec![
        redirected(rewritten(
            label("from_outside_keeps_the_port_that_was_recorded"),
            FROM_UPLINK,
            world.clone(),
            &forward,
            Reason::Established,
            &forward.clone().from(&source).to(a.remote).hops(63),
        )),
        redirected(rewritten(
            label("reply_to_the_node_is_restored_where_it_comes_in"),
            FROM_UPLINK,
            world.clone(),
            &reply,
            Reason::ReplyRestored,
            &restored,
        )),
        untouched(
            label("reply_to_the_node_is_left_alone_where_it_would_leave"),
            Hook::Egress,
            world.clone(),
            reply.bytes(),
            Reason::NotReply,
        ),
        answered(
            label("reply_at_the_end_of_its_hops_is_answered"),
            world.clone(),
            &reply.clone().hops(1),
            Reason::TtlExpired,
            Build::time_exceeded,
        ),
        answered(
            label("reply_that_is_too_big_is_answered_with_the_size"),
            world,
            &reply.payload(&[7; 1480]),
            Reason::TooBig,
            |packet| packet.too_big(MTU),
        ),
    ]
}

fn no_way(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let packet = first(proto, &with_port(a.outside, FREE), a.node_port);
    let headers = packet.clone().payload(&[]).bytes().len() - 14;
    let fits = MTU as usize - headers;
    let mut no_address = node_port(a, proto);
    no_address.sources.clear();
    let mut no_route = service(proto, FrontendKind::NodePort, a.node_port, a.elsewhere, false);
    no_route.sources = vec![(0, ip(a.node_port))];
    vec![
        untouched(
            label("from_outside_to_another_node_needs_an_address_of_the_node"),
            FROM_UPLINK,
            no_address,
            packet.bytes(),
            Reason::NoRoute,
        ),
        untouched(
            label("from_outside_to_an_endpoint_without_route_is_dropped"),
            FROM_UPLINK,
            no_route,
            packet.bytes(),
            Reason::NoRoute,
        ),
        answered(
            label("from_outside_at_the_end_of_its_hops_is_answered"),
            node_port(a, proto),
            &packet.clone().hops(1),
            Reason::TtlExpired,
            Build::time_exceeded,
        ),
        answered(
            label("from_outside_too_big_is_answered_with_the_size"),
            node_port(a, proto),
            &packet.clone().payload(&vec![7; fits + 1]),
            Reason::TooBig,
            |packet| packet.too_big(MTU),
        ),
        redirected(rewritten(
            label("from_outside_just_small_enough_is_sent_on"),
            FROM_UPLINK,
            node_port(a, proto),
            &packet.clone().payload(&vec![7; fits]),
            Reason::NewFlow,
            &packet
                .clone()
                .payload(&vec![7; fits])
                .from(&with_port(a.node_port, FREE))
                .to(a.remote)
                .hops(63),
        )),
    ]
}

/// A pod reaches itself through its service.
fn hairpin(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let client = with_port(a.local, FREE);
    let source = with_port(a.node_port, FREE);
    let mut world = service(proto, FrontendKind::ClusterIp, a.cluster_ip, a.local, true);
    world.sources = vec![(0, ip(a.node_port))];
    let mut known = world.clone();
    let mut itself = flow(proto, &client, a.cluster_ip, a.local);
    itself.source = Some(addr(&source));
    known.flows.push(itself);
    let packet = first(proto, &client, a.cluster_ip);
    let reply = later(proto, a.local, &source);
    vec![
        redirected(rewritten(
            label("from_a_pod_to_itself_gets_the_nodes_address"),
            FROM_WORKLOAD,
            world,
            &packet,
            Reason::NewFlow,
            &packet.clone().from(&source).to(a.local).hops(63),
        )),
        redirected(rewritten(
            label("reply_of_a_pod_to_itself_is_restored_where_it_comes_in"),
            FROM_WORKLOAD,
            known,
            &reply,
            Reason::ReplyRestored,
            &reply.clone().from(a.cluster_ip).to(&client).hops(63),
        )),
    ]
}
