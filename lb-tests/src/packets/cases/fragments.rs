//! Fragments: the first is translated like a whole packet, the others follow it.

use std::net::IpAddr;

use lb_common::{
    abi::{FragmentKey, FrontendKind, proto},
    datapath::Hook,
    limits::FRAGMENT_TIMEOUT_NS,
    verdict::Reason,
};
use lb_testkit::packet::{Build, addr, syn, udp};

use super::{
    Addresses, FROM_UPLINK, FROM_WORKLOAD, V4, V6, first, flow, redirected, service, services::with_port,
    snat::node_port, untouched,
};
use crate::packets::{
    case::Case,
    world::{FragmentSpec, World},
};

/// Bytes of a datagram in each fragment.
const PIECE: usize = 64;
/// A port that clients outside may keep.
const FREE: u16 = 5_000;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for a in [V4, V6] {
        let label = |rule: &str| format!("over_{}_{rule}", a.name);
        cases.extend(forward(a, &label));
        cases.extend(sides(a, &label));
        cases.extend(from_outside(a, &label));
        cases.extend(replies(a, &label));
        cases.extend(lost(a, &label));
        cases.extend(remembered(a, &label));
        cases.extend(odd(a, &label));
    }
    cases.extend(only_v6());
    cases
}

/// Three fragments.
fn datagram(src: &str, dst: &str) -> Build {
    udp(src, dst).payload(&[0x5a; 170])
}

fn ip(text: &str) -> IpAddr {
    addr(text).ip()
}

/// A cluster IP, and the entry that says that no host has its address.
fn cluster_ip(a: Addresses) -> World {
    let mut world = service(proto::UDP, FrontendKind::ClusterIp, a.cluster_ip, a.remote, false);
    world.addresses.push((ip(a.cluster_ip), FrontendKind::ClusterIp));
    world
}

/// Fragment `nth` of a datagram, after those `before` it, must come out as that of `to`.
fn follows(
    name: String,
    hook: Hook,
    world: World,
    [packet, to]: [&Build; 2],
    (before, nth): (&[usize], usize),
    reason: Reason,
) -> Case {
    let frames = packet.fragments(PIECE);
    Case {
        before: before.iter().map(|nth| frames[*nth].clone()).collect(),
        rewritten: Some(to.fragments(PIECE)[nth].clone()),
        ..untouched(name, hook, world, frames[nth].clone(), reason)
    }
}

/// Fragment `nth` of a datagram, after some other frames, must stay as it is.
fn stays(
    name: String,
    hook: Hook,
    world: World,
    before: Vec<Vec<u8>>,
    packet: &Build,
    nth: usize,
    reason: Reason,
) -> Case {
    Case {
        before,
        ..untouched(name, hook, world, packet.fragments(PIECE)[nth].clone(), reason)
    }
}

fn forward(a: Addresses, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let packet = datagram(a.pod, a.cluster_ip);
    let to = packet.clone().to(a.remote);
    let large = udp(a.pod, a.cluster_ip).payload(&[0x5a; 170]);
    let follows = |rule: &str, packets: [&Build; 2], order, reason| {
        follows(label(rule), FROM_WORKLOAD, cluster_ip(a), packets, order, reason)
    };
    let without = packet.clone().no_checksum();
    vec![
        follows(
            "the_first_fragment_is_translated_as_a_whole_packet",
            [&packet, &to],
            (&[], 0),
            Reason::NewFlow,
        ),
        follows(
            "the_next_fragment_follows_the_first",
            [&packet, &to],
            (&[0], 1),
            Reason::Established,
        ),
        follows(
            "the_last_fragment_follows_the_first",
            [&packet, &to],
            (&[0, 1], 2),
            Reason::Established,
        ),
        follows(
            "later_fragments_may_come_in_any_order",
            [&packet, &to],
            (&[0, 2], 1),
            Reason::Established,
        ),
        follows(
            "a_repeated_first_fragment_stays_with_its_endpoint",
            [&packet, &to],
            (&[0, 1], 0),
            Reason::Established,
        ),
        follows(
            "the_first_fragment_of_a_datagram_without_checksum_stays_without",
            [&without, &without.clone().to(a.remote)],
            (&[], 0),
            Reason::NewFlow,
        ),
        Case {
            before: vec![large.clone().id(1).fragments(PIECE)[0].clone()],
            ..follows(
                "another_datagram_of_the_flow_has_fragments_of_its_own",
                [&packet, &to],
                (&[], 0),
                Reason::Established,
            )
        },
        stays(
            label("a_fragment_of_another_datagram_does_not_follow"),
            FROM_WORKLOAD,
            cluster_ip(a),
            vec![large.clone().id(1).fragments(PIECE)[0].clone()],
            &packet,
            1,
            Reason::FragmentLost,
        ),
        stays(
            label("a_fragment_of_another_source_does_not_follow"),
            FROM_WORKLOAD,
            cluster_ip(a),
            vec![datagram(a.outside, a.cluster_ip).fragments(PIECE)[0].clone()],
            &packet,
            1,
            Reason::FragmentLost,
        ),
    ]
}

