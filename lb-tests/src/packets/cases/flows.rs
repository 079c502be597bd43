//! Recorded flows: what stays, what moves, what is restored.

use lb_common::{
    abi::{FrontendKind, proto},
    datapath::Hook,
    flow::{Seen, tcp},
    limits,
    verdict::Reason,
};
use lb_testkit::packet::syn;

use super::{
    Addresses, FROM_UPLINK, FROM_WORKLOAD, MATRIX, V4, first, flow, later, rejected, rewritten, service,
    services::with_port, snat::candidate, untouched,
};
use crate::packets::{
    case::Case,
    world::{FlowSpec, GENERATION, Halves, World},
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (a, name, proto) in MATRIX {
        let label = |rule: &str| format!("{name}_over_{}_{rule}", a.name);
        cases.extend(both_directions(a, proto, &label));
        cases.extend(lost_halves(a, proto, &label));
        cases.extend(endpoints_gone(a, proto, &label));
        cases.extend(collisions(a, proto, &label));
    }
    cases.extend(tcp_life());
    cases
}

/// A world in which `flow` was recorded to the one endpoint of the service.
fn recorded(a: Addresses, proto: u8, change: impl FnOnce(&mut FlowSpec)) -> World {
    let mut world = service(proto, FrontendKind::ClusterIp, a.cluster_ip, a.remote, false);
    let mut flow = flow(proto, a.pod, a.cluster_ip, a.remote);
    change(&mut flow);
    world.flows.push(flow);
    world
}

fn both_directions(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let forward = later(proto, a.pod, a.cluster_ip);
    let reply = later(proto, a.remote, a.pod);
    let world = || recorded(a, proto, |_| {});
    let stale = recorded(a, proto, |flow| flow.age = 2 * limits::FLOW_REFRESH_NS);
    // The service is gone: a recorded flow does not ask for it.
    let mut without_service = world();
    without_service.services.clear();
    let mut cases = vec![
        rewritten(
            label("keeps_its_endpoint"),
            FROM_WORKLOAD,
            world(),
            &forward,
            Reason::Established,
            &forward.clone().to(a.remote),
        ),
        rewritten(
            label("keeps_its_endpoint_after_a_pause"),
            FROM_WORKLOAD,
            stale,
            &forward,
            Reason::Established,
            &forward.clone().to(a.remote),
        ),
        rewritten(
            label("reply_is_restored_where_it_leaves"),
            Hook::Egress,
            world(),
            &reply,
            Reason::ReplyRestored,
            &reply.clone().from(a.cluster_ip),
        ),
        untouched(
            label("reply_is_passed_where_it_arrives"),
            FROM_UPLINK,
            world(),
            reply.bytes(),
            Reason::ReplyInbound,
        ),
        untouched(
            label("reply_of_a_local_endpoint_is_passed_where_it_arrives"),
            FROM_WORKLOAD,
            world(),
            reply.bytes(),
            Reason::ReplyInbound,
        ),
        untouched(
            label("reply_from_another_port_is_not_restored"),
            Hook::Egress,
            world(),
            later(proto, &with_port(a.remote, 8081), a.pod).bytes(),
            Reason::NotReply,
        ),
        untouched(
            label("reply_to_another_port_is_not_restored"),
            Hook::Egress,
            world(),
            later(proto, a.remote, &with_port(a.pod, 40001)).bytes(),
            Reason::NotReply,
        ),
        untouched(
            label("forward_packet_that_leaves_is_passed"),
            Hook::Egress,
            world(),
            forward.bytes(),
            Reason::NotReply,
        ),
        rewritten(
            label("reply_is_restored_without_the_service"),
            Hook::Egress,
            without_service.clone(),
            &reply,
            Reason::ReplyRestored,
            &reply.clone().from(a.cluster_ip),
        ),
    ];
    if proto != proto::UDP {
        cases.push(rewritten(
            label("goes_on_without_the_service"),
            FROM_WORKLOAD,
            without_service,
            &forward,
            Reason::Established,
            &forward.clone().to(a.remote),
        ));
    }
    cases
}

