//! SCTP: its checksum covers the ports, and no address. What it has in common with the others is in the other tables.

use lb_common::{
    abi::{FrontendKind, proto},
    datapath::Hook,
    flow::Seen,
    limits,
    verdict::Reason,
};
use lb_testkit::packet::{Build, addr, chunk, sctp};

use super::{
    Addresses, FROM_UPLINK, FROM_WORKLOAD, V4, V6, flow, redirected, rewritten, service,
    services::with_port,
    snat::{candidate, node_port},
    untouched,
};
use crate::packets::{
    case::Case,
    world::{FlowSpec, World},
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for a in [V4, V6] {
        let label = |rule: &str| format!("sctp_over_{}_{rule}", a.name);
        cases.extend(checksums(a, &label));
        cases.extend(sizes(a, &label));
        cases.extend(ports(a, &label));
        cases.extend(life(a, &label));
    }
    cases
}

fn cluster_ip(a: Addresses, endpoint: &str) -> World {
    service(
        proto::SCTP,
        FrontendKind::ClusterIp,
        a.cluster_ip,
        endpoint,
        false,
    )
}

fn checksums(a: Addresses, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let same_port = with_port(a.remote, 80);
    let packet = sctp(a.pod, a.cluster_ip).chunk(chunk::INIT);
    let case = |rule: &str, packet: Build, to: &str| {
        rewritten(
            label(rule),
            FROM_WORKLOAD,
            cluster_ip(a, to),
            &packet,
            Reason::NewFlow,
            &packet.clone().to(to),
        )
    };
    vec![
        case("to_the_same_port_keeps_its_checksum", packet.clone(), &same_port),
        case(
            "to_another_port_gets_its_checksum",
            packet.clone(),
            &with_port(a.remote, 38_412),
        ),
        case(
            "with_a_wrong_checksum_keeps_it_wrong",
            packet.clone().wrong_checksum(0x1111),
            a.remote,
        ),
        case(
            "with_a_wrong_checksum_to_the_same_port_keeps_it_wrong",
            packet.clone().wrong_checksum(0x1111),
            &same_port,
        ),
        // Hardware is to compute it, or both sides agreed on none.
        case(
            "without_a_checksum_stays_without",
            packet.clone().no_checksum(),
            a.remote,
        ),
        case(
            "with_padding_behind_it_is_summed_up_without",
            packet.trailer(&[0xee; 6]),
            a.remote,
        ),
    ]
}

/// How many bytes follow the ports decides how their change shows in the checksum.
fn sizes(a: Addresses, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    [0, 1, 2, 3, 4, 5, 31, 48, 240, 496, 1_008, 1_440]
        .into_iter()
        .map(|size| {
            let payload: Vec<u8> = (0..size).map(|at| (at * 7) as u8).collect();
            let packet = sctp(a.pod, a.cluster_ip).payload(&payload);
            rewritten(
                label(&format!("of_{size}_bytes_gets_its_checksum")),
                FROM_WORKLOAD,
                cluster_ip(a, a.remote),
                &packet,
                Reason::NewFlow,
                &packet.clone().to(a.remote),
            )
        })
        .collect()
}

