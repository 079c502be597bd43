//! Tests against a model of the kernel's maps that refuses whatever would break a packet.

mod adoption;
mod audit;
mod damage;
mod kept;
mod limits;
mod meters;
mod model;
mod order;
mod portions;
mod properties;
mod scale;

use std::{collections::BTreeMap, convert::Infallible, net::IpAddr, time::Instant};

use self::model::Model;
use super::{Ledger, Limits, Report, sync};
use crate::{
    desired::{Endpoint, EndpointAddr, ServicePort, ServicePortKey},
    index::ServiceName,
    plan::{BackendSlot, Family, FrontendAddr, FrontendKind, Protocol, SnapshotBackend},
};

/// What is wanted of the kernel.
type Wanted = BTreeMap<ServicePortKey, ServicePort>;
/// Index and generation of backends.
type Slots = BTreeMap<(ServicePortKey, EndpointAddr), (u32, u32)>;

fn key(name: &str, protocol: Protocol, family: Family) -> ServicePortKey {
    let service = ServiceName {
        namespace: "ns".into(),
        name: name.into(),
    };
    ServicePortKey {
        service,
        port: "".into(),
        protocol,
        family,
    }
}

fn tcp(name: &str) -> ServicePortKey {
    key(name, Protocol::Tcp, Family::V4)
}

fn addr(family: Family, net: u8, host: u8) -> IpAddr {
    match family {
        Family::V4 => [10, net, 0, host].into(),
        Family::V6 => [0xfd00, u16::from(net), 0, 0, 0, 0, 0, u16::from(host)].into(),
    }
}

/// A service port with frontends 10.0.0.x:80 and endpoints 10.1.0.y:8080 (or the like of the key's family).
fn port(key: &ServicePortKey, frontends: &[u8], endpoints: &[u8]) -> ServicePort {
    let frontend = |n: &u8| {
        let addr = addr(key.family, 0, *n);
        (
            FrontendAddr {
                addr,
                port: 80,
                protocol: key.protocol,
            },
            FrontendKind::ClusterIp,
        )
    };
    let endpoint = |n: &u8| {
        (
            EndpointAddr {
                addr: addr(key.family, 1, *n),
                port: 8080,
            },
            Endpoint { local: false },
        )
    };
    let frontends: BTreeMap<_, _> = frontends.iter().map(frontend).collect();
    ServicePort {
        addresses: frontends.iter().map(|(f, kind)| (f.addr, *kind)).collect(),
        frontends,
        endpoints: endpoints.iter().map(endpoint).collect(),
        ..ServicePort::default()
    }
}

/// How many slots the tables of a service port take.
fn slots_of(port: &ServicePort) -> u32 {
    let one = lb_common::maglev::table_size(port.endpoints.len().max(port.local.len()));
    if port.local.is_empty() { one } else { 2 * one }
}

/// TCP services of IPv4: name, frontends, endpoints.
fn wanted(services: &[(&str, &[u8], &[u8])]) -> Wanted {
    let service = |(name, frontends, endpoints): &(&str, &[u8], &[u8])| {
        let key = tcp(name);
        (key.clone(), port(&key, frontends, endpoints))
    };
    services.iter().map(service).collect()
}

/// A kernel and the ledger of it, at some time.
struct Node {
    ledger: Ledger,
    model: Model,
    /// Whose each identifier was last, and since when it is nobody's.
    owners: BTreeMap<u32, (ServicePortKey, Option<Instant>)>,
}

impl Node {
    fn new(limits: Limits) -> Self {
        Self::adopting(Ledger::new(limits), Model::new(limits))
    }

    fn adopting(ledger: Ledger, model: Model) -> Self {
        Self {
            ledger,
            model,
            owners: BTreeMap::new(),
        }
    }

    /// The agent is started anew. That takes longer than any rest.
    fn restart(self, limits: Limits) -> Self {
        let mut model = self.model;
        model.failure = None;
        model.pass(limits.grace);
        let adopted = Ledger::adopt(limits, &model.snapshot(), |table| {
            Ok::<_, Infallible>(model.table(table))
        });
        let Ok(ledger) = adopted;
        Self::adopting(ledger, model)
    }