/// An entry that was evicted is made again by the other direction, once a second at least.
fn lost_halves(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let forward = later(proto, a.pod, a.cluster_ip);
    let reply = later(proto, a.remote, a.pod);
    let lost = |halves| {
        recorded(a, proto, |flow| {
            flow.halves = halves;
            flow.age = 2 * limits::FLOW_REFRESH_NS;
        })
    };
    vec![
        rewritten(
            label("makes_a_lost_reply_entry_again"),
            FROM_WORKLOAD,
            lost(Halves::ForwardOnly),
            &forward,
            Reason::Established,
            &forward.clone().to(a.remote),
        ),
        rewritten(
            label("makes_a_lost_forward_entry_again"),
            Hook::Egress,
            lost(Halves::ReplyOnly),
            &reply,
            Reason::ReplyRestored,
            &reply.clone().from(a.cluster_ip),
        ),
        rewritten(
            label("opens_anew_beside_a_reply_entry_of_its_own"),
            FROM_WORKLOAD,
            lost(Halves::ReplyOnly),
            &forward,
            Reason::NewFlow,
            &forward.clone().to(a.remote),
        ),
    ]
}

/// The endpoint left: TCP stays, UDP moves at once, a new connection moves.
fn endpoints_gone(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    // The flow went to an endpoint that another one has taken the slot of.
    let old = with_port(a.remote, 9999);
    let mut world = service(proto, FrontendKind::ClusterIp, a.cluster_ip, a.remote, false);
    let mut left = flow(proto, a.pod, a.cluster_ip, &old);
    left.generation = GENERATION - 1;
    world.flows.push(left);
    let next = later(proto, a.pod, a.cluster_ip);
    let opening = first(proto, a.pod, a.cluster_ip);
    let mut cases = vec![rewritten(
        label("opens_to_a_new_endpoint_when_the_old_one_left"),
        FROM_WORKLOAD,
        world.clone(),
        &opening,
        Reason::Rechosen,
        &opening.clone().to(a.remote),
    )];
    if proto != proto::UDP {
        cases.push(rewritten(
            label("stays_with_an_endpoint_that_left"),
            FROM_WORKLOAD,
            world.clone(),
            &next,
            Reason::Established,
            &next.clone().to(&old),
        ));
    }
    let reply = later(proto, &old, a.pod);
    cases.push(rewritten(
        label("reply_of_an_endpoint_that_left_is_restored"),
        Hook::Egress,
        world.clone(),
        &reply,
        Reason::ReplyRestored,
        &reply.clone().from(a.cluster_ip),
    ));
    world.services[0].endpoints.clear();
    cases.push(rejected(
        label("opens_to_nobody_when_all_endpoints_left"),
        FROM_WORKLOAD,
        world,
        &opening,
    ));
    cases
}

/// Two services share an endpoint, and a client uses one source port for both.
fn collisions(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let second = with_port(a.cluster_ip, 443);
    let both = |change: fn(&mut FlowSpec)| {
        let mut world = recorded(a, proto, change);
        world
            .services
            .extend(service(proto, FrontendKind::ClusterIp, &second, a.remote, false).services);
        world
    };
    let packet = first(proto, a.pod, &second);
    let mut cases = vec![
        rewritten(
            label("gets_another_port_where_its_own_is_that_of_a_live_flow"),
            FROM_WORKLOAD,
            both(|_| {}),
            &packet,
            Reason::NewFlow,
            &packet
                .clone()
                .to(a.remote)
                .from(&candidate(proto, a.pod, &second, a.pod, 1)),
        ),
        rewritten(
            label("takes_the_tuple_of_a_flow_that_timed_out"),
            FROM_WORKLOAD,
            both(|flow| flow.age = limits::TCP_ESTABLISHED_TIMEOUT_NS + limits::FLOW_REFRESH_NS),
            &packet,
            Reason::NewFlow,
            &packet.clone().to(a.remote),
        ),
    ];
    if proto != proto::UDP {
        cases.push(rewritten(
            label("takes_the_tuple_of_a_flow_that_was_closed"),
            FROM_WORKLOAD,
            both(|flow| {
                flow.forward_seen |= Seen::FIN;
                flow.reply_seen |= Seen::FIN;
            }),
            &packet,
            Reason::NewFlow,
            &packet.clone().to(a.remote),
        ));
        cases.push(rewritten(
            label("leaves_the_tuple_to_a_flow_that_only_one_side_closed"),
            FROM_WORKLOAD,
            both(|flow| flow.reply_seen |= Seen::FIN),
            &packet,
            Reason::NewFlow,
            &packet
                .clone()
                .to(a.remote)
                .from(&candidate(proto, a.pod, &second, a.pod, 1)),
        ));
    }
    cases
}

