//! The matrix: every client × every frontend × every kind of endpoint × every policy, over TCP and UDP, IPv4 and IPv6.
//!
//! ```text
//!   services ── who is behind which address: one Service for each set of endpoints and policy
//!   rules ───── what Kubernetes (and where it says more, Fairlead) promises for a cell, from the table alone
//!   play ────── asks a real server for each cell, and compares
//!   flows ───── what becomes of open flows when endpoints change
//! ```
//!
//! To add a set of endpoints or a policy is one line in [`services`]; to add a kind of client or frontend is a variant
//! here and what the compiler then asks for.

pub mod flows;
pub mod play;
pub mod rules;
pub mod services;

use std::fmt;

use lb_testkit::{Host, Lab};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// The pod `n1-a`, which is an endpoint of some services itself.
    Pod,
    /// A process on node 1, where the pod runs as well.
    Node1,
    /// A process on node 2.
    Node2,
    /// The client outside; addresses that are no node's it reaches through node 1.
    Outside,
}

impl Client {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pod, Self::Node1, Self::Node2, Self::Outside];

    /// The node that it runs on.
    pub const fn node(self) -> Option<u8> {
        match self {
            Self::Pod | Self::Node1 => Some(1),
            Self::Node2 => Some(2),
            Self::Outside => None,
        }
    }

    /// Whether it is a process of a node, which the socket hooks serve.
    pub const fn is_process(self) -> bool {
        matches!(self, Self::Node1 | Self::Node2)
    }

    /// Where it runs.
    pub fn host(self, lab: &Lab) -> &Host {
        match self {
            Self::Pod => lab.pod(1, 1),
            Self::Node1 => lab.node(1),
            Self::Node2 => lab.node(2),
            Self::Outside => lab.client(),
        }
    }

    /// The kinds of addresses that it may ask for.
    pub fn frontends(self) -> Vec<Frontend> {
        let mut all = vec![
            Frontend::ClusterIp,
            Frontend::NodePort(1),
            Frontend::NodePort(2),
            Frontend::ExternalIp,
            Frontend::LoadBalancer,
        ];
        if self.is_process() {
            all.push(Frontend::Localhost);
        }
        all
    }
}

/// What it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Frontend {
    /// A cluster IP.
    ClusterIp,
    /// A NodePort at that node's address.
    NodePort(u8),
    /// A NodePort at 127.0.0.1 or ::1.
    Localhost,
    /// One of `spec.externalIPs`.
    ExternalIp,
    /// One of `status.loadBalancer.ingress`.
    LoadBalancer,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// A connection and a request.
    Tcp,
    /// A datagram of a connected socket.
    Udp,
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Where an endpoint runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The pod that asks as well: [`Client::Pod`].
    Asker,
    /// Another pod on node 1.
    Pod1,
    /// A pod on node 2.
    Pod2,
    /// The network of node 1 itself (`hostNetwork: true`).
    Host1,
    /// The network of node 2 itself.
    Host2,
}

impl Place {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Asker, Self::Pod1, Self::Pod2, Self::Host1, Self::Host2];

    /// Its node.
    pub const fn node(self) -> u8 {
        match self {
            Self::Asker | Self::Pod1 | Self::Host1 => 1,
            Self::Pod2 | Self::Host2 => 2,
        }
    }

    /// Whether its address is that of its node.
    pub const fn is_host(self) -> bool {
        matches!(self, Self::Host1 | Self::Host2)
    }

    /// Where it runs.
    pub fn host(self, lab: &Lab) -> &Host {
        match self {
            Self::Asker => lab.pod(1, 1),
            Self::Pod1 => lab.pod(1, 2),
            Self::Pod2 => lab.pod(2, 1),
            Self::Host1 => lab.node(1),
            Self::Host2 => lab.node(2),
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "pod n1-a",
            Self::Node1 => "a process on node1",
            Self::Node2 => "a process on node2",
            Self::Outside => "the client outside",
        })
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterIp => f.write_str("cluster IP"),
            Self::NodePort(node) => write!(f, "NodePort of node{node}"),
            Self::Localhost => f.write_str("NodePort of localhost"),
            Self::ExternalIp => f.write_str("external IP"),
            Self::LoadBalancer => f.write_str("load balancer's IP"),
        }
    }
}
