//! Errors about replies of flows that are recorded no longer: the endpoint is chosen again.

use lb_common::{
    abi::{FrontendKind, Policies},
    datapath::Hook,
    verdict::Reason,
};
use lb_testkit::{
    icmp,
    packet::{Build, addr},
};

use super::{
    super::{
        Addresses, FROM_UPLINK, FROM_WORKLOAD, first, rewritten, service, services::with_port, untouched,
    },
    WHOLE, from_outside, from_pod, ip, over_the_node, router, too_big, travelled,
};
use crate::packets::{
    case::Case,
    native,
    world::{AffinitySpec, GENERATION, World, backend_index},
};

/// The endpoint that a new flow would be given.
fn endpoint_of(world: &World, packet: &Build) -> String {
    let opened = native::run(&untouched(
        "",
        FROM_WORKLOAD,
        world.clone(),
        packet.bytes(),
        Reason::NewFlow,
    ));
    assert_eq!(opened.reason, Reason::NewFlow);
    let endpoints = world.services[0].endpoints.iter();
    let mut there = endpoints
        .map(|(endpoint, _)| endpoint.to_string())
        .filter(|endpoint| packet.clone().to(endpoint).bytes() == opened.packet);
    there.next().expect("one of the endpoints")
}

pub(super) fn cases(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let forgotten = |mut world: World| {
        world.flows.clear();
        world
    };
    let error = |from, to, quoted: &Build| icmp::error(from, to, too_big(a), quoted, WHOLE);
    let (node, local) = (ip(a.node_port), ip(a.local));
    let seen = travelled(proto, a.node_port, a.outside);
    let arrived = error(router(a), node, &seen);

    let mut several = forgotten(from_pod(a, proto));
    several.services[0].endpoints = (0..5u16)
        .map(|nth| (addr(&with_port(a.remote, 8_080 + nth)), false))
        .collect();
    let mut affine = several.clone();
    affine.services[0].policies = Policies {
        affinity: 600,
        ..Policies::default()
    };
    let mut remembered = affine.clone();
    remembered.affinities.push(AffinitySpec {
        client: ip(a.pod),
        index: backend_index(3),
        generation: GENERATION,
        epoch: 0,
        age: 1,
    });
    let opening = first(proto, a.pod, a.cluster_ip);
    let from_pod = error(
        ip(a.pod),
        ip(a.cluster_ip),
        &travelled(proto, a.cluster_ip, a.pod),
    );
    let mut cases = vec![
        rewritten(
            label("about_a_reply_of_a_forgotten_flow_reaches_the_endpoint"),
            FROM_UPLINK,
            forgotten(from_outside(a, proto)),
            &arrived,
            Reason::IcmpTranslated,
            &error(router(a), local, &travelled(proto, a.local, a.outside)),
        ),
        untouched(
            label("about_a_redirected_reply_of_a_forgotten_flow_is_passed"),
            FROM_UPLINK,
            forgotten(over_the_node(a, proto)),
            arrived.bytes(),
            Reason::NotService,
        ),
        untouched(
            label("about_a_packet_of_a_forgotten_flow_is_passed"),
            Hook::Egress,
            forgotten(self::from_pod(a, proto)),
            error(router(a), ip(a.pod), &travelled(proto, a.pod, a.remote)).bytes(),
            Reason::NotReply,
        ),
        untouched(
            label("about_a_reply_of_no_service_is_passed"),
            FROM_WORKLOAD,
            several.clone(),
            error(ip(a.pod), ip(a.elsewhere), &travelled(proto, a.elsewhere, a.pod)).bytes(),
            Reason::NotService,
        ),
    ];
    for (rule, world) in [
        ("reaches_the_endpoint_that_the_hash_gives", several),
        ("reaches_the_endpoint_that_the_clients_address_gives", affine),
        ("reaches_the_endpoint_that_the_client_stays_with", remembered),
    ] {
        let endpoint = endpoint_of(&world, &opening);
        cases.push(rewritten(
            label(&format!("about_a_reply_of_a_forgotten_flow_{rule}")),
            FROM_WORKLOAD,
            world,
            &from_pod,
            Reason::IcmpTranslated,
            &error(ip(a.pod), ip(&endpoint), &travelled(proto, &endpoint, a.pod)),
        ));
    }
    cases.extend(with_local_policy(a, proto, label));
    cases
}

/// The client stayed with an endpoint elsewhere before the policy became Local.
fn with_local_policy(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let world = |kind, frontend: &str, client: &str| {
        let mut world = service(proto, kind, frontend, a.remote, false);
        world.services[0].endpoints.push((addr(a.local), true));
        world.services[0].policies = Policies {
            internal_local: true,
            external_local: true,
            affinity: 600,
        };
        world.affinities.push(AffinitySpec {
            client: ip(client),
            index: backend_index(0),
            generation: GENERATION,
            epoch: 0,
            age: 1,
        });
        world
    };
    let case = |rule: &str, hook, kind, frontend: &str, client: &str| {
        let error = |to: &str| {
            icmp::error(
                ip(client),
                ip(to),
                too_big(a),
                &travelled(proto, to, client),
                WHOLE,
            )
        };
        rewritten(
            label(&format!(
                "about_a_reply_of_a_forgotten_flow_{rule}_reaches_the_endpoint_on_this_node_under_policy_local"
            )),
            hook,
            world(kind, frontend, client),
            &error(frontend),
            Reason::IcmpTranslated,
            &error(a.local),
        )
    };
    vec![
        case(
            "from_outside",
            FROM_UPLINK,
            FrontendKind::NodePort,
            a.node_port,
            a.outside,
        ),
        case(
            "of_a_pod",
            FROM_WORKLOAD,
            FrontendKind::ClusterIp,
            a.cluster_ip,
            a.pod,
        ),
    ]
}
