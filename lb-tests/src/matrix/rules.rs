//! What is promised for a cell, from the table alone.
//!
//! Rules are those of SEMANTICS (`pkg/proxy` of Kubernetes 1.36); "beyond" marks where Fairlead promises more.

use std::collections::BTreeMap;

use lb_common::verdict::Reason;
use lb_testkit::Wiring;

use super::{
    Client, Frontend, Place,
    services::{Service, State},
};

/// A promise. Each must be seen kept by at least one cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Under policy Cluster all ready endpoints serve.
    ClusterSet,
    /// Without a ready one, those serve that are terminating but still answer.
    ClusterSetFallsBackToTerminating,
    /// Under policy Local the ready endpoints on the node serve.
    LocalSet,
    /// Without a ready one on the node, terminating ones on it serve, even if there are ready ones elsewhere.
    LocalSetFallsBackToTerminating,
    /// Nobody serves anywhere: refused.
    RefusedWithoutEndpoints,
    /// Policy Local, and endpoints elsewhere only: dropped.
    DroppedWithoutLocalEndpoints,
    /// `externalTrafficPolicy: Local` does not concern pods and processes of the node.
    ExternalPolicySparesTheNodesOwn,
    /// The endpoint sees the pod's address, across nodes too.
    PodKeepsItsAddress,
    /// A pod reaches itself through its service.
    Hairpin,
    /// From outside to an endpoint on another node: the endpoint sees the node.
    OutsideToAnotherNodeIsTranslated,
    /// Beyond: from outside to an endpoint on the node, the endpoint sees the client, whatever the policy.
    OutsideToThisNodeKeepsItsAddress,
    /// A cluster IP that is asked from outside works as any external address.
    OutsideReachesClusterIps,
    /// The node's own processes reach every kind of frontend.
    NodeReachesEverything,
    /// And localhost.
    NodeReachesLocalhost,
    /// Endpoints in the node's own network work for everybody.
    HostNetworkEndpoints,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::ClusterSet,
        Self::ClusterSetFallsBackToTerminating,
        Self::LocalSet,
        Self::LocalSetFallsBackToTerminating,
        Self::RefusedWithoutEndpoints,
        Self::DroppedWithoutLocalEndpoints,
        Self::ExternalPolicySparesTheNodesOwn,
        Self::PodKeepsItsAddress,
        Self::Hairpin,
        Self::OutsideToAnotherNodeIsTranslated,
        Self::OutsideToThisNodeKeepsItsAddress,
        Self::OutsideReachesClusterIps,
        Self::NodeReachesEverything,
        Self::NodeReachesLocalhost,
        Self::HostNetworkEndpoints,
    ];
}

/// Whose address an endpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The client's.
    Client,
    /// One of that node's.
    Node(u8),
}

/// What is to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Just these answer, and see that source.
    Answers(BTreeMap<Place, Source>),
    /// The client is refused at once.
    Refused,
    /// Nothing comes back; that node counts it under that reason. A call of a process fails instead.
    Dropped(u8, Reason),
}

/// What is promised for a cell, and by which rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// What is to happen.
    pub outcome: Outcome,
    /// By which rules.
    pub rules: Vec<Rule>,
}

/// A question without its protocol and family, which no rule asks for.
struct Question<'a> {
    wiring: Wiring,
    client: Client,
    frontend: Frontend,
    service: &'a Service,
    /// The node whose Fairlead decides.
    node: u8,
    /// Whether that node finds the client to be its own: its pod or process, not a packet from outside.
    own: bool,
}

/// What is promised to `client`, if it asks for that frontend of `service`.
pub fn promise(wiring: Wiring, client: Client, frontend: Frontend, service: &Service) -> Promise {
    let node = match frontend {
        Frontend::NodePort(node) => node,
        _ => client.node().unwrap_or(1),
    };
    let question = Question {
        wiring,
        client,
        frontend,
        service,
        node,
        own: client.node() == Some(node),
    };
    let mut rules = Vec::new();
    let outcome = question.outcome(&mut rules);
    Promise { outcome, rules }
}

