//! What is sent to an address of services but to no port of theirs.

use lb_common::{
    abi::{FrontendKind, proto},
    datapath::Hook,
    flow::tcp,
    verdict::Reason,
};
use lb_testkit::packet::addr;

use super::{
    Addresses, FROM_UPLINK, FROM_WORKLOAD, MATRIX, V4, V6, first, flow, later, rejected_for, rewritten,
    service, services::with_port, untouched,
};
use crate::packets::{case::Case, world::World};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (a, name, proto) in MATRIX {
        let label = |rule: &str| format!("{name}_over_{}_{rule}", a.name);
        cases.extend(unknown_ports(a, proto, &label));
        cases.extend(unallocated(a, proto, &label));
    }
    cases.extend(stray_packets());
    cases
}

/// A service on port 80 of the cluster IP, which is known as an address of that kind.
fn world(a: Addresses, proto: u8, kind: FrontendKind) -> World {
    World {
        addresses: vec![(addr(a.cluster_ip).ip(), kind)],
        ..service(proto, kind, a.cluster_ip, a.local, true)
    }
}

fn unknown_ports(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let wrong = with_port(a.cluster_ip, 81);
    let from_pod = first(proto, a.pod, &wrong);
    let from_outside = first(proto, a.outside, &wrong);
    let cluster_ip = || world(a, proto, FrontendKind::ClusterIp);
    let mut cases = vec![
        rejected_for(
            label("from_a_pod_to_an_unknown_port_of_a_cluster_ip_is_rejected"),
            FROM_WORKLOAD,
            cluster_ip(),
            &from_pod,
            Reason::UnknownPort,
        ),
        rejected_for(
            label("from_outside_to_an_unknown_port_of_a_cluster_ip_is_rejected"),
            FROM_UPLINK,
            cluster_ip(),
            &from_outside,
            Reason::UnknownPort,
        ),
        untouched(
            label("of_nobodys_address_to_an_unknown_port_is_dropped"),
            FROM_WORKLOAD,
            cluster_ip(),
            from_pod.clone().from(a.nobody).bytes(),
            Reason::UnknownPort,
        ),
        rewritten(
            label("to_a_known_port_of_an_address_is_served"),
            FROM_WORKLOAD,
            cluster_ip(),
            &first(proto, a.pod, a.cluster_ip),
            Reason::NewFlow,
            &first(proto, a.pod, a.local),
        ),
        untouched(
            label("leaving_to_an_unknown_port_is_passed"),
            Hook::Egress,
            cluster_ip(),
            from_pod.bytes(),
            Reason::NotReply,
        ),
        untouched(
            label("to_another_port_of_a_node_port_s_address_is_passed"),
            FROM_UPLINK,
            service(proto, FrontendKind::NodePort, a.node_port, a.local, true),
            first(proto, a.outside, &with_port(a.node_port, 22)).bytes(),
            Reason::NotService,
        ),
    ];
    // The port was removed while the flow lives.
    let mut forgotten = world(a, proto, FrontendKind::ClusterIp);
    forgotten.flows.push(flow(proto, a.pod, &wrong, a.local));
    cases.push(rewritten(
        label("a_recorded_flow_to_a_port_that_is_gone_goes_on"),
        FROM_WORKLOAD,
        forgotten,
        &later(proto, a.pod, &wrong),
        Reason::Established,
        &later(proto, a.pod, a.local),
    ));
    for (kind, name) in [
        (FrontendKind::ExternalIp, "external_ip"),
        (FrontendKind::LoadBalancer, "load_balancer_ip"),
    ] {
        cases.push(rejected_for(
            label(&format!(
                "from_outside_to_an_unknown_port_of_a_{name}_is_rejected"
            )),
            FROM_UPLINK,
            world(a, proto, kind),
            &from_outside,
            Reason::UnknownPort,
        ));
        cases.push(untouched(
            label(&format!("from_a_pod_to_an_unknown_port_of_a_{name}_is_passed")),
            FROM_WORKLOAD,
            world(a, proto, kind),
            from_pod.bytes(),
            Reason::NotService,
        ));
    }
    cases
}

fn unallocated(a: Addresses, proto: u8, label: &dyn Fn(&str) -> String) -> Vec<Case> {
    let (inside, other, outside_net) = if a.name == V4.name {
        ("10.97.0.10:80", "10.98.0.10:80", "10.98.1.10:80")
    } else {
        (
            "[fd00:10:97::10]:80",
            "[fd00:10:97::ffff]:80",
            "[fd00:10:97::1:10]:80",
        )
    };
    let kind = FrontendKind::ClusterIp;
    let mut allocated = service(proto, kind, inside, a.local, true);
    allocated.addresses.push((addr(inside).ip(), kind));
    vec![
        untouched(
            label("from_a_pod_to_an_unallocated_address_is_dropped"),
            FROM_WORKLOAD,
            world(a, proto, kind),
            first(proto, a.pod, inside).bytes(),
            Reason::UnallocatedAddress,
        ),
        untouched(
            label("from_outside_to_an_unallocated_address_is_dropped"),
            FROM_UPLINK,
            world(a, proto, kind),
            first(proto, a.outside, other).bytes(),
            Reason::UnallocatedAddress,
        ),
        untouched(
            label("to_an_address_beside_the_networks_of_services_is_passed"),
            FROM_WORKLOAD,
            world(a, proto, kind),
            first(proto, a.pod, outside_net).bytes(),
            Reason::NotService,
        ),
        rewritten(
            label("to_an_allocated_address_in_a_network_of_services_is_served"),
            FROM_WORKLOAD,
            allocated.clone(),
            &first(proto, a.pod, inside),
            Reason::NewFlow,
            &first(proto, a.pod, a.local),
        ),
        rejected_for(
            label("to_an_unknown_port_in_a_network_of_services_is_rejected"),
            FROM_WORKLOAD,
            allocated,
            &first(proto, a.pod, &with_port(inside, 81)),
            Reason::UnknownPort,
        ),
    ]
}

/// TCP packets that are not a SYN, to a port that nobody has: of a connection that was forgotten here, or never was.
fn stray_packets() -> Vec<Case> {
    let mut cases = Vec::new();
    for a in [V4, V6] {
        let world = || world(a, proto::TCP, FrontendKind::ClusterIp);
        let packet = later(proto::TCP, a.pod, &with_port(a.cluster_ip, 81));
        for (name, flags) in [
            ("data", tcp::ACK),
            ("a_fin", tcp::FIN | tcp::ACK),
            ("a_syn_ack", tcp::SYN | tcp::ACK),
        ] {
            cases.push(rejected_for(
                format!("{name}_over_{}_to_an_unknown_port_is_rejected", a.name),
                FROM_WORKLOAD,
                world(),
                &packet.clone().flags(flags),
                Reason::UnknownPort,
            ));
        }
        for (name, flags) in [("a_reset", tcp::RST), ("a_reset_with_ack", tcp::RST | tcp::ACK)] {
            cases.push(untouched(
                format!(
                    "{name}_over_{}_to_an_unknown_port_is_dropped_without_answer",
                    a.name
                ),
                FROM_WORKLOAD,
                world(),
                packet.clone().flags(flags).bytes(),
                Reason::UnknownPort,
            ));
        }
    }
    cases
}
