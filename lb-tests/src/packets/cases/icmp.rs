//! ICMP: errors about translated packets, and echo requests.

mod forgotten;

use std::net::IpAddr;

use lb_common::{
    abi::{FrontendKind, proto},
    datapath::Hook,
    verdict::Reason,
};
use lb_testkit::{
    icmp::{self, KINDS, KINDS_V6, Kind},
    packet::{Build, addr},
};

use super::{
    Addresses, FROM_UPLINK, FROM_WORKLOAD, MATRIX, V4, V6, flow, later, redirected, rewritten, service,
    services::with_port, untouched,
};
use crate::packets::{
    case::Case,
    world::{UPLINK, World},
};

/// What most errors quote, in bytes: the IP header and as much as holds the TCP or UDP header.
const WHOLE: usize = 80;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (a, name, proto) in MATRIX {
        let label = |rule: &str| format!("an_error_quoting_{name}_over_{}_{rule}", a.name);
        cases.extend(of_every_kind(a, proto, &label));
        cases.extend(about_packets_of_clients(a, proto, &label));
        cases.extend(about_redirected_packets(a, proto, &label));
        cases.extend(about_replies(a, proto, &label));
        cases.extend(forgotten::cases(a, proto, &label));
        cases.extend(quotes(a, proto, &label));
        cases.extend(left_alone(a, proto, &label));
    }
    for a in [V4, V6] {
        cases.extend(other_messages(a));
        cases.extend(echoes(a));
    }
    cases.extend(ipv4_options());
    cases
}

fn ip(text: &str) -> IpAddr {
    addr(text).ip()
}

fn kinds(a: Addresses) -> [Kind; 5] {
    if ip(a.pod).is_ipv4() { KINDS } else { KINDS_V6 }
}

/// The error that says which size fits: the one that path-MTU discovery needs.
fn too_big(a: Addresses) -> Kind {
    kinds(a)[2]
}

/// A router somewhere on the way.
fn router(a: Addresses) -> IpAddr {
    let text = if ip(a.pod).is_ipv4() {
        "192.0.2.1"
    } else {
        "2001:db8:1::1"
    };
    text.parse().unwrap()
}

/// A pod's flow to an endpoint on another node, recorded.
fn from_pod(a: Addresses, proto: u8) -> World {
    let mut world = service(proto, FrontendKind::ClusterIp, a.cluster_ip, a.remote, false);
    world.flows.push(flow(proto, a.pod, a.cluster_ip, a.remote));
    world
}

/// A flow from outside to an endpoint on this node, recorded.
fn from_outside(a: Addresses, proto: u8) -> World {
    let mut world = service(proto, FrontendKind::NodePort, a.node_port, a.local, true);
    world.flows.push(flow(proto, a.outside, a.node_port, a.local));
    world
}

/// The address and port of the node that redirected flows have.
fn source(a: Addresses) -> String {
    with_port(a.node_port, 7_000)
}

/// A flow from outside to an endpoint on another node, recorded.
fn over_the_node(a: Addresses, proto: u8) -> World {
    let mut world = service(proto, FrontendKind::NodePort, a.node_port, a.remote, false);
    world.sources = vec![(UPLINK, ip(a.node_port))];
    let mut known = flow(proto, a.outside, a.node_port, a.remote);
    known.source = Some(addr(&source(a)));
    world.flows.push(known);
    world
}

/// What routers have made of a packet when they quote it.
fn travelled(proto: u8, src: &str, dst: &str) -> Build {
    later(proto, src, dst).hops(61)
}

fn of_every_kind(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let (sent, known) = (
        travelled(proto, a.pod, a.remote),
        travelled(proto, a.pod, a.cluster_ip),
    );
    kinds(a)
        .into_iter()
        .map(|kind| {
            let error = |quoted| icmp::error(router(a), ip(a.pod), kind, quoted, WHOLE);
            rewritten(
                label(&format!("is_translated_when_it_says_{}", kind.name)),
                Hook::Egress,
                from_pod(a, proto),
                &error(&sent),
                Reason::IcmpTranslated,
                &error(&known),
            )
        })
        .collect()
}

