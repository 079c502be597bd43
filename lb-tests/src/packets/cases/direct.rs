//! Connections to an endpoint by its own address, beside those of services that lead to it.

use lb_common::{
    abi::{FrontendKind, proto},
    datapath::Hook,
    flow::{Seen, tcp},
    limits,
    verdict::Reason,
};
use lb_testkit::packet::addr;

use super::{
    Addresses, FROM_UPLINK, FROM_WORKLOAD, MATRIX, first, flow, later, rewritten, service,
    services::with_port, snat::candidate, untouched,
};
use crate::packets::{
    case::Case,
    world::{FlowSpec, Halves, World},
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (a, name, proto) in MATRIX {
        let label = |rule: &str| format!("direct_{name}_over_{}_{rule}", a.name);
        cases.extend(alone(a, proto, &label));
        cases.extend(beside_a_service(a, proto, &label));
        cases.extend(with_another_port(a, proto, &label));
        cases.extend(ended(a, proto, &label));
    }
    cases
}

/// A service whose one endpoint runs on this node, and flows.
fn world(a: Addresses, proto: u8, flows: impl IntoIterator<Item = FlowSpec>) -> World {
    let mut world = service(proto, FrontendKind::ClusterIp, a.cluster_ip, a.local, true);
    world.flows.extend(flows);
    world
}

/// The flow of a client to the endpoint's own address.
fn direct(a: Addresses, proto: u8) -> FlowSpec {
    FlowSpec {
        direct: true,
        meter: 0,
        index: u32::MAX,
        generation: 0,
        ..flow(proto, a.pod, a.local, a.local)
    }
}

fn alone(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let opening = first(proto, a.pod, a.local);
    let reply = later(proto, a.local, a.pod);
    let stale = FlowSpec {
        age: 2 * limits::FLOW_REFRESH_NS,
        ..direct(a, proto)
    };
    let without_reply = FlowSpec {
        halves: Halves::ForwardOnly,
        ..stale.clone()
    };
    let to_other_port = first(proto, a.pod, &with_port(a.local, 8081));
    let mut cases = vec![
        untouched(
            label("is_recorded_and_passed"),
            FROM_WORKLOAD,
            world(a, proto, []),
            opening.bytes(),
            Reason::Direct,
        ),
        untouched(
            label("from_the_network_is_recorded_and_passed"),
            FROM_UPLINK,
            world(a, proto, []),
            opening.bytes(),
            Reason::Direct,
        ),
        untouched(
            label("goes_on"),
            FROM_WORKLOAD,
            world(a, proto, [stale]),
            later(proto, a.pod, a.local).bytes(),
            Reason::Direct,
        ),
        untouched(
            label("makes_a_lost_reply_entry_again"),
            FROM_WORKLOAD,
            world(a, proto, [without_reply.clone()]),
            later(proto, a.pod, a.local).bytes(),
            Reason::Direct,
        ),
        untouched(
            label("reply_is_passed_where_it_leaves"),
            Hook::Egress,
            world(a, proto, [direct(a, proto)]),
            reply.bytes(),
            Reason::Direct,
        ),
        untouched(
            label("reply_is_passed_where_it_arrives"),
            FROM_WORKLOAD,
            world(a, proto, [direct(a, proto)]),
            reply.bytes(),
            Reason::ReplyInbound,
        ),
        untouched(
            label("to_another_port_of_the_endpoint_is_not_recorded"),
            FROM_WORKLOAD,
            world(a, proto, []),
            to_other_port.bytes(),
            Reason::NotService,
        ),
    ];
    if proto != proto::UDP {
        cases.push(untouched(
            label("in_full_swing_is_not_recorded"),
            FROM_WORKLOAD,
            world(a, proto, []),
            later(proto, a.pod, a.local).bytes(),
            Reason::NotService,
        ));
    } else {
        // Both ends are endpoints, and the answer finds its own entry gone.
        let mut peers = world(a, proto, [without_reply]);
        let other = service(
            proto,
            FrontendKind::ClusterIp,
            &with_port(a.cluster_ip, 81),
            a.pod,
            true,
        );
        peers.services.extend(other.services);
        cases.push(untouched(
            label("answer_between_two_endpoints_opens_nothing"),
            FROM_WORKLOAD,
            peers,
            reply.bytes(),
            Reason::Direct,
        ));
    }
    cases
}

