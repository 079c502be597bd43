//! The packet tables, by subject.

mod addresses;
mod affinity;
mod direct;
mod extensions;
mod flows;
mod fragments;
mod headers;
mod icmp;
mod kept;
mod lengths;
mod policies;
mod sctp;
mod services;
mod snat;
mod sources;

use lb_common::{
    abi::{FrontendKind, Policies, proto},
    datapath::{Hook, Role},
    flow::Seen,
    verdict::Reason,
};
use lb_testkit::packet::{self, Build, addr};

use super::{
    case::Case,
    world::{FlowSpec, GENERATION, Halves, METER, ServiceSpec, World, backend_index},
};

/// Every case.
pub fn all() -> Vec<Case> {
    let mut cases = headers::cases();
    cases.extend(lengths::cases());
    cases.extend(services::cases());
    cases.extend(flows::cases());
    cases.extend(snat::cases());
    cases.extend(policies::cases());
    cases.extend(affinity::cases());
    cases.extend(kept::cases());
    cases.extend(direct::cases());
    cases.extend(addresses::cases());
    cases.extend(icmp::cases());
    cases.extend(fragments::cases());
    cases.extend(extensions::cases());
    cases.extend(sctp::cases());
    cases.extend(sources::cases());
    cases
}

pub(super) const FROM_WORKLOAD: Hook = Hook::Ingress(Role::Workload);
pub(super) const FROM_UPLINK: Hook = Hook::Ingress(Role::Uplink);

/// The addresses of one family that the tables use.
#[derive(Clone, Copy)]
pub(super) struct Addresses {
    /// "IPv4" or "IPv6".
    pub(super) name: &'static str,
    /// A pod of this node.
    pub(super) pod: &'static str,
    /// Somebody outside the cluster.
    pub(super) outside: &'static str,
    /// ClusterIP of the service, port 80.
    pub(super) cluster_ip: &'static str,
    /// NodePort of the service on this node.
    pub(super) node_port: &'static str,
    /// An endpoint on this node, port 8080.
    pub(super) local: &'static str,
    /// An endpoint on another node, port 8080.
    pub(super) remote: &'static str,
    /// Something that is no service.
    pub(super) elsewhere: &'static str,
    /// A source that must not be answered.
    pub(super) nobody: &'static str,
}

const V4: Addresses = Addresses {
    name: "IPv4",
    pod: "10.244.1.5:40000",
    outside: "172.18.0.100:40000",
    cluster_ip: "10.96.0.10:80",
    node_port: "172.18.0.2:31521",
    local: "10.244.1.7:8080",
    remote: "10.244.2.7:8080",
    elsewhere: "203.0.113.9:80",
    nobody: "0.0.0.0:40000",
};

const V6: Addresses = Addresses {
    name: "IPv6",
    pod: "[fd00:10:244:1::5]:40000",
    outside: "[fd00:172:18::100]:40000",
    cluster_ip: "[fd00:10:96::10]:80",
    node_port: "[fd00:172:18::2]:31521",
    local: "[fd00:10:244:1::7]:8080",
    remote: "[fd00:10:244:2::7]:8080",
    elsewhere: "[2001:db8::9]:80",
    nobody: "[ff02::1]:40000",
};

/// TCP and UDP over IPv4 and IPv6.
pub(super) const MATRIX: [(Addresses, &str, u8); 4] = [
    (V4, "TCP", proto::TCP),
    (V4, "UDP", proto::UDP),
    (V6, "TCP", proto::TCP),
    (V6, "UDP", proto::UDP),
];

/// The same with SCTP.
pub(super) const WITH_SCTP: [(Addresses, &str, u8); 6] = [
    (V4, "TCP", proto::TCP),
    (V4, "UDP", proto::UDP),
    (V4, "SCTP", proto::SCTP),
    (V6, "TCP", proto::TCP),
    (V6, "UDP", proto::UDP),
    (V6, "SCTP", proto::SCTP),
];

/// A packet that opens a connection.
pub(super) fn first(proto: u8, src: &str, dst: &str) -> Build {
    match proto {
        proto::TCP => packet::syn(src, dst),
        proto::SCTP => packet::sctp(src, dst).chunk(packet::chunk::INIT),
        _ => packet::udp(src, dst),
    }
}

/// A packet in the middle of a connection.
pub(super) fn later(proto: u8, src: &str, dst: &str) -> Build {
    match proto {
        proto::TCP => packet::tcp(src, dst),
        proto::SCTP => packet::sctp(src, dst),
        _ => packet::udp(src, dst),
    }
}

/// A world with one service of one endpoint.
pub(super) fn service(proto: u8, kind: FrontendKind, frontend: &str, endpoint: &str, local: bool) -> World {
    World {
        services: vec![ServiceSpec {
            frontend: addr(frontend),
            proto,
            kind,
            endpoints: vec![(addr(endpoint), local)],
            kept: Vec::new(),
            policies: Policies::default(),
            defect: None,
        }],
        flows: Vec::new(),
        addresses: Vec::new(),
        ranges: None,
        affinities: Vec::new(),
        fragments: Vec::new(),
        sources: Vec::new(),
    }
}

/// The flow of `client` to the first endpoint of a world, in full swing.
pub(super) fn flow(proto: u8, client: &str, frontend: &str, backend: &str) -> FlowSpec {
    let seen = if proto == proto::UDP {
        Seen::DATA
    } else {
        Seen::SYN | Seen::DATA
    };
    FlowSpec {
        client: addr(client),
        frontend: addr(frontend),
        backend: addr(backend),
        source: None,
        direct: false,
        proto,
        meter: METER,
        index: backend_index(0),
        generation: GENERATION,
        forward_seen: seen,
        reply_seen: seen,
        age: 100_000_000,
        halves: Halves::Both,
    }
}

/// A case whose packet must stay as it is.
pub(super) fn untouched(
    name: impl Into<String>,
    hook: Hook,
    world: World,
    packet: Vec<u8>,
    reason: Reason,
) -> Case {
    Case {
        name: name.into(),
        hook,
        world,
        before: Vec::new(),
        packet,
        reason,
        rewritten: None,
        redirected: false,
    }
}

/// A case whose packet must come out as `rewritten`.
fn rewritten(
    name: impl Into<String>,
    hook: Hook,
    world: World,
    packet: &Build,
    reason: Reason,
    rewritten: &Build,
) -> Case {
    Case {
        name: name.into(),
        hook,
        world,
        before: Vec::new(),
        packet: packet.bytes(),
        reason,
        rewritten: Some(rewritten.bytes()),
        redirected: false,
    }
}

/// The same, the node sending the packet out itself.
pub(super) fn redirected(case: Case) -> Case {
    Case {
        redirected: true,
        ..case
    }
}

/// A case whose packet goes back as ICMP port unreachable.
fn rejected(name: impl Into<String>, hook: Hook, world: World, packet: &Build) -> Case {
    rejected_for(name, hook, world, packet, Reason::NoEndpoints)
}

/// The same, for that reason.
fn rejected_for(name: impl Into<String>, hook: Hook, world: World, packet: &Build, reason: Reason) -> Case {
    redirected(Case {
        rewritten: Some(packet.port_unreachable()),
        ..untouched(name, hook, world, packet.bytes(), reason)
    })
}