/// A datagram that crosses the node meets both sides; each keeps its own notes.
fn sides(a: Addresses, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let note = |scope| FragmentSpec {
        from: [ip(a.pod), ip(a.cluster_ip)],
        to: [ip(a.pod), ip(a.remote)],
        id: 0x1234,
        scope,
        age: 0,
    };
    let packet = datagram(a.pod, a.cluster_ip);
    let with = |scope: u32| World {
        fragments: vec![note(scope)],
        ..World::default()
    };
    let proto = if a.name == "IPv4" { proto::UDP.into() } else { 0 };
    vec![
        stays(
            label("what_was_done_at_ingress_does_not_count_at_egress"),
            Hook::Egress,
            with(proto),
            Vec::new(),
            &packet,
            1,
            Reason::Fragment,
        ),
        stays(
            label("what_was_done_at_egress_does_not_count_at_ingress"),
            FROM_WORKLOAD,
            with(proto | FragmentKey::<u32>::LEAVING),
            Vec::new(),
            &packet,
            1,
            Reason::Fragment,
        ),
    ]
}

fn from_outside(a: Addresses, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let source = with_port(a.node_port, FREE);
    let packet = datagram(&with_port(a.outside, FREE), a.node_port);
    let to = packet.clone().to(a.remote).from(&source).hops(63);
    let local = packet.clone().to(a.local);
    let here = || service(proto::UDP, FrontendKind::NodePort, a.node_port, a.local, true);
    let last_hop = packet.clone().hops(1);
    vec![
        redirected(follows(
            label("the_first_fragment_from_outside_is_sent_to_another_node"),
            FROM_UPLINK,
            node_port(a, proto::UDP),
            [&packet, &to],
            (&[], 0),
            Reason::NewFlow,
        )),
        redirected(follows(
            label("the_rest_of_a_datagram_from_outside_is_sent_to_another_node"),
            FROM_UPLINK,
            node_port(a, proto::UDP),
            [&packet, &to],
            (&[0, 1], 2),
            Reason::Established,
        )),
        follows(
            label("the_rest_of_a_datagram_from_outside_reaches_a_local_endpoint"),
            FROM_UPLINK,
            here(),
            [&packet, &local],
            (&[0], 1),
            Reason::Established,
        ),
        stays(
            label("a_later_fragment_at_the_end_of_its_hops_is_dropped"),
            FROM_UPLINK,
            node_port(a, proto::UDP),
            vec![packet.fragments(PIECE)[0].clone()],
            &last_hop,
            1,
            Reason::TtlExpired,
        ),
    ]
}

fn replies(a: Addresses, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let mut plain = cluster_ip(a);
    plain.flows.push(flow(proto::UDP, a.pod, a.cluster_ip, a.remote));
    let reply = datagram(a.remote, a.pod);
    let restored = reply.clone().from(a.cluster_ip);
    let source = with_port(a.node_port, 7_000);
    let mut sent = node_port(a, proto::UDP);
    let mut known = flow(proto::UDP, a.outside, a.node_port, a.remote);
    known.source = Some(addr(&source));
    sent.flows.push(known);
    let to_node = datagram(a.remote, &source);
    let sent_back = to_node.clone().from(a.node_port).to(a.outside).hops(63);
    vec![
        follows(
            label("the_first_fragment_of_a_reply_is_restored_where_it_leaves"),
            Hook::Egress,
            plain.clone(),
            [&reply, &restored],
            (&[], 0),
            Reason::ReplyRestored,
        ),
        follows(
            label("the_rest_of_a_reply_is_restored_where_it_leaves"),
            Hook::Egress,
            plain.clone(),
            [&reply, &restored],
            (&[0], 2),
            Reason::ReplyRestored,
        ),
        stays(
            label("the_rest_of_a_reply_is_passed_where_it_arrives"),
            FROM_WORKLOAD,
            plain,
            vec![reply.fragments(PIECE)[0].clone()],
            &reply,
            1,
            Reason::Fragment,
        ),
        redirected(follows(
            label("the_first_fragment_of_a_reply_to_the_node_is_sent_back"),
            FROM_UPLINK,
            sent.clone(),
            [&to_node, &sent_back],
            (&[], 0),
            Reason::ReplyRestored,
        )),
        redirected(follows(
            label("the_rest_of_a_reply_to_the_node_is_sent_back"),
            FROM_UPLINK,
            sent,
            [&to_node, &sent_back],
            (&[0], 1),
            Reason::ReplyRestored,
        )),
    ]
}