fn about_packets_of_clients(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let (sent, known) = (
        travelled(proto, a.pod, a.remote),
        travelled(proto, a.pod, a.cluster_ip),
    );
    let error = |from, quoted| icmp::error(from, ip(a.pod), kinds(a)[0], quoted, WHOLE);
    let from_router = error(router(a), &sent);
    let from_endpoint = error(ip(a.remote), &sent);
    vec![
        rewritten(
            label("of_the_endpoint_shows_the_services_address"),
            Hook::Egress,
            from_pod(a, proto),
            &from_endpoint,
            Reason::IcmpTranslated,
            &error(ip(a.cluster_ip), &known),
        ),
        untouched(
            label("of_a_router_is_passed_where_it_arrives"),
            FROM_UPLINK,
            from_pod(a, proto),
            from_router.bytes(),
            Reason::ReplyInbound,
        ),
        untouched(
            label("of_a_local_endpoint_is_passed_where_it_arrives"),
            FROM_WORKLOAD,
            from_pod(a, proto),
            from_endpoint.bytes(),
            Reason::ReplyInbound,
        ),
    ]
}

/// Errors that are sent to the node itself, about packets that it sent out under its own address.
fn about_redirected_packets(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let sent = travelled(proto, &source(a), a.remote);
    let known = travelled(proto, a.outside, a.node_port);
    let error = |from, to, quoted| icmp::error(from, to, too_big(a), quoted, WHOLE);
    let node = ip(a.node_port);
    let arrived = error(router(a), node, &sent);
    vec![
        redirected(rewritten(
            label("about_a_redirected_packet_is_sent_to_the_client"),
            FROM_UPLINK,
            over_the_node(a, proto),
            &arrived,
            Reason::IcmpTranslated,
            &error(router(a), ip(a.outside), &known).hops(63),
        )),
        redirected(rewritten(
            label("of_a_remote_endpoint_shows_the_services_address"),
            FROM_UPLINK,
            over_the_node(a, proto),
            &error(ip(a.remote), node, &sent),
            Reason::IcmpTranslated,
            &error(node, ip(a.outside), &known).hops(63),
        )),
        untouched(
            label("about_a_redirected_packet_is_left_alone_where_it_would_leave"),
            Hook::Egress,
            over_the_node(a, proto),
            arrived.bytes(),
            Reason::NotReply,
        ),
        untouched(
            label("about_a_redirected_packet_is_not_answered_at_the_end_of_its_hops"),
            FROM_UPLINK,
            over_the_node(a, proto),
            arrived.hops(1).bytes(),
            Reason::TtlExpired,
        ),
    ]
}

fn about_replies(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let error = |from, to, quoted: &Build| icmp::error(from, to, too_big(a), quoted, WHOLE);
    let (node, outside, local, remote) = (ip(a.node_port), ip(a.outside), ip(a.local), ip(a.remote));
    let seen = travelled(proto, a.node_port, a.outside);
    let of_local = travelled(proto, a.local, a.outside);
    let of_remote = travelled(proto, a.remote, &source(a));
    vec![
        rewritten(
            label("about_a_reply_reaches_the_endpoint"),
            FROM_UPLINK,
            from_outside(a, proto),
            &error(router(a), node, &seen),
            Reason::IcmpTranslated,
            &error(router(a), local, &of_local),
        ),
        rewritten(
            label("about_a_reply_of_the_client_itself_reaches_the_endpoint"),
            FROM_UPLINK,
            from_outside(a, proto),
            &error(outside, node, &seen),
            Reason::IcmpTranslated,
            &error(outside, local, &of_local),
        ),
        rewritten(
            label("about_a_reply_to_a_pod_reaches_the_endpoint"),
            FROM_WORKLOAD,
            from_pod(a, proto),
            &error(
                ip(a.pod),
                ip(a.cluster_ip),
                &travelled(proto, a.cluster_ip, a.pod),
            ),
            Reason::IcmpTranslated,
            &error(ip(a.pod), remote, &travelled(proto, a.remote, a.pod)),
        ),
        redirected(rewritten(
            label("about_a_redirected_reply_reaches_the_endpoint_from_the_node"),
            FROM_UPLINK,
            over_the_node(a, proto),
            &error(router(a), node, &seen),
            Reason::IcmpTranslated,
            &error(node, remote, &of_remote).hops(63),
        )),
        untouched(
            label("about_a_reply_is_left_alone_where_it_would_leave"),
            Hook::Egress,
            from_outside(a, proto),
            error(router(a), node, &seen).bytes(),
            Reason::NotReply,
        ),
    ]
}

