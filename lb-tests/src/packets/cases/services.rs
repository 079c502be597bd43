//! New flows: which packets a service claims, and where they go.

use lb_common::{
    abi::{FrontendKind, proto},
    datapath::Hook,
    flow::tcp,
    maglev,
    verdict::Reason,
};
use lb_testkit::packet::{self, addr};

use super::{
    FROM_UPLINK, FROM_WORKLOAD, V4, WITH_SCTP, first, later, rejected, rewritten, service, untouched,
};
use crate::packets::{
    case::Case,
    world::{Defect, World},
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (a, name, proto) in WITH_SCTP {
        let label = |rule: &str| format!("{name}_over_{}_{rule}", a.name);
        let cluster_ip = |local| {
            service(
                proto,
                FrontendKind::ClusterIp,
                a.cluster_ip,
                if local { a.local } else { a.remote },
                local,
            )
        };
        let to_cluster_ip = first(proto, a.pod, a.cluster_ip);
        let to_node_port = first(proto, a.outside, a.node_port);
        cases.extend([
            rewritten(
                label("from_a_pod_to_a_local_endpoint"),
                FROM_WORKLOAD,
                cluster_ip(true),
                &to_cluster_ip,
                Reason::NewFlow,
                &to_cluster_ip.clone().to(a.local),
            ),
            rewritten(
                label("from_a_pod_to_a_remote_endpoint"),
                FROM_WORKLOAD,
                cluster_ip(false),
                &to_cluster_ip,
                Reason::NewFlow,
                &to_cluster_ip.clone().to(a.remote),
            ),
            rewritten(
                label("from_outside_to_a_node_port_with_a_local_endpoint"),
                FROM_UPLINK,
                service(proto, FrontendKind::NodePort, a.node_port, a.local, true),
                &to_node_port,
                Reason::NewFlow,
                &to_node_port.clone().to(a.local),
            ),
            untouched(
                label("to_no_service_is_passed"),
                FROM_WORKLOAD,
                cluster_ip(false),
                first(proto, a.pod, a.elsewhere).bytes(),
                Reason::NotService,
            ),
            untouched(
                label("to_another_port_of_a_service_is_passed"),
                FROM_WORKLOAD,
                cluster_ip(false),
                first(proto, a.pod, &with_port(a.cluster_ip, 81)).bytes(),
                Reason::NotService,
            ),
            untouched(
                label("to_an_endpoint_itself_is_passed"),
                FROM_WORKLOAD,
                cluster_ip(false),
                first(proto, a.pod, a.remote).bytes(),
                Reason::Direct,
            ),
            untouched(
                label("to_a_service_of_the_other_protocol_is_passed"),
                FROM_WORKLOAD,
                cluster_ip(false),
                first(other(proto), a.pod, a.cluster_ip).bytes(),
                Reason::NotService,
            ),
            untouched(
                label("leaving_to_a_service_is_passed"),
                Hook::Egress,
                cluster_ip(false),
                to_cluster_ip.bytes(),
                Reason::NotReply,
            ),
            rejected(
                label("to_a_service_without_endpoints_is_rejected"),
                FROM_WORKLOAD,
                without_endpoints(cluster_ip(false)),
                &to_cluster_ip,
            ),
            rejected(
                label("from_outside_to_a_service_without_endpoints_is_rejected"),
                FROM_UPLINK,
                without_endpoints(service(
                    proto,
                    FrontendKind::NodePort,
                    a.node_port,
                    a.remote,
                    false,
                )),
                &to_node_port.clone().payload(&[7; 700]),
            ),
            untouched(
                label("of_nobodys_address_to_a_service_without_endpoints_is_dropped"),
                FROM_WORKLOAD,
                without_endpoints(cluster_ip(false)),
                to_cluster_ip.clone().from(a.nobody).bytes(),
                Reason::NoEndpoints,
            ),
            untouched(
                label("a_loopback_frontend_takes_no_packets"),
                FROM_WORKLOAD,
                service(proto, FrontendKind::Localhost, a.node_port, a.local, true),
                first(proto, a.pod, a.node_port).bytes(),
                Reason::NotService,
            ),
            rewritten(
                label("with_port_equal_to_target_port"),
                FROM_WORKLOAD,
                service(
                    proto,
                    FrontendKind::ClusterIp,
                    a.cluster_ip,
                    &with_port(a.remote, 80),
                    false,
                ),
                &to_cluster_ip,
                Reason::NewFlow,
                &to_cluster_ip.clone().to(&with_port(a.remote, 80)),
            ),
        ]);
        for (rule, defect) in [
            ("a_slot_beyond_the_backends_is_told", Defect::SlotBeyondBackends),
            ("a_freed_backend_is_never_sent_to", Defect::BackendsFreed),
            ("a_table_beyond_the_slots_is_told", Defect::TableBeyondSlots),
        ] {
            let mut world = cluster_ip(false);
            world.services[0].defect = Some(defect);
            cases.push(untouched(
                label(rule),
                FROM_WORKLOAD,
                world,
                to_cluster_ip.bytes(),
                Reason::BadTable,
            ));
        }
        cases.push(spread(
            &label("goes_to_the_endpoint_that_maglev_says"),
            &cluster_ip(false),
            &to_cluster_ip,
            proto,
            a.pod,
        ));
    }
    cases.extend(openings());
    cases
}

