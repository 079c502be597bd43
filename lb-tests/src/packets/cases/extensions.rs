//! IPv6 extension headers: four kinds are walked over, a few of them at most.

use lb_common::{
    abi::{FrontendKind, proto},
    datapath::Hook,
    verdict::Reason,
};
use lb_testkit::packet::{Build, ip, syn, tcp, udp};

use super::{
    FROM_UPLINK, FROM_WORKLOAD, V6, flow, redirected, rewritten, service, services::with_port,
    snat::node_port, untouched,
};
use crate::packets::{case::Case, world::World};

/// Options that are nothing but padding.
const PADDING: [u8; 7] = [0, 1, 4, 0, 0, 0, 0];
/// A routing header whose way is at its end.
const ARRIVED: [u8; 7] = [0, 4, 0, 0, 0, 0, 0];
/// The same with one station to go.
const UNDERWAY: [u8; 7] = [0, 4, 1, 0, 0, 0, 0];

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;

fn world() -> World {
    let mut world = service(
        proto::TCP,
        FrontendKind::ClusterIp,
        V6.cluster_ip,
        V6.remote,
        false,
    );
    let udp = service(
        proto::UDP,
        FrontendKind::ClusterIp,
        V6.cluster_ip,
        V6.remote,
        false,
    );
    world.services.extend(udp.services);
    world
}

fn packet() -> Build {
    syn(V6.pod, V6.cluster_ip)
}

fn passes(name: impl Into<String>, packet: Vec<u8>, reason: Reason) -> Case {
    untouched(name, FROM_WORKLOAD, world(), packet, reason)
}

fn translated(name: &str, packet: &Build) -> Case {
    let to = packet.clone().to(V6.remote);
    rewritten(name, FROM_WORKLOAD, world(), packet, Reason::NewFlow, &to)
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = walked();
    cases.extend(passed());
    cases.extend(elsewhere());
    cases
}

fn walked() -> Vec<Case> {
    let mut long = vec![255, 1, 252];
    long.resize(2_047, 0);
    vec![
        translated(
            "ipv6_hop_by_hop_options_are_walked_over",
            &packet().extension(HOP_BY_HOP, &PADDING),
        ),
        translated(
            "an_ipv6_routing_header_at_its_end_is_walked_over",
            &packet().extension(ROUTING, &ARRIVED),
        ),
        translated(
            "ipv6_destination_options_are_walked_over",
            &packet().extension(DESTINATION, &PADDING),
        ),
        translated(
            "options_before_udp_are_walked_over",
            &udp(V6.pod, V6.cluster_ip).extension(DESTINATION, &PADDING),
        ),
        translated(
            "the_longest_options_are_walked_over",
            &packet().extension(DESTINATION, &long),
        ),
        translated(
            "four_extension_headers_are_walked_over",
            &packet()
                .extension(HOP_BY_HOP, &PADDING)
                .extension(DESTINATION, &PADDING)
                .extension(ROUTING, &ARRIVED)
                .extension(DESTINATION, &PADDING),
        ),
    ]
}

fn passed() -> Vec<Case> {
    let mut cases = vec![
        passes(
            "five_extension_headers_are_too_many",
            packet()
                .extension(HOP_BY_HOP, &PADDING)
                .extension(DESTINATION, &PADDING)
                .extension(ROUTING, &ARRIVED)
                .extension(DESTINATION, &PADDING)
                .extension(DESTINATION, &PADDING)
                .bytes(),
            Reason::ExtensionHeader,
        ),
        passes(
            "a_routing_header_with_stations_to_go_is_passed",
            packet().extension(ROUTING, &UNDERWAY).bytes(),
            Reason::ExtensionHeader,
        ),
        passes(
            "an_unknown_protocol_behind_options_is_passed",
            ip("fd00:10:244:1::5", "fd00:10:96::10", 47)
                .extension(HOP_BY_HOP, &PADDING)
                .bytes(),
            Reason::OtherProtocol,
        ),
        passes(
            "no_next_header_behind_options_is_passed",
            ip("fd00:10:244:1::5", "fd00:10:96::10", 59)
                .extension(DESTINATION, &PADDING)
                .bytes(),
            Reason::OtherProtocol,
        ),
        passes(
            "options_that_are_longer_than_their_packet_are_malformed",
            packet().extension(DESTINATION, &[200, 1, 4, 0, 0, 0, 0]).bytes(),
            Reason::Malformed,
        ),
        passes(
            "options_that_leave_no_room_for_tcp_are_malformed",
            packet()
                .payload(&[])
                .extension(DESTINATION, &[1, 1, 4, 0, 0, 0, 0])
                .bytes(),
            Reason::Malformed,
        ),
        // Behind the header, the packet is padding of the link.
        passes(
            "options_behind_the_end_of_their_packet_are_malformed",
            {
                let mut frame = packet().extension(DESTINATION, &PADDING).bytes();
                frame[18..20].copy_from_slice(&4u16.to_be_bytes());
                frame
            },
            Reason::Malformed,
        ),
    ];
    for (name, kind) in [
        ("esp", 50),
        ("an_authentication_header", 51),
        ("a_mobility_header", 135),
        ("hip", 139),
        ("shim6", 140),
        ("an_experimental_header", 253),
        ("another_experimental_header", 254),
    ] {
        cases.push(passes(
            format!("{name}_before_tcp_is_passed"),
            packet().extension(kind, &PADDING).bytes(),
            Reason::ExtensionHeader,
        ));
        cases.push(passes(
            format!("{name}_behind_options_is_passed"),
            packet()
                .extension(HOP_BY_HOP, &PADDING)
                .extension(kind, &PADDING)
                .bytes(),
            Reason::ExtensionHeader,
        ));
    }
    cases
}

/// Replies, and packets that the node sends out itself.
fn elsewhere() -> Vec<Case> {
    let mut known = world();
    known
        .flows
        .push(flow(proto::TCP, V6.pod, V6.cluster_ip, V6.remote));
    let reply = tcp(V6.remote, V6.pod).extension(DESTINATION, &PADDING);
    let client = with_port(V6.outside, 5_000);
    let from_outside = syn(&client, V6.node_port).extension(HOP_BY_HOP, &PADDING);
    let sent = from_outside
        .clone()
        .to(V6.remote)
        .from(&with_port(V6.node_port, 5_000))
        .hops(63);
    let mut nobody = world();
    for service in &mut nobody.services {
        service.endpoints.clear();
    }
    vec![
        rewritten(
            "a_reply_with_options_is_restored",
            Hook::Egress,
            known,
            &reply,
            Reason::ReplyRestored,
            &reply.clone().from(V6.cluster_ip),
        ),
        redirected(rewritten(
            "a_packet_with_options_is_sent_to_another_node",
            FROM_UPLINK,
            node_port(V6, proto::TCP),
            &from_outside,
            Reason::NewFlow,
            &sent,
        )),
        // What would have to be quoted is longer than the answer.
        untouched(
            "a_packet_with_options_to_nobody_is_not_answered",
            FROM_WORKLOAD,
            nobody,
            packet().extension(DESTINATION, &PADDING).bytes(),
            Reason::NoEndpoints,
        ),
    ]
}