/// Fragments whose first was not translated, or not seen.
fn lost(a: Addresses, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let packet = datagram(a.pod, a.cluster_ip);
    let elsewhere = datagram(a.pod, a.elsewhere);
    let to_node = datagram(a.outside, a.node_port);
    let reply = datagram(a.remote, a.pod);
    let mut nobody = cluster_ip(a);
    nobody.services[0].endpoints.clear();
    let stays = |rule: &str, hook, world, before, packet: &Build, reason| {
        stays(label(rule), hook, world, before, packet, 1, reason)
    };
    vec![
        stays(
            "a_lost_fragment_to_an_address_of_services_is_dropped",
            FROM_WORKLOAD,
            cluster_ip(a),
            Vec::new(),
            &packet,
            Reason::FragmentLost,
        ),
        stays(
            "a_lost_fragment_from_outside_to_an_address_of_services_is_dropped",
            FROM_UPLINK,
            cluster_ip(a),
            Vec::new(),
            &packet,
            Reason::FragmentLost,
        ),
        stays(
            "a_fragment_that_leaves_for_an_address_of_services_is_passed",
            Hook::Egress,
            cluster_ip(a),
            Vec::new(),
            &packet,
            Reason::Fragment,
        ),
        stays(
            "a_lost_fragment_to_the_node_is_passed",
            FROM_UPLINK,
            node_port(a, proto::UDP),
            Vec::new(),
            &to_node,
            Reason::Fragment,
        ),
        stays(
            "the_rest_of_a_datagram_to_no_service_is_passed",
            FROM_WORKLOAD,
            cluster_ip(a),
            vec![elsewhere.fragments(PIECE)[0].clone()],
            &elsewhere,
            Reason::Fragment,
        ),
        stays(
            "the_rest_of_a_datagram_that_answers_nothing_is_passed",
            Hook::Egress,
            cluster_ip(a),
            vec![reply.fragments(PIECE)[0].clone()],
            &reply,
            Reason::Fragment,
        ),
        stays(
            "the_rest_of_a_rejected_datagram_is_dropped",
            FROM_WORKLOAD,
            nobody,
            vec![packet.fragments(PIECE)[0].clone()],
            &packet,
            Reason::FragmentLost,
        ),
        untouched(
            label("the_first_fragment_to_no_service_is_passed"),
            FROM_WORKLOAD,
            cluster_ip(a),
            elsewhere.fragments(PIECE)[0].clone(),
            Reason::NotService,
        ),
        untouched(
            label("the_first_fragment_that_answers_nothing_is_passed"),
            Hook::Egress,
            cluster_ip(a),
            reply.fragments(PIECE)[0].clone(),
            Reason::NotReply,
        ),
    ]
}

/// What is remembered counts for 30 seconds.
fn remembered(a: Addresses, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let packet = datagram(a.pod, a.cluster_ip);
    let to = packet.clone().to(a.remote);
    let aged = |age: u64| {
        let mut world = cluster_ip(a);
        world.fragments.push(FragmentSpec {
            from: [ip(a.pod), ip(a.cluster_ip)],
            to: [ip(a.pod), ip(a.remote)],
            id: 0x1234,
            scope: if a.name == "IPv4" { proto::UDP.into() } else { 0 },
            age,
        });
        world
    };
    const SECOND: u64 = 1_000_000_000;
    vec![
        follows(
            label("a_fragment_within_the_timeout_follows"),
            FROM_WORKLOAD,
            aged(FRAGMENT_TIMEOUT_NS / 2),
            [&packet, &to],
            (&[], 2),
            Reason::Established,
        ),
        stays(
            label("a_fragment_after_the_timeout_is_lost"),
            FROM_WORKLOAD,
            aged(FRAGMENT_TIMEOUT_NS + SECOND),
            Vec::new(),
            &packet,
            2,
            Reason::FragmentLost,
        ),
        follows(
            label("a_new_datagram_takes_the_place_of_an_old_one"),
            FROM_WORKLOAD,
            aged(FRAGMENT_TIMEOUT_NS + SECOND),
            [&packet, &to],
            (&[0], 1),
            Reason::Established,
        ),
    ]
}