/// TCP packets that are not a plain SYN may be the first that this node sees of a connection, and are served alike.
fn openings() -> Vec<Case> {
    let world = || {
        service(
            proto::TCP,
            FrontendKind::ClusterIp,
            V4.cluster_ip,
            V4.remote,
            false,
        )
    };
    [
        ("a_syn_with_ecn", tcp::SYN | 0xc0),
        ("data_of_an_unknown_connection", tcp::ACK),
        ("a_fin", tcp::FIN | tcp::ACK),
        ("a_reset", tcp::RST),
        ("all_flags", 0xff),
        ("no_flags", 0),
    ]
    .into_iter()
    .map(|(name, flags)| {
        let packet = later(proto::TCP, V4.pod, V4.cluster_ip).flags(flags);
        rewritten(
            format!("{name}_is_translated"),
            FROM_WORKLOAD,
            world(),
            &packet,
            Reason::NewFlow,
            &packet.clone().to(V4.remote),
        )
    })
    .collect()
}

/// Three endpoints: the table that every node builds alike says which one the flow goes to.
fn spread(name: &str, world: &World, packet: &packet::Build, proto: u8, client: &str) -> Case {
    let mut world = world.clone();
    let service = &mut world.services[0];
    let (endpoint, _) = service.endpoints[0];
    service.endpoints = (0..3)
        .map(|n| (addr(&with_port(&endpoint.to_string(), 8000 + n)), false))
        .collect();
    let port = |port: u16| port.to_be();
    let client = addr(client);
    let hash = match lb_common::abi::from_ip(client.ip()) {
        lb_common::abi::Either::V4(ip) => {
            maglev::flow_hash(ip, port(client.port()), port(service.frontend.port()), proto)
        }
        lb_common::abi::Either::V6(ip) => {
            maglev::flow_hash(ip, port(client.port()), port(service.frontend.port()), proto)
        }
    };
    let members: Vec<maglev::Member> = (0u32..)
        .zip(&service.endpoints)
        .map(|(backend, (endpoint, _))| {
            let id = match lb_common::abi::from_ip(endpoint.ip()) {
                lb_common::abi::Either::V4(ip) => maglev::endpoint_id(ip, port(endpoint.port())),
                lb_common::abi::Either::V6(ip) => maglev::endpoint_id(ip, port(endpoint.port())),
            };
            maglev::Member {
                id,
                weight: 1,
                backend,
            }
        })
        .collect();
    let mut table = vec![0; maglev::table_size(3) as usize];
    maglev::build(&members, &mut [maglev::Cursor::default(); 3], &mut table);
    let chosen = service.endpoints[table[hash as usize & (table.len() - 1)] as usize].0;
    rewritten(
        name,
        FROM_WORKLOAD,
        world,
        packet,
        Reason::NewFlow,
        &packet.clone().to(&chosen.to_string()),
    )
}

fn without_endpoints(mut world: World) -> World {
    world.services[0].endpoints.clear();
    world
}

fn other(proto: u8) -> u8 {
    if proto == proto::TCP {
        proto::UDP
    } else {
        proto::TCP
    }
}

/// The same address with another port.
pub(super) fn with_port(text: &str, port: u16) -> String {
    let mut addr = addr(text);
    addr.set_port(port);
    addr.to_string()
}