/// One source port for a service and its endpoint.
fn beside_a_service(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let known = flow(proto, a.pod, a.cluster_ip, a.local);
    let opening = first(proto, a.pod, a.local);
    let to_service = first(proto, a.pod, a.cluster_ip);
    vec![
        rewritten(
            label("gets_another_port_where_a_service_has_its_own"),
            FROM_WORKLOAD,
            world(a, proto, [known.clone()]),
            &opening,
            Reason::NewFlow,
            &opening.clone().from(&candidate(proto, a.pod, a.local, a.pod, 1)),
        ),
        rewritten(
            label("takes_the_tuple_of_a_service_flow_that_nobody_answered"),
            FROM_WORKLOAD,
            world(
                a,
                proto,
                [FlowSpec {
                    age: limits::TCP_SYN_TIMEOUT_NS + limits::FLOW_REFRESH_NS,
                    forward_seen: Seen::of(proto, tcp::SYN).0,
                    reply_seen: 0,
                    ..known
                }],
            ),
            &opening,
            Reason::Direct,
            &opening,
        ),
        rewritten(
            label("keeps_its_port_and_a_service_gets_another"),
            FROM_WORKLOAD,
            world(a, proto, [direct(a, proto)]),
            &to_service,
            Reason::NewFlow,
            &to_service
                .clone()
                .to(a.local)
                .from(&candidate(proto, a.pod, a.cluster_ip, a.pod, 1)),
        ),
    ]
}

/// Once recorded with another port, it keeps that.
fn with_another_port(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let other = with_port(a.pod, 7_000);
    let moved = FlowSpec {
        source: Some(addr(&other)),
        ..direct(a, proto)
    };
    let packet = later(proto, a.pod, a.local);
    let reply = later(proto, a.local, &other);
    vec![
        rewritten(
            label("keeps_the_other_port_that_it_got"),
            FROM_WORKLOAD,
            world(a, proto, [moved.clone()]),
            &packet,
            Reason::Established,
            &packet.clone().from(&other),
        ),
        rewritten(
            label("reply_to_the_other_port_is_restored_where_it_leaves"),
            Hook::Egress,
            world(a, proto, [moved.clone()]),
            &reply,
            Reason::ReplyRestored,
            &reply.clone().to(a.pod),
        ),
        untouched(
            label("reply_to_the_other_port_is_passed_where_it_arrives"),
            FROM_WORKLOAD,
            world(a, proto, [moved]),
            reply.bytes(),
            Reason::ReplyInbound,
        ),
    ]
}

/// A direct flow does not stick when it is over or a service takes the address.
fn ended(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let packet = first(proto, a.pod, a.local);
    let mut claimed = world(a, proto, [direct(a, proto)]);
    let claim = service(proto, FrontendKind::ExternalIp, a.local, a.remote, false);
    claimed.services.extend(claim.services);
    let mut cases = vec![rewritten(
        label("ends_when_a_service_has_the_address"),
        FROM_WORKLOAD,
        claimed,
        &packet,
        Reason::Rechosen,
        &packet.clone().to(a.remote),
    )];
    if proto != proto::UDP {
        let closed = FlowSpec {
            forward_seen: Seen::SYN | Seen::DATA | Seen::FIN,
            ..direct(a, proto)
        };
        cases.push(untouched(
            label("is_recorded_anew_after_a_fin"),
            FROM_WORKLOAD,
            world(a, proto, [closed]),
            packet.bytes(),
            Reason::Direct,
        ));
    }
    cases
}
