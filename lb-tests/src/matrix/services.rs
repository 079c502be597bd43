//! The Services of the matrix, and their addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use lb_testkit::Lab;

use super::{Family, Frontend, Place};
use crate::manifests::Manifest;

/// Port of all services.
pub const PORT: u16 = 80;
/// Port of all endpoints.
pub const TARGET: u16 = 8080;
/// NodePort of the first service.
const NODE_PORTS: u16 = 31_000;
/// Number of the first service in addresses.
const NUMBERS: u16 = 1;

/// What an endpoint's conditions say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Ready and serving.
    Ready,
    /// Not ready, still serving, being deleted.
    Terminating,
    /// Neither ready nor serving.
    Unready,
}

/// The traffic policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
}

const CLUSTER: Policy = Policy {
    internal_local: false,
    external_local: false,
};
const INTERNAL: Policy = Policy {
    internal_local: true,
    ..CLUSTER
};
const EXTERNAL: Policy = Policy {
    external_local: true,
    ..CLUSTER
};
const BOTH: Policy = Policy {
    external_local: true,
    ..INTERNAL
};

/// Sets of endpoints.
type Endpoints = &'static [(Place, State)];

/// The sets of endpoints that are combined with each policy.
const SETS: &[(&str, Endpoints)] = {
    use Place::{Asker, Host1, Host2, Pod1, Pod2};
    use State::{Ready, Terminating, Unready};
    &[
        ("itself", &[(Asker, Ready)]),
        ("pod-1", &[(Pod1, Ready)]),
        ("pod-2", &[(Pod2, Ready)]),
        ("host-1", &[(Host1, Ready)]),
        ("host-2", &[(Host2, Ready)]),
        (
            "all",
            &[
                (Asker, Ready),
                (Pod1, Ready),
                (Pod2, Ready),
                (Host1, Ready),
                (Host2, Ready),
            ],
        ),
        ("nobody", &[]),
        ("unready", &[(Pod1, Unready), (Pod2, Unready)]),
        ("one-unready", &[(Pod1, Unready), (Pod2, Ready)]),
        ("leaving", &[(Pod1, Terminating), (Pod2, Unready)]),
        ("one-leaving", &[(Pod1, Terminating), (Pod2, Ready)]),
        ("stand-in", &[(Pod1, Ready), (Host1, Terminating)]),
    ]
};

/// A Service of the matrix.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its policies.
    pub policy: Policy,
    /// Its endpoints.
    pub endpoints: Vec<(Place, State)>,
    /// Whether clients stay with their endpoint.
    pub affinity: bool,
    /// Port of its endpoints.
    pub target: u16,
    number: u16,
}

/// All services of the matrix.
pub fn all() -> Vec<Service> {
    // Two policies at once tell nothing new of most sets.
    let with_both = ["all", "one-unready", "one-leaving"];
    let policies = [
        ("cluster", CLUSTER),
        ("internal", INTERNAL),
        ("external", EXTERNAL),
        ("local", BOTH),
    ];
    let mut services = Vec::new();
    for (prefix, policy) in policies {
        for (name, endpoints) in SETS {
            if policy == BOTH && !with_both.contains(name) {
                continue;
            }
            let number = services.len() as u16;
            services.push(Service::new(
                &format!("{prefix}-{name}"),
                number,
                policy,
                endpoints,
            ));
        }
    }
    let number = services.len() as u16;
    let mut affine = Service::new(
        "affine",
        number,
        CLUSTER,
        &[
            (Place::Pod1, State::Ready),
            (Place::Pod2, State::Ready),
            (Place::Host2, State::Ready),
        ],
    );
    affine.affinity = true;
    services.push(affine);
    services
}

impl Service {
    /// The service of that number, which its addresses are made of.
    pub fn new(name: &str, number: u16, policy: Policy, endpoints: &[(Place, State)]) -> Self {
        Self {
            name: name.to_owned(),
            policy,
            endpoints: endpoints.to_vec(),
            affinity: false,
            target: TARGET,
            number: NUMBERS + number,
        }
    }

    /// One with policy Cluster, with that number.
    pub fn plain(name: &str, number: u16, endpoints: &[(Place, State)]) -> Self {
        Self::new(name, number, CLUSTER, endpoints)
    }

    /// The address and port of a frontend.
    pub fn address(&self, lab: &Lab, frontend: Frontend, family: Family) -> SocketAddr {
        let number = self.number;
        let [high, low] = number.to_be_bytes();
        let node_port = NODE_PORTS + number;
        let (v4, v6, port): (Ipv4Addr, Ipv6Addr, u16) = match frontend {
            Frontend::ClusterIp => (
                [10, 96, high, low].into(),
                [0xfd00, 0x10, 0x96, 0, 0, 0, 0, number].into(),
                PORT,
            ),
            Frontend::NodePort(node) => {
                let node = lab.node(node.into());
                (node.v4, node.v6, node_port)
            }
            Frontend::Localhost => (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, node_port),
            Frontend::ExternalIp => (
                [192, 0, 2, low].into(),
                [0x2001, 0xdb8, 0xe, 0, 0, 0, 0, number].into(),
                PORT,
            ),
            Frontend::LoadBalancer => (
                [198, 51, 100, low].into(),
                [0x2001, 0xdb8, 0x1b, 0, 0, 0, 0, number].into(),
                PORT,
            ),
        };
        match family {
            Family::V4 => (v4, port).into(),
            Family::V6 => (v6, port).into(),
        }
    }

    /// Its manifests.
    pub fn yaml(&self, lab: &Lab) -> String {
        let ip = |frontend, family| -> IpAddr { self.address(lab, frontend, family).ip() };
        let mut manifest = Manifest::new(&self.name, self.number)
            .port(PORT, self.target, Some(NODE_PORTS + self.number))
            .with(&format!(
                "externalIPs: [\"{}\", \"{}\"]",
                ip(Frontend::ExternalIp, Family::V4),
                ip(Frontend::ExternalIp, Family::V6)
            ))
            .balancer(&[
                &ip(Frontend::LoadBalancer, Family::V4).to_string(),
                &ip(Frontend::LoadBalancer, Family::V6).to_string(),
            ]);
        if self.policy.internal_local {
            manifest = manifest.with("internalTrafficPolicy: Local");
        }
        if self.policy.external_local {
            manifest = manifest.with("externalTrafficPolicy: Local");
        }
        if self.affinity {
            manifest = manifest.with("sessionAffinity: ClientIP");
        }
        for (place, state) in &self.endpoints {
            let host = place.host(lab);
            manifest = manifest.endpoint(host, &format!("node{}", place.node()));
            manifest = match state {
                State::Ready => manifest,
                State::Terminating => manifest.terminating(host),
                State::Unready => manifest.unready(host),
            };
        }
        manifest.yaml()
    }
}

/// The networks of addresses that are no node's; the client outside reaches them through node 1.
pub const ROUTED_NETWORKS: [&str; 6] = [
    "10.96.0.0/16",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "fd00:10:96::/48",
    "2001:db8:e::/48",
    "2001:db8:1b::/48",
];

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name, self.endpoints)
    }
}
