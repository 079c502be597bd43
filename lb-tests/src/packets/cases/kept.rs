//! Endpoints that serve and get no new flows: those that they have stay.

use lb_common::{
    abi::{FrontendKind, Policies, proto},
    datapath::Hook,
    limits,
    verdict::Reason,
};
use lb_testkit::{icmp, packet::addr};

use super::{
    Addresses, FROM_UPLINK, FROM_WORKLOAD, WITH_SCTP, first, flow, later, redirected, rewritten, service,
    services::with_port,
};
use crate::packets::{
    case::Case,
    world::{AffinitySpec, GENERATION, UPLINK, World, backend_index},
};

const AFFINE: Policies = Policies {
    internal_local: false,
    external_local: false,
    affinity: 600,
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (a, name, proto) in WITH_SCTP {
        let label = |rule: &str| format!("{name}_over_{}_{rule}", a.name);
        cases.extend(recorded(a, proto, &label));
        cases.extend(new_ones(a, proto, &label));
    }
    cases
}

/// The endpoint that gets no new flows.
fn kept(a: Addresses) -> String {
    with_port(a.remote, 8_081)
}

/// A service of one endpoint that takes new flows, and one that does not.
fn world(a: Addresses, proto: u8, kind: FrontendKind, policies: Policies) -> World {
    let frontend = match kind {
        FrontendKind::ClusterIp => a.cluster_ip,
        _ => a.node_port,
    };
    let mut world = service(proto, kind, frontend, a.remote, false);
    world.services[0].kept = vec![(addr(&kept(a)), false)];
    world.services[0].policies = policies;
    world
}

fn recorded(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let opening = first(proto, a.pod, a.cluster_ip);
    let reply = later(proto, &kept(a), a.pod);
    let with_flow = |age| {
        let mut world = world(a, proto, FrontendKind::ClusterIp, Policies::default());
        let mut known = flow(proto, a.pod, a.cluster_ip, &kept(a));
        known.index = backend_index(1);
        known.age = age;
        world.flows.push(known);
        world
    };
    let source = with_port(a.node_port, 7_000);
    let mut over_the_node = world(a, proto, FrontendKind::NodePort, Policies::default());
    over_the_node.sources = vec![(UPLINK, addr(a.node_port).ip())];
    let mut known = flow(proto, a.outside, a.node_port, &kept(a));
    known.index = backend_index(1);
    known.source = Some(addr(&source));
    over_the_node.flows.push(known);
    let from_outside = first(proto, a.outside, a.node_port);
    let timeout = match proto {
        proto::TCP => limits::TCP_ESTABLISHED_TIMEOUT_NS,
        proto::SCTP => limits::SCTP_ESTABLISHED_TIMEOUT_NS,
        _ => limits::UDP_STREAM_TIMEOUT_NS,
    };
    vec![
        rewritten(
            label("stays_with_an_endpoint_that_is_kept"),
            FROM_WORKLOAD,
            with_flow(0),
            &opening,
            Reason::Established,
            &opening.clone().to(&kept(a)),
        ),
        redirected(rewritten(
            label("from_outside_stays_with_an_endpoint_that_is_kept"),
            FROM_UPLINK,
            over_the_node,
            &from_outside,
            Reason::Established,
            &from_outside.clone().to(&kept(a)).from(&source).hops(63),
        )),
        rewritten(
            label("reply_of_an_endpoint_that_is_kept_is_restored"),
            Hook::Egress,
            with_flow(0),
            &reply,
            Reason::ReplyRestored,
            &reply.clone().from(a.cluster_ip),
        ),
        rewritten(
            label("leaves_an_endpoint_that_is_kept_after_its_timeout"),
            FROM_WORKLOAD,
            with_flow(timeout + limits::FLOW_REFRESH_NS),
            &opening,
            Reason::Rechosen,
            &opening.clone().to(a.remote),
        ),
    ]
}

/// A client that was with the endpoint before it was kept.
fn remembered(a: Addresses, proto: u8) -> World {
    let mut world = world(a, proto, FrontendKind::ClusterIp, AFFINE);
    world.affinities.push(AffinitySpec {
        client: addr(a.pod).ip(),
        index: backend_index(1),
        generation: GENERATION,
        epoch: 0,
        age: 1,
    });
    world
}

fn new_ones(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let opening = first(proto, a.pod, a.cluster_ip);
    let client = addr(a.pod).ip();
    let too_big = if client.is_ipv4() {
        icmp::KINDS[2]
    } else {
        icmp::KINDS_V6[2]
    };
    let error = |to: &str| icmp::error(client, addr(to).ip(), too_big, &later(proto, to, a.pod), 80);
    let mut cases = vec![rewritten(
        label("affinity_to_an_endpoint_that_is_kept_does_not_count"),
        FROM_WORKLOAD,
        remembered(a, proto),
        &opening,
        Reason::NewFlow,
        &opening.clone().to(a.remote),
    )];
    // The checksum of SCTP in a quote does not follow the ports.
    if proto != proto::SCTP {
        cases.push(rewritten(
            label("error_about_a_reply_of_a_forgotten_flow_goes_where_a_new_flow_would"),
            FROM_WORKLOAD,
            remembered(a, proto),
            &error(a.cluster_ip),
            Reason::IcmpTranslated,
            &error(a.remote),
        ));
    }
    cases
}
