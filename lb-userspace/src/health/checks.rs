//! Health check ports of Services (`spec.healthCheckNodePort`): who is to listen where, and with what answer. Pure.
//!
//! The rules are those of `pkg/proxy/healthcheck/service_health.go` of Kubernetes. Families are apart, as kube-proxy's
//! proxiers are: a NodePort address of IPv6 answers for the IPv6 endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use serde::Serialize;

use crate::{index::ServiceName, plan::Family};

/// The health check of a Service in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The Service's uid; may be empty.
    pub uid: Box<str>,
    /// The port, on every NodePort address of the family.
    pub port: u16,
    /// How many addresses of ready endpoints there are on this node.
    pub endpoints: usize,
}

/// All health checks.
pub type HealthChecks = BTreeMap<(ServiceName, Family), HealthCheck>;

/// Whose health is asked for at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The Service.
    pub service: ServiceName,
    /// Its uid; may be empty.
    pub uid: Box<str>,
    /// How many addresses of ready endpoints it has on this node.
    pub endpoints: usize,
}

/// Two Services that want one port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Clash {
    /// The port.
    pub port: u16,
    /// Who wants it.
    pub service: ServiceName,
    /// Its uid; may be empty.
    pub uid: Box<str>,
    /// Who has it: the first by name. The API server never gives one port twice.
    pub taken_by: ServiceName,
}

/// What is asked for at each address, and the Services that go without.
pub fn by_address(
    checks: &HealthChecks,
    addresses: &[IpAddr],
) -> (BTreeMap<SocketAddr, Subject>, BTreeSet<Clash>) {
    let mut subjects: BTreeMap<SocketAddr, Subject> = BTreeMap::new();
    let mut clashes = BTreeSet::new();
    for ((service, family), check) in checks {
        for addr in addresses.iter().filter(|addr| Family::of(**addr) == *family) {
            let subject = Subject {
                service: service.clone(),
                uid: check.uid.clone(),
                endpoints: check.endpoints,
            };
            let taken = subjects
                .entry(SocketAddr::new(*addr, check.port))
                .or_insert(subject);
            if taken.service != *service {
                clashes.insert(Clash {
                    port: check.port,
                    service: service.clone(),
                    uid: check.uid.clone(),
                    taken_by: taken.service.clone(),
                });
            }
        }
    }
    (subjects, clashes)
}

/// What is to be done so that the open addresses become the wanted ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Addresses to close; before the others are opened.
    pub close: Vec<SocketAddr>,
    /// Addresses to open.
    pub open: Vec<SocketAddr>,
}

/// Compares the open addresses with the wanted ones. An address that stays is left alone, also when it is another Service's
/// now.
pub fn steps(open: &BTreeSet<SocketAddr>, wanted: &BTreeMap<SocketAddr, Subject>) -> Steps {
    Steps {
        close: open
            .iter()
            .filter(|addr| !wanted.contains_key(addr))
            .copied()
            .collect(),
        open: wanted
            .keys()
            .filter(|addr| !open.contains(addr))
            .copied()
            .collect(),
    }
}

/// The body of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer<'a> {
    service: AnswerName<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct AnswerName<'a> {
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Answer<'a> {
    /// What is to be said of a Service by an agent that is `healthy` or not.
    pub fn new(subject: &'a Subject, healthy: bool) -> Self {
        Self {
            service: AnswerName {
                namespace: &subject.service.namespace,
                name: &subject.service.name,
            },
            local_endpoints: subject.endpoints,
            service_proxy_healthy: healthy,
        }
    }

    /// Whether load balancers may send the Service's connections to this node: status 200, or else 503.
    pub fn is_good(&self) -> bool {
        self.local_endpoints > 0 && self.service_proxy_healthy
    }

    /// The weight that load balancers may give this node.
    pub fn weight(&self) -> usize {
        self.local_endpoints
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(name: &str) -> ServiceName {
        ServiceName {
            namespace: "default".into(),
            name: name.into(),
        }
    }

    fn check(port: u16, endpoints: usize) -> HealthCheck {
        HealthCheck {
            uid: "u".into(),
            port,
            endpoints,
        }
    }

    fn addresses() -> Vec<IpAddr> {
        ["192.0.2.1", "198.51.100.1", "2001:db8::1"]
            .map(|addr| addr.parse().unwrap())
            .to_vec()
    }

    #[test]
    fn a_service_is_asked_for_at_every_node_port_address_of_its_family() {
        let checks = HealthChecks::from([
            ((name("a"), Family::V4), check(31000, 2)),
            ((name("a"), Family::V6), check(31000, 1)),
            ((name("b"), Family::V6), check(31001, 0)),
        ]);
        let (subjects, clashes) = by_address(&checks, &addresses());
        let found: Vec<(String, &str, usize)> = subjects
            .iter()
            .map(|(addr, subject)| (addr.to_string(), &*subject.service.name, subject.endpoints))
            .collect();
        let expected = [
            ("192.0.2.1:31000", "a", 2),
            ("198.51.100.1:31000", "a", 2),
            ("[2001:db8::1]:31000", "a", 1),
            ("[2001:db8::1]:31001", "b", 0),
        ];
        assert_eq!(
            found,
            expected.map(|(addr, name, count)| (addr.to_owned(), name, count))
        );
        assert!(clashes.is_empty());
    }

    #[test]
    fn of_two_services_with_one_port_the_first_has_it_and_the_other_is_told() {
        let checks = HealthChecks::from([
            ((name("a"), Family::V4), check(31000, 2)),
            ((name("b"), Family::V4), check(31000, 1)),
        ]);
        let (subjects, clashes) = by_address(&checks, &addresses());
        assert!(subjects.values().all(|subject| subject.service == name("a")));
        let clash = Clash {
            port: 31000,
            service: name("b"),
            uid: "u".into(),
            taken_by: name("a"),
        };
        assert_eq!(clashes, BTreeSet::from([clash]));
    }

    #[test]
    fn what_goes_is_closed_what_is_new_is_opened_and_what_stays_is_left_alone() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let subject = Subject {
            service: name("a"),
            uid: "u".into(),
            endpoints: 1,
        };
        let open = BTreeSet::from([at("192.0.2.1:1"), at("192.0.2.1:2")]);
        let wanted = BTreeMap::from([(at("192.0.2.1:2"), subject.clone()), (at("192.0.2.1:3"), subject)]);
        let expected = Steps {
            close: vec![at("192.0.2.1:1")],
            open: vec![at("192.0.2.1:3")],
        };
        assert_eq!(steps(&open, &wanted), expected);
        let reached = wanted.keys().copied().collect();
        assert_eq!(steps(&reached, &wanted), Steps::default());
    }

    #[test]
    fn the_answer_is_good_with_local_endpoints_and_a_healthy_agent_alone() {
        for (endpoints, healthy, good) in [
            (0, true, false),
            (2, true, true),
            (2, false, false),
            (0, false, false),
        ] {
            let subject = Subject {
                service: name("a"),
                uid: "u".into(),
                endpoints,
            };
            let answer = Answer::new(&subject, healthy);
            assert_eq!(answer.is_good(), good);
            assert_eq!(answer.weight(), endpoints);
            let expected = json!({
                "service": {"namespace": "default", "name": "a"},
                "localEndpoints": endpoints,
                "serviceProxyHealthy": healthy,
            });
            assert_eq!(serde_json::to_value(&answer).unwrap(), expected);
        }
    }
}
