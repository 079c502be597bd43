//! Traffic policies: who may be sent to endpoints on other nodes.

use lb_common::{
    abi::{FrontendKind, Policies},
    verdict::Reason,
};
use lb_testkit::packet::{Build, addr};

use super::{
    Addresses, FROM_UPLINK, FROM_WORKLOAD, WITH_SCTP, first, redirected, rejected, rewritten, service,
    services::with_port, untouched,
};
use crate::packets::{
    case::Case,
    world::{UPLINK, World},
};

const INTERNAL: Policies = Policies {
    internal_local: true,
    external_local: false,
    affinity: 0,
};
const EXTERNAL: Policies = Policies {
    internal_local: false,
    external_local: true,
    affinity: 0,
};

/// A port that a redirected flow keeps.
const FREE: u16 = 5_000;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (a, name, proto) in WITH_SCTP {
        let label = |rule: &str| format!("{name}_over_{}_{rule}", a.name);
        cases.extend(internal(a, proto, &label));
        cases.extend(external(a, proto, &label));
    }
    cases
}

/// A service with these endpoints, and a policy.
fn world(
    a: Addresses,
    proto: u8,
    kind: FrontendKind,
    endpoints: &[(&str, bool)],
    policies: Policies,
) -> World {
    let frontend = if kind == FrontendKind::ClusterIp {
        a.cluster_ip
    } else {
        a.node_port
    };
    let mut world = service(proto, kind, frontend, a.remote, false);
    world.services[0].policies = policies;
    world.services[0].endpoints = endpoints
        .iter()
        .map(|(text, local)| (addr(text), *local))
        .collect();
    world.sources = vec![(UPLINK, addr(a.node_port).ip())];
    world
}

/// Many endpoints elsewhere, so that a choice that is not limited to the local one would hardly find it.
fn one_local(a: Addresses, proto: u8, kind: FrontendKind, policies: Policies) -> World {
    let elsewhere: Vec<String> = (8_081..8_090).map(|port| with_port(a.remote, port)).collect();
    let mut endpoints: Vec<(&str, bool)> = elsewhere.iter().map(|text| (text.as_str(), false)).collect();
    endpoints.push((a.local, true));
    world(a, proto, kind, &endpoints, policies)
}

fn internal(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let kind = FrontendKind::ClusterIp;
    let packet = first(proto, a.pod, a.cluster_ip);
    let none_here = world(a, proto, kind, &[(a.remote, false)], INTERNAL);
    vec![
        rewritten(
            label("internal_policy_local_sends_pods_to_the_endpoint_on_their_node"),
            FROM_WORKLOAD,
            one_local(a, proto, kind, INTERNAL),
            &packet,
            Reason::NewFlow,
            &packet.clone().to(a.local),
        ),
        untouched(
            label("internal_policy_local_drops_without_local_endpoint"),
            FROM_WORKLOAD,
            none_here.clone(),
            packet.bytes(),
            Reason::NoLocalEndpoints,
        ),
        untouched(
            label("internal_policy_local_holds_for_cluster_ips_asked_from_outside"),
            FROM_UPLINK,
            none_here,
            first(proto, a.outside, a.cluster_ip).bytes(),
            Reason::NoLocalEndpoints,
        ),
        rejected(
            label("internal_policy_local_without_any_endpoint_is_rejected"),
            FROM_WORKLOAD,
            world(a, proto, kind, &[], INTERNAL),
            &packet,
        ),
        rewritten(
            label("external_policy_local_does_not_hold_for_cluster_ips"),
            FROM_WORKLOAD,
            world(a, proto, kind, &[(a.remote, false)], EXTERNAL),
            &packet,
            Reason::NewFlow,
            &packet.clone().to(a.remote),
        ),
    ]
}

fn external(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let outside: Build = first(proto, &with_port(a.outside, FREE), a.node_port);
    let pod = first(proto, a.pod, a.node_port);
    let mut cases = Vec::new();
    for (kind, name) in [
        (FrontendKind::NodePort, "node_port"),
        (FrontendKind::ExternalIp, "external_ip"),
        (FrontendKind::LoadBalancer, "load_balancer_ip"),
    ] {
        let label = |rule: &str| label(&format!("external_policy_local_at_a_{name}_{rule}"));
        let none_here = world(a, proto, kind, &[(a.remote, false)], EXTERNAL);
        cases.extend([
            rewritten(
                label("sends_the_outside_to_the_endpoint_here_with_its_own_address"),
                FROM_UPLINK,
                one_local(a, proto, kind, EXTERNAL),
                &outside,
                Reason::NewFlow,
                &outside.clone().to(a.local),
            ),
            untouched(
                label("drops_the_outside_without_local_endpoint"),
                FROM_UPLINK,
                none_here.clone(),
                outside.bytes(),
                Reason::NoLocalEndpoints,
            ),
            rewritten(
                label("sends_pods_of_the_node_to_the_whole_cluster"),
                FROM_WORKLOAD,
                none_here,
                &pod,
                Reason::NewFlow,
                &pod.clone().to(a.remote),
            ),
        ]);
    }
    cases.push(redirected(rewritten(
        label("internal_policy_local_does_not_hold_for_node_ports"),
        FROM_UPLINK,
        world(a, proto, FrontendKind::NodePort, &[(a.remote, false)], INTERNAL),
        &outside,
        Reason::NewFlow,
        &outside
            .clone()
            .to(a.remote)
            .from(&with_port(a.node_port, FREE))
            .hops(63),
    )));
    cases
}