/// Errors quote as much as they like, and not always what is sound.
fn quotes(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let header = if ip(a.pod).is_ipv4() { 20 } else { 40 };
    let case = |rule: &str, change: fn(Build) -> Build, len: usize| {
        let quoted = |dst| change(travelled(proto, a.pod, dst));
        let error = |quoted: &Build| icmp::error(router(a), ip(a.pod), too_big(a), quoted, len);
        rewritten(
            label(rule),
            Hook::Egress,
            from_pod(a, proto),
            &error(&quoted(a.remote)),
            Reason::IcmpTranslated,
            &error(&quoted(a.cluster_ip)),
        )
    };
    let mut cases = vec![
        case("may_quote_the_ports_alone", |quoted| quoted, header + 8),
        case(
            "may_quote_a_large_packet",
            |quoted| quoted.payload(&[0x5a; 1400]),
            1200,
        ),
        case(
            "keeps_a_wrong_checksum_in_the_quote_as_wrong",
            |quoted| quoted.wrong_checksum(0x1111),
            WHOLE,
        ),
    ];
    if header == 20 {
        cases.extend([
            case(
                "keeps_a_wrong_header_checksum_in_the_quote_as_wrong",
                |quoted| quoted.wrong_ip_checksum(0x2222),
                WHOLE,
            ),
            case("may_quote_ip_options", |quoted| quoted.ip_options(&[1; 7]), WHOLE),
            case(
                "may_quote_a_first_fragment",
                |quoted| quoted.fragment(0x2000),
                WHOLE,
            ),
        ]);
    }
    if proto == proto::TCP {
        // The checksum lies at 16: it is quoted, or half of it, or not. One that ends the quote is left as it is.
        for len in [header + 12, header + 16] {
            case_at(&mut cases, &case, len);
        }
        cases.push(case(
            "may_quote_just_the_tcp_header",
            |quoted| quoted,
            header + 20,
        ));
    } else {
        cases.push(case("may_quote_udp_without_checksum", Build::no_checksum, WHOLE));
    }
    // Less than the ports.
    let quoted = travelled(proto, a.pod, a.remote);
    for len in [0, header - 1, header, header + 7] {
        let error = icmp::error(router(a), ip(a.pod), too_big(a), &quoted, len);
        cases.push(untouched(
            label(&format!("is_passed_when_it_quotes_{len}_bytes")),
            Hook::Egress,
            from_pod(a, proto),
            error.bytes(),
            Reason::OtherProtocol,
        ));
    }
    cases
}

/// Makes a case of its rule, what is done to the quoted packet, and how many bytes of it are quoted.
type MakeCase<'a> = &'a dyn Fn(&str, fn(Build) -> Build, usize) -> Case;

fn case_at(cases: &mut Vec<Case>, case: MakeCase<'_>, len: usize) {
    cases.push(case(
        &format!("may_quote_{len}_bytes_without_the_checksum"),
        |quoted| quoted,
        len,
    ));
}

fn left_alone(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let sent = travelled(proto, a.pod, a.remote);
    let case = |rule: &str, packet: Vec<u8>, reason| {
        untouched(label(rule), Hook::Egress, from_pod(a, proto), packet, reason)
    };
    let error = |to, quoted: &Build| icmp::error(router(a), to, too_big(a), quoted, WHOLE);
    let whole = error(ip(a.pod), &sent).bytes();
    let mut cases = vec![
        case(
            "sent_to_somebody_else_is_passed",
            error(ip(a.local), &sent).bytes(),
            Reason::OtherProtocol,
        ),
        case(
            "to_another_port_is_passed",
            error(ip(a.pod), &travelled(proto, a.pod, &with_port(a.remote, 8081))).bytes(),
            Reason::NotReply,
        ),
        case(
            "about_a_packet_that_is_not_translated_is_passed",
            error(ip(a.pod), &travelled(proto, a.pod, a.elsewhere)).bytes(),
            Reason::NotReply,
        ),
    ];
    let mut cut = whole;
    cut.pop();
    cases.push(case("that_is_cut_short_is_passed", cut, Reason::Truncated));
    if ip(a.pod).is_ipv4() {
        cases.push(case(
            "about_a_later_fragment_is_passed",
            error(ip(a.pod), &sent.fragment(0x00b9)).bytes(),
            Reason::OtherProtocol,
        ));
    }
    cases
}

