//! Every length at which a frame can end within its headers, and what follows.

use lb_common::{abi::FrontendKind, verdict::Reason};

use super::{FROM_WORKLOAD, MATRIX, first, service, untouched};
use crate::packets::case::Case;

/// The shortest frame that a device takes, in bytes: an Ethernet header.
const SHORTEST: usize = 14;

/// Each frame is cut at each length. Its IP header still tells the whole length, so that it is truncated wherever the
/// cut is.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (addresses, name, proto) in MATRIX {
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
    cases
}