    fn sync(&mut self, wanted: &Wanted) -> Report<&'static str> {
        self.ledger.reset(wanted.clone());
        self.again()
    }

    fn again(&mut self) -> Report<&'static str> {
        let now = self.model.now;
        let report = sync(&mut self.ledger, &mut self.model, || now);
        self.assert_identifiers_rest();
        report
    }

    /// No identifier goes to another service port before its rest is over.
    fn assert_identifiers_rest(&mut self) {
        let now = self.model.now;
        let held: BTreeMap<u32, &ServicePortKey> =
            self.ledger.id_of.iter().map(|(key, id)| (*id, key)).collect();
        for (id, (_, free_since)) in &mut self.owners {
            if !held.contains_key(id) {
                free_since.get_or_insert(now);
            }
        }
        for (id, key) in held {
            if let Some((former, free_since)) = self.owners.get(&id).filter(|(former, _)| former != key) {
                let rested = free_since.is_some_and(|since| now >= since + self.ledger.limits.grace);
                assert!(rested, "identifier {id} goes from {former} to {key} without rest");
            }
            self.owners.insert(id, (key.clone(), None));
        }
    }

    /// Brings the kernel to what is wanted, without any error. Endpoints that go on serving keep their slots.
    #[track_caller]
    fn reach(&mut self, wanted: &Wanted) -> usize {
        let before = self.slots();
        let report = self.sync(wanted);
        self.assert_kept(&before, wanted);
        assert!(
            report.errors.is_empty() && report.failures.is_empty(),
            "{report:?}"
        );
        self.model.assert_is(wanted);
        self.assert_no_leaks(wanted);
        report.applied
    }

    /// Index and generation of the backends of each service port.
    fn slots(&self) -> Slots {
        let ids = self.ledger.id_of.iter();
        let entries = ids.filter_map(|(key, id)| Some((key, self.ledger.entries.get(id)?)));
        let slots = entries.flat_map(|(key, entry)| {
            let slots = entry.slots.iter();
            slots.map(move |(endpoint, slot)| ((key.clone(), *endpoint), (slot.index, slot.generation)))
        });
        slots.collect()
    }

    /// Of the backends that there were `before`, those whose endpoints are to have flows are what they were.
    #[track_caller]
    fn assert_kept(&self, before: &Slots, wanted: &Wanted) {
        let now = self.slots();
        for ((key, endpoint), place) in before {
            let serves = wanted.get(key).is_some_and(|port| {
                port.kept.contains_key(endpoint) || port.backends().contains_key(endpoint)
            });
            let found = now.get(&(key.clone(), *endpoint));
            assert!(
                !serves || found == Some(place),
                "{endpoint} of {key} moved from {place:?} to {found:?}"
            );
        }
    }

    /// Every backend is one that its service port wants, and marked as it wants it. Returns how many of them are kept.
    #[track_caller]
    fn assert_marks(&self, wanted: &Wanted) -> usize {
        let mut kept = 0;
        for ((key, endpoint), (index, generation)) in self.slots() {
            let port = wanted.get(&key).expect("a service port that is wanted");
            let here = port.kept.get(&endpoint).map(|endpoint| endpoint.local);
            let local = here.or_else(|| port.backends().get(&endpoint).copied());
            let marked = BackendSlot {
                addr: endpoint.addr,
                port: endpoint.port,
                protocol: key.protocol,
                generation,
                local: local.expect("an endpoint that is wanted"),
                kept: here.is_some(),
            };
            let found = self.model.backends.get(&(key.family, index));
            assert_eq!(found, Some(&SnapshotBackend::InUse(marked)), "of {key}");
            kept += usize::from(marked.kept);
        }
        kept
    }

    /// The ledger holds what is wanted and nothing else.
    #[track_caller]
    fn assert_no_leaks(&self, wanted: &Wanted) {
        let usage = self.ledger.usage();
        let kept = self.assert_marks(wanted);
        let table = |port: &ServicePort| u64::from(slots_of(port));
        assert_eq!(usage.services, wanted.len());
        assert_eq!(
            usage.backends,
            kept + wanted.values().map(|port| port.backends().len()).sum::<usize>()
        );
        let in_use = self.model.backends.values();
        let in_use = in_use.filter(|backend| matches!(backend, SnapshotBackend::InUse(_)));
        assert_eq!(usage.backends, in_use.count(), "the ledger knows them all");
        assert_eq!(
            usage.frontends,
            wanted.values().map(|port| port.frontends.len()).sum::<usize>()
        );
        assert_eq!(usage.table_slots, wanted.values().map(table).sum::<u64>());
        assert!(self.ledger.is_settled());
        assert_eq!(self.ledger.next_wakeup(), None);
    }
}

const LIMITS: Limits = Limits {
    max_services: 64,
    max_backends: 64,
    max_frontends: 64,
    maglev_slots: 16 * 1024,
    max_ranges: 64,
    max_meters: 64,
    grace: std::time::Duration::from_secs(1),
    portion: 256,
};
