//! Source ranges: who may use a load balancer's address.

use lb_common::{abi::FrontendKind, verdict::Reason};
use lb_testkit::packet::addr;

use super::{
    Addresses, FROM_UPLINK, FROM_WORKLOAD, MATRIX, V4, first, flow, later, rewritten, service, untouched,
};
use crate::packets::{case::Case, world::World};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (a, name, proto) in MATRIX {
        let label = |rule: &str| format!("{name}_over_{}_{rule}", a.name);
        let outside = first(proto, a.outside, a.cluster_ip);
        let pod = first(proto, a.pod, a.cluster_ip);
        let served = |rule: &str, ranges: &[&'static str]| {
            rewritten(
                label(rule),
                FROM_UPLINK,
                world(a, proto, ranges),
                &outside,
                Reason::NewFlow,
                &outside.clone().to(a.local),
            )
        };
        let refused = |rule: &str, ranges: &[&'static str]| {
            untouched(
                label(rule),
                FROM_UPLINK,
                world(a, proto, ranges),
                outside.bytes(),
                Reason::SourceNotAllowed,
            )
        };
        let [itself, beside, around, pods] = ranges(a);
        cases.extend([
            served("a_source_that_is_named_is_served", &[itself]),
            served("a_source_within_a_range_is_served", &[around]),
            served("one_of_several_ranges_is_enough", &[beside, around]),
            refused("a_source_that_no_range_names_is_dropped", &[beside, pods]),
            refused("without_any_range_that_fits_the_map_nobody_is_served", &[]),
            untouched(
                label("a_pod_that_no_range_names_is_dropped"),
                FROM_WORKLOAD,
                world(a, proto, &[around]),
                pod.bytes(),
                Reason::SourceNotAllowed,
            ),
            rewritten(
                label("a_pod_that_a_range_names_is_served"),
                FROM_WORKLOAD,
                world(a, proto, &[pods]),
                &pod,
                Reason::NewFlow,
                &pod.clone().to(a.local),
            ),
        ]);
        // Ranges of another service do not count.
        let mut second = world(a, proto, &[beside]);
        second.services.insert(0, second.services[0].clone());
        second.services[0].frontend = addr(a.elsewhere);
        cases.push(rewritten(
            label("a_service_without_ranges_is_open_whatever_others_have"),
            FROM_UPLINK,
            second,
            &outside,
            Reason::NewFlow,
            &outside.clone().to(a.local),
        ));
        // The ranges changed while the flow lives.
        let mut recorded = world(a, proto, &[beside]);
        recorded.flows.push(flow(proto, a.outside, a.cluster_ip, a.local));
        cases.push(rewritten(
            label("a_recorded_flow_of_a_source_that_is_no_longer_named_goes_on"),
            FROM_UPLINK,
            recorded,
            &later(proto, a.outside, a.cluster_ip),
            Reason::Established,
            &later(proto, a.outside, a.local),
        ));
    }
    cases
}

/// A load balancer's address that only these sources may use.
fn world(a: Addresses, proto: u8, ranges: &[&'static str]) -> World {
    World {
        ranges: Some(ranges.to_vec()),
        ..service(proto, FrontendKind::LoadBalancer, a.cluster_ip, a.local, true)
    }
}

/// The client outside alone, its neighbours alone, its network, the network of this node's pods.
fn ranges(a: Addresses) -> [&'static str; 4] {
    if a.name == V4.name {
        [
            "172.18.0.100/32",
            "172.18.0.101/32",
            "172.18.0.0/16",
            "10.244.1.0/24",
        ]
    } else {
        [
            "fd00:172:18::100/128",
            "fd00:172:18::101/128",
            "fd00:172:18::/64",
            "fd00:10:244:1::/64",
        ]
    }
}