/// A SYN on the tuple of a recorded connection: the same one again, or a new one?
fn tcp_life() -> Vec<Case> {
    let packet = syn(V4.pod, V4.cluster_ip);
    let case = |name: &str, change: fn(&mut FlowSpec), reason| {
        rewritten(
            name,
            FROM_WORKLOAD,
            recorded(V4, proto::TCP, change),
            &packet,
            reason,
            &packet.clone().to(V4.remote),
        )
    };
    let mut cases = vec![
        case(
            "a_repeated_syn_stays_with_its_endpoint",
            |flow| (flow.forward_seen, flow.reply_seen) = (Seen::SYN, 0),
            Reason::Established,
        ),
        case(
            "a_syn_within_a_connection_stays_with_its_endpoint",
            |_| {},
            Reason::Established,
        ),
        case(
            "a_syn_after_a_fin_of_the_client_is_a_new_connection",
            |flow| flow.forward_seen |= Seen::FIN,
            Reason::Rechosen,
        ),
        case(
            "a_syn_after_a_fin_of_the_endpoint_is_a_new_connection",
            |flow| flow.reply_seen |= Seen::FIN,
            Reason::Rechosen,
        ),
        case(
            "a_syn_after_a_reset_of_the_client_is_a_new_connection",
            |flow| flow.forward_seen |= Seen::RST,
            Reason::Rechosen,
        ),
        case(
            "a_syn_after_a_reset_of_the_endpoint_is_a_new_connection",
            |flow| flow.reply_seen |= Seen::RST,
            Reason::Rechosen,
        ),
        case(
            "a_syn_long_after_an_unanswered_one_is_a_new_connection",
            |flow| {
                (flow.forward_seen, flow.reply_seen) = (Seen::SYN, 0);
                flow.age = limits::TCP_SYN_TIMEOUT_NS + limits::FLOW_REFRESH_NS;
            },
            Reason::Rechosen,
        ),
        case(
            "a_syn_a_day_after_the_last_packet_is_a_new_connection",
            |flow| flow.age = limits::TCP_ESTABLISHED_TIMEOUT_NS + limits::FLOW_REFRESH_NS,
            Reason::Rechosen,
        ),
    ];
    // Closing segments go where the connection went, and are written down at once.
    for (name, flags) in [("fin", tcp::FIN | tcp::ACK), ("reset", tcp::RST)] {
        let packet = later(proto::TCP, V4.pod, V4.cluster_ip).flags(flags);
        let reply = later(proto::TCP, V4.remote, V4.pod).flags(flags);
        cases.extend([
            rewritten(
                format!("a_{name}_of_the_client_reaches_its_endpoint"),
                FROM_WORKLOAD,
                recorded(V4, proto::TCP, |_| {}),
                &packet,
                Reason::Established,
                &packet.clone().to(V4.remote),
            ),
            rewritten(
                format!("a_{name}_of_the_endpoint_reaches_its_client"),
                Hook::Egress,
                recorded(V4, proto::TCP, |_| {}),
                &reply,
                Reason::ReplyRestored,
                &reply.clone().from(V4.cluster_ip),
            ),
        ]);
    }
    cases
}
