//! Every length at which a frame can end within its headers, and what follows.

use lb_common::{
    abi::{FrontendKind, proto},
    verdict::Reason,
};
use lb_testkit::packet::udp;

use super::{FROM_WORKLOAD, V4, V6, WITH_SCTP, first, service, untouched};
use crate::packets::case::Case;

/// The shortest frame that a device takes, in bytes: an Ethernet header.
const SHORTEST: usize = 14;

/// Each frame is cut at each length. Its IP header still tells the whole length, so that it is truncated wherever the
/// cut is.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (addresses, name, proto) in WITH_SCTP {
        let packet = first(proto, addresses.pod, addresses.cluster_ip);
        let world = service(
            proto,
            FrontendKind::ClusterIp,
            addresses.cluster_ip,
            addresses.remote,
            false,
        );
        for len in SHORTEST..packet.bytes().len() {
            let case = format!("{name}_over_{}_cut_at_{len}_is_passed", addresses.name);
            cases.push(untouched(
                case,
                FROM_WORKLOAD,
                world.clone(),
                packet.cut(len),
                Reason::Truncated,
            ));
        }
    }
    // And within the headers that come between those of IP and transport.
    let v4 = udp(V4.pod, V4.cluster_ip).ip_options(&[1; 8]).payload(&[1; 64]);
    let v6 = udp(V6.pod, V6.cluster_ip)
        .payload(&[1; 64])
        .extension(0, &[0, 1, 4, 0, 0, 0, 0]);
    for (a, packet) in [(V4, v4), (V6, v6)] {
        let world = service(proto::UDP, FrontendKind::ClusterIp, a.cluster_ip, a.remote, false);
        let fragments = packet.fragments(40);
        for (part, frame) in [("first", &fragments[0]), ("last", &fragments[1])] {
            for len in SHORTEST..frame.len() {
                cases.push(untouched(
                    format!("the_{part}_fragment_over_{}_cut_at_{len}_is_passed", a.name),
                    FROM_WORKLOAD,
                    world.clone(),
                    frame[..len].to_vec(),
                    Reason::Truncated,
                ));
            }
        }
    }
    cases
}