fn odd(a: Addresses, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let tcp = || {
        let mut world = service(proto::TCP, FrontendKind::ClusterIp, a.cluster_ip, a.remote, false);
        world.services.extend(cluster_ip(a).services);
        world
    };
    let segment = syn(a.pod, a.cluster_ip).payload(&[1; 60]);
    let sctp = service(
        proto::SCTP,
        FrontendKind::ClusterIp,
        a.cluster_ip,
        a.remote,
        false,
    );
    let same_port = service(
        proto::SCTP,
        FrontendKind::ClusterIp,
        a.cluster_ip,
        &with_port(a.remote, 80),
        false,
    );
    let association = first(proto::SCTP, a.pod, a.cluster_ip).payload(&[1; 60]);
    let kept = association.clone().to(&with_port(a.remote, 80));
    vec![
        untouched(
            label("a_first_fragment_that_ends_within_the_tcp_header_is_malformed"),
            FROM_WORKLOAD,
            tcp(),
            segment.fragments(16)[0].clone(),
            Reason::Malformed,
        ),
        Case {
            rewritten: Some(segment.clone().to(a.remote).fragments(24)[0].clone()),
            ..untouched(
                label("a_first_fragment_with_the_whole_tcp_header_is_translated"),
                FROM_WORKLOAD,
                tcp(),
                segment.fragments(24)[0].clone(),
                Reason::NewFlow,
            )
        },
        Case {
            rewritten: Some(datagram(a.pod, a.remote).fragments(8)[0].clone()),
            ..untouched(
                label("a_first_fragment_of_a_udp_header_alone_is_translated"),
                FROM_WORKLOAD,
                cluster_ip(a),
                datagram(a.pod, a.cluster_ip).fragments(8)[0].clone(),
                Reason::NewFlow,
            )
        },
        untouched(
            label("a_first_fragment_of_sctp_that_needs_another_port_is_dropped"),
            FROM_WORKLOAD,
            sctp,
            association.fragments(PIECE)[0].clone(),
            Reason::RewriteFailed,
        ),
        follows(
            label("fragments_of_sctp_that_keep_their_ports_are_translated"),
            FROM_WORKLOAD,
            same_port,
            [&association, &kept],
            (&[0], 1),
            Reason::Established,
        ),
    ]
}

fn only_v6() -> Vec<Case> {
    let a = V6;
    let packet = datagram(a.pod, a.cluster_ip);
    let to = packet.clone().to(a.remote);
    // RFC 8200 calls them the per-fragment headers.
    let [options, options_to] =
        [&packet, &to].map(|build| build.clone().extension(0, &[0, 1, 4, 0, 0, 0, 0]));
    // A fragment header with nothing to follow (RFC 6946).
    let [atomic, atomic_to] = [&packet, &to].map(|build| build.clone().fragment_header(0).bytes());
    // Options behind the fragment header: part of the datagram, so that the first fragment alone shows what follows.
    let behind = |build: &Build| {
        build
            .clone()
            .fragment_header(1)
            .extension(60, &[0, 1, 4, 0, 0, 0, 0])
            .bytes()
    };
    vec![
        follows(
            "fragments_behind_hop_by_hop_options_follow".into(),
            FROM_WORKLOAD,
            cluster_ip(a),
            [&options, &options_to],
            (&[0], 1),
            Reason::Established,
        ),
        Case {
            rewritten: Some(atomic_to),
            ..untouched(
                "a_datagram_of_one_fragment_is_translated_as_a_whole_packet",
                FROM_WORKLOAD,
                cluster_ip(a),
                atomic,
                Reason::NewFlow,
            )
        },
        Case {
            rewritten: Some(behind(&to)),
            ..untouched(
                "options_behind_the_fragment_header_are_walked_over",
                FROM_WORKLOAD,
                cluster_ip(a),
                behind(&packet),
                Reason::NewFlow,
            )
        },
        Case {
            before: vec![behind(&packet)],
            ..follows(
                "fragments_follow_whatever_the_first_has_behind_its_fragment_header".into(),
                FROM_WORKLOAD,
                cluster_ip(a),
                [&packet, &to],
                (&[], 1),
                Reason::Established,
            )
        },
        untouched(
            "two_fragment_headers_are_malformed",
            FROM_WORKLOAD,
            cluster_ip(a),
            packet
                .fragment_header(0)
                .fragment_header(1)
                .fragment_header(0)
                .bytes(),
            Reason::Malformed,
        ),
    ]
}