impl Question<'_> {
    fn outcome(&self, rules: &mut Vec<Rule>) -> Outcome {
        let policy = self.service.policy;
        let local = if self.frontend == Frontend::ClusterIp {
            policy.internal_local
        } else {
            if policy.external_local && self.own {
                rules.push(Rule::ExternalPolicySparesTheNodesOwn);
            }
            policy.external_local && !self.own
        };
        let anywhere = self.serving(|_| true);
        let (set, rule) = if local {
            let here = self.serving(|place| place.node() == self.node);
            if here.0.is_empty() && !anywhere.0.is_empty() {
                rules.push(Rule::DroppedWithoutLocalEndpoints);
                return Outcome::Dropped(self.node, self.drop_reason());
            }
            let rule = if here.1 {
                Rule::LocalSet
            } else {
                Rule::LocalSetFallsBackToTerminating
            };
            (here.0, rule)
        } else if anywhere.1 {
            (anywhere.0, Rule::ClusterSet)
        } else {
            (anywhere.0, Rule::ClusterSetFallsBackToTerminating)
        };
        if set.is_empty() {
            rules.push(Rule::RefusedWithoutEndpoints);
            return Outcome::Refused;
        }
        rules.push(rule);
        match self.frontend {
            Frontend::Localhost => rules.push(Rule::NodeReachesLocalhost),
            _ if self.client.is_process() => rules.push(Rule::NodeReachesEverything),
            Frontend::ClusterIp if self.client == Client::Outside => {
                rules.push(Rule::OutsideReachesClusterIps);
            }
            _ => {}
        }
        let sources = set.into_iter().map(|place| (place, self.source(place, rules)));
        Outcome::Answers(sources.collect())
    }

    /// Who serves of the places that count, and whether they are ready.
    fn serving(&self, counts: impl Fn(Place) -> bool) -> (Vec<Place>, bool) {
        let those = |wanted: State| -> Vec<Place> {
            let endpoints = self.service.endpoints.iter();
            endpoints
                .filter(|(place, state)| counts(*place) && *state == wanted)
                .map(|(place, _)| *place)
                .collect()
        };
        let ready = those(State::Ready);
        if ready.is_empty() {
            (those(State::Terminating), false)
        } else {
            (ready, true)
        }
    }

    const fn drop_reason(&self) -> Reason {
        if self.own && self.client.is_process() {
            Reason::SocketNoLocalEndpoints
        } else {
            Reason::NoLocalEndpoints
        }
    }

    /// Whose address an endpoint at `place` sees.
    fn source(&self, place: Place, rules: &mut Vec<Rule>) -> Source {
        if place.is_host() {
            rules.push(Rule::HostNetworkEndpoints);
        }
        if !self.own && place.node() != self.node {
            rules.push(Rule::OutsideToAnotherNodeIsTranslated);
            return Source::Node(self.node);
        }
        if let (Client::Node1 | Client::Node2, Some(node)) = (self.client, self.client.node()) {
            // It has several addresses to choose from.
            return Source::Node(node);
        }
        if self.client == Client::Pod && self.own && place == Place::Asker {
            rules.push(Rule::Hairpin);
            return Source::Node(self.node);
        }
        if self.client == Client::Pod && self.leaves_the_overlay(place) {
            return Source::Node(1);
        }
        rules.push(if self.client == Client::Pod {
            Rule::PodKeepsItsAddress
        } else {
            Rule::OutsideToThisNodeKeepsItsAddress
        });
        Source::Client
    }

    /// Whether the pods' network plugin puts its node's address in the place of the pod's: where the pod's packets go to an
    /// address of another node.
    fn leaves_the_overlay(&self, place: Place) -> bool {
        self.wiring == Wiring::Overlay && (!self.own || place == Place::Host2)
    }
}