/// Messages that are no errors about TCP or UDP, and errors about those.
fn other_messages(a: Addresses) -> Vec<Case> {
    let v4 = ip(a.pod).is_ipv4();
    let label = |rule: &str| format!("{}_{rule}", if v4 { "icmp" } else { "icmpv6" });
    let world = || from_pod(a, proto::TCP);
    let (pod, remote) = (ip(a.pod), ip(a.remote));
    let echo = icmp::message(
        pod,
        remote,
        if v4 { [8, 0] } else { [128, 0] },
        0x0001_0001,
        b"ping",
    );
    let tcp = travelled(proto::TCP, a.pod, a.remote);
    let nested = icmp::error(
        pod,
        remote,
        too_big(a),
        &travelled(proto::TCP, a.remote, a.pod),
        WHOLE,
    );
    let quote_of = |quoted: &Build| icmp::error(router(a), pod, too_big(a), quoted, 200);
    let gre = lb_testkit::packet::ip(&pod.to_string(), &remote.to_string(), 47);
    let mut cases = Vec::new();
    for (rule, packet) in [
        ("echo_that_is_quoted_is_passed", quote_of(&echo)),
        ("error_about_an_error_is_passed", quote_of(&nested)),
        ("error_about_another_protocol_is_passed", quote_of(&gre)),
        ("echo_to_no_service_is_passed", echo),
    ] {
        for (at, hook) in [("leaving", Hook::Egress), ("entering", FROM_WORKLOAD)] {
            cases.push(untouched(
                label(&format!("{rule}_{at}")),
                hook,
                world(),
                packet.bytes(),
                Reason::OtherProtocol,
            ));
        }
    }
    // Source quench, redirect, router advertisement; and their like.
    let others: &[u8] = if v4 {
        &[0, 4, 5, 9, 13]
    } else {
        &[0, 5, 129, 135, 137]
    };
    for kind in others {
        let packet = icmp::message(router(a), pod, [*kind, 0], 0, &tcp.bytes()[14..]);
        cases.push(untouched(
            label(&format!("message_of_type_{kind}_is_passed")),
            Hook::Egress,
            world(),
            packet.bytes(),
            Reason::OtherProtocol,
        ));
    }
    cases
}

fn echoes(a: Addresses) -> Vec<Case> {
    let v4 = ip(a.pod).is_ipv4();
    let label = |rule: &str| format!("an_echo_request_over_{}_{rule}", a.name);
    let (asks, answers) = if v4 {
        ([8, 0], [0, 0])
    } else {
        ([128, 0], [129, 0])
    };
    let (pod, service_ip) = (ip(a.pod), ip(a.cluster_ip));
    let ask = |from| icmp::message(from, service_ip, asks, 0x0007_0001, b"are you there?").hops(9);
    let world = |kind| {
        let mut world = service(proto::TCP, FrontendKind::ClusterIp, a.cluster_ip, a.remote, false);
        world.addresses.push((service_ip, kind));
        world
    };
    let mut cases = Vec::new();
    for (from, hook, who) in [
        (pod, FROM_WORKLOAD, "of_a_pod"),
        (ip(a.outside), FROM_UPLINK, "from_outside"),
    ] {
        for (kind, what) in [
            (FrontendKind::ClusterIp, "a_cluster_ip"),
            (FrontendKind::ExternalIp, "an_external_ip"),
            (FrontendKind::LoadBalancer, "a_load_balancers_ip"),
        ] {
            let mut answer = icmp::message(service_ip, from, answers, 0x0007_0001, b"are you there?").bytes();
            // It goes back where it came from.
            answer[..12].rotate_left(6);
            cases.push(redirected(Case {
                rewritten: Some(answer),
                ..untouched(
                    label(&format!("{who}_to_{what}_is_answered")),
                    hook,
                    world(kind),
                    ask(from).bytes(),
                    Reason::EchoAnswered,
                )
            }));
        }
    }
    let mut unallocated = world(FrontendKind::ClusterIp);
    unallocated.addresses.clear();
    for (rule, hook, world, packet) in [
        (
            "to_the_node_is_passed",
            FROM_UPLINK,
            world(FrontendKind::NodePort),
            ask(pod),
        ),
        (
            "to_an_address_without_service_is_passed",
            FROM_WORKLOAD,
            unallocated,
            ask(pod),
        ),
        (
            "of_nobody_is_passed",
            FROM_WORKLOAD,
            world(FrontendKind::ClusterIp),
            ask(ip(a.nobody)),
        ),
        (
            "that_leaves_is_passed",
            Hook::Egress,
            world(FrontendKind::ClusterIp),
            ask(pod),
        ),
    ] {
        cases.push(untouched(
            label(rule),
            hook,
            world,
            packet.bytes(),
            Reason::OtherProtocol,
        ));
    }
    cases
}

/// An error may carry options itself: its message begins later.
fn ipv4_options() -> Vec<Case> {
    let a = V4;
    let error =
        |quoted: &Build| icmp::error(router(a), ip(a.pod), too_big(a), quoted, WHOLE).ip_options(&[1; 11]);
    vec![rewritten(
        "an_error_with_ip_options_is_translated",
        Hook::Egress,
        from_pod(a, proto::UDP),
        &error(&travelled(proto::UDP, a.pod, a.remote)),
        Reason::IcmpTranslated,
        &error(&travelled(proto::UDP, a.pod, a.cluster_ip)),
    )]
}
