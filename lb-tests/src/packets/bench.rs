//! Packets whose cost is measured.

use lb_common::{abi::FrontendKind, verdict::Reason};

use super::{
    case::Case,
    cases::{FROM_UPLINK, FROM_WORKLOAD, MATRIX, flow, later, service, untouched},
};

/// Each leaves the packet as it was, so that it can be run over and over.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (a, name, proto) in MATRIX {
        let label = |what: &str| format!("{name} over {}: {what}", a.name);
        let cluster_ip = || service(proto, FrontendKind::ClusterIp, a.cluster_ip, a.local, true);
        cases.push(untouched(
            label("to no service"),
            FROM_WORKLOAD,
            cluster_ip(),
            later(proto, a.pod, a.elsewhere).bytes(),
            Reason::NotService,
        ));
        // The flow's endpoint has the service's own address.
        let mut itself = service(proto, FrontendKind::ClusterIp, a.cluster_ip, a.cluster_ip, true);
        itself.flows.push(flow(proto, a.pod, a.cluster_ip, a.cluster_ip));
        cases.push(untouched(
            label("established"),
            FROM_UPLINK,
            itself.clone(),
            later(proto, a.pod, a.cluster_ip).bytes(),
            Reason::Established,
        ));
        cases.push(untouched(
            label("reply"),
            lb_common::datapath::Hook::Egress,
            itself,
            later(proto, a.cluster_ip, a.pod).bytes(),
            Reason::ReplyRestored,
        ));
    }
    cases
}