/// Everything that can change a port.
fn ports(a: Addresses, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let from_outside = sctp(a.outside, a.node_port).chunk(chunk::INIT);
    let source = candidate(proto::SCTP, a.outside, a.node_port, a.node_port, 0);
    let mut known = cluster_ip(a, a.remote);
    known.flows.push(flow(proto::SCTP, a.pod, a.cluster_ip, a.remote));
    let reply = sctp(a.remote, a.pod).chunk(chunk::INIT_ACK);
    let mut sent = node_port(a, proto::SCTP);
    let mut recorded = flow(proto::SCTP, a.outside, a.node_port, a.remote);
    recorded.source = Some(addr(&source));
    sent.flows.push(recorded);
    let to_node = sctp(a.remote, &source);
    vec![
        redirected(rewritten(
            label("from_outside_with_another_source_port_gets_its_checksum"),
            FROM_UPLINK,
            node_port(a, proto::SCTP),
            &from_outside,
            Reason::NewFlow,
            &from_outside.clone().from(&source).to(a.remote).hops(63),
        )),
        redirected(rewritten(
            label("reply_to_the_node_gets_its_checksum"),
            FROM_UPLINK,
            sent,
            &to_node,
            Reason::ReplyRestored,
            &to_node.clone().from(a.node_port).to(a.outside).hops(63),
        )),
        rewritten(
            label("reply_from_another_port_gets_its_checksum"),
            Hook::Egress,
            known,
            &reply,
            Reason::ReplyRestored,
            &reply.clone().from(a.cluster_ip),
        ),
        untouched(
            label("to_the_port_of_another_protocol_is_passed"),
            FROM_WORKLOAD,
            service(proto::TCP, FrontendKind::ClusterIp, a.cluster_ip, a.remote, false),
            sctp(a.pod, a.cluster_ip).bytes(),
            Reason::NotService,
        ),
    ]
}

/// An INIT on the tuple of a recorded association: the same one again, or a new one?
fn life(a: Addresses, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let old = with_port(a.remote, 9_999);
    let known = |change: fn(&mut FlowSpec)| {
        let mut world = cluster_ip(a, a.remote);
        let mut recorded = flow(proto::SCTP, a.pod, a.cluster_ip, a.remote);
        change(&mut recorded);
        world.flows.push(recorded);
        world
    };
    let init = sctp(a.pod, a.cluster_ip).chunk(chunk::INIT);
    let case = |rule: &str, change: fn(&mut FlowSpec), reason| {
        rewritten(
            label(rule),
            FROM_WORKLOAD,
            known(change),
            &init,
            reason,
            &init.clone().to(a.remote),
        )
    };
    let mut cases = vec![
        case(
            "a_repeated_init_stays_with_its_endpoint",
            |flow| (flow.forward_seen, flow.reply_seen) = (Seen::SYN, 0),
            Reason::Established,
        ),
        case(
            "an_init_within_an_association_stays_with_its_endpoint",
            |_| {},
            Reason::Established,
        ),
        case(
            "an_init_after_a_shutdown_is_a_new_association",
            |flow| flow.reply_seen |= Seen::FIN,
            Reason::Rechosen,
        ),
        case(
            "an_init_after_an_abort_is_a_new_association",
            |flow| flow.forward_seen |= Seen::RST,
            Reason::Rechosen,
        ),
        case(
            "an_init_long_after_the_last_packet_is_a_new_association",
            |flow| flow.age = limits::SCTP_ESTABLISHED_TIMEOUT_NS + limits::FLOW_REFRESH_NS,
            Reason::Rechosen,
        ),
        case(
            "an_init_after_an_unanswered_one_is_a_new_association",
            |flow| {
                (flow.forward_seen, flow.reply_seen) = (Seen::SYN, 0);
                flow.age = limits::SCTP_CLOSED_TIMEOUT_NS + limits::FLOW_REFRESH_NS;
            },
            Reason::Rechosen,
        ),
    ];
    // Whatever is no INIT goes where the association went, and closing chunks are written down at once.
    let mut left = cluster_ip(a, a.remote);
    left.flows.push(flow(proto::SCTP, a.pod, a.cluster_ip, &old));
    left.flows[0].generation -= 1;
    for (name, kind) in [
        ("data", chunk::DATA),
        ("init_ack", chunk::INIT_ACK),
        ("cookie_echo", chunk::COOKIE_ECHO),
        ("shutdown", chunk::SHUTDOWN),
        ("shutdown_ack", chunk::SHUTDOWN_ACK),
        ("shutdown_complete", chunk::SHUTDOWN_COMPLETE),
        ("abort", chunk::ABORT),
    ] {
        let packet = sctp(a.pod, a.cluster_ip).chunk(kind);
        cases.push(rewritten(
            label(&format!("a_chunk_of_{name}_stays_with_an_endpoint_that_left")),
            FROM_WORKLOAD,
            left.clone(),
            &packet,
            Reason::Established,
            &packet.clone().to(&old),
        ));
    }
    cases
}
