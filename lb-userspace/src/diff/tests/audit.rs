//! What somebody else has written into the kernel's maps, each kind of it by itself.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::*;
use crate::{
    desired::Sources,
    diff::Part,
    plan::{Differences, Op, ReadBack, Snapshot, TableRef},
    sys::Place,
};

impl ReadBack for Model {
    type Error = Infallible;

    fn frontends(&self, family: Family, _: Option<Place>) -> Result<(Snapshot, Option<Place>), Infallible> {
        let mut snapshot = self.snapshot();
        snapshot
            .frontends
            .retain(|frontend, _| frontend.family() == family);
        snapshot.addresses.retain(|addr, _| Family::of(*addr) == family);
        Ok((snapshot, None))
    }

    fn has_frontend(&self, frontend: &FrontendAddr) -> Result<bool, Infallible> {
        Ok(self.frontends.contains_key(frontend))
    }

    fn has_address(&self, addr: IpAddr) -> Result<bool, Infallible> {
        Ok(self.addresses.contains_key(&addr))
    }

    fn ranges(&self) -> Result<BTreeMap<u32, BTreeSet<IpNet>>, Infallible> {
        Ok(self.ranges.clone())
    }

    fn service(&self, id: u32) -> Option<TableRef> {
        Some(self.services.get(&id).copied().unwrap_or(TableRef::EMPTY))
    }

    fn table(&self, table: TableRef) -> Result<Option<Vec<u32>>, Infallible> {
        Ok(Model::table(self, table))
    }

    fn backend(&self, family: Family, index: u32) -> Result<Option<SnapshotBackend>, Infallible> {
        Ok(self.backends.get(&(family, index)).copied())
    }

    fn backends(&self, family: Family, from: u32, most: u32) -> Result<Vec<(u32, BackendSlot)>, Infallible> {
        let slots = self.backends.range((family, from)..(family, from + most));
        let in_use = slots.filter_map(|((_, index), slot)| match slot {
            SnapshotBackend::InUse(slot) => Some((*index, *slot)),
            SnapshotBackend::Free { .. } => None,
        });
        Ok(in_use.collect())
    }
}

impl Node {
    /// Compares everything once, and puts right what is found after each part.
    #[track_caller]
    pub(super) fn audit(&mut self) -> Differences {
        self.compare(|node, found| {
            let written = node.model.log.len();
            let report = node.again();
            assert!(
                report.errors.is_empty() && report.failures.is_empty(),
                "{report:?}"
            );
            assert!(!found.is_empty() || node.model.log.len() == written);
        })
    }

    /// Compares everything once, and does something after each part.
    fn compare(&mut self, mut then: impl FnMut(&mut Self, &Differences)) -> Differences {
        let mut all = Differences::default();
        let mut next = Some(Part::FIRST);
        while let Some(part) = next {
            let mut found = Differences::default();
            let compared = self.ledger.compare(part, &self.model, self.model.now, &mut found);
            next = compared.expect("a model can be read");
            all.extend(&found);
            then(self, &found);
        }
        all
    }
}

/// Two services with ranges and endpoints, one of them with two frontends, and one without endpoints.
fn state() -> Wanted {
    let mut state = wanted(&[("a", &[1], &[1, 2, 3]), ("b", &[2, 3], &[4]), ("c", &[4], &[])]);
    let v6 = key("a", Protocol::Tcp, Family::V6);
    state.insert(v6.clone(), port(&v6, &[1], &[1, 2]));
    let b = state.get_mut(&tcp("b")).expect("there is one");
    for kind in b.frontends.values_mut().chain(b.addresses.values_mut()) {
        *kind = FrontendKind::LoadBalancer;
    }
    b.sources = Some(Sources {
        ranges: [net("192.0.2.0/24"), net("192.0.2.128/25")].into(),
        node: false,
    });
    state
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

fn frontend(host: u8) -> FrontendAddr {
    FrontendAddr {
        addr: addr(Family::V4, 0, host),
        port: 80,
        protocol: Protocol::Tcp,
    }
}

fn service(model: &Model, host: u8) -> u32 {
    model.frontends[&frontend(host)].0
}

/// The first backend of the service of 10.0.0.1.
fn backend(model: &mut Model) -> &mut SnapshotBackend {
    let table = model.services[&service(model, 1)];
    let index = model.maglev[table.offset() as usize];
    model.backends.get_mut(&(Family::V4, index)).expect("in use")
}

/// Somebody writes; comparing finds just that, and `operations` put it right. All that serves keeps its place.
#[track_caller]
fn found(write: impl FnOnce(&mut Model), expected: &str, operations: usize) -> Node {
    let mut node = Node::new(LIMITS);
    node.reach(&wanted(&[("old", &[9], &[9])]));
    node.reach(&state());
    let (before, ids) = (node.slots(), node.ledger.id_of.clone());
    node.model.pass(LIMITS.grace);
    node.model.strict = false;
    let written = node.model.log.len();
    write(&mut node.model);
    assert_eq!(node.audit().to_string(), expected);
    let log = &node.model.log[written..];
    assert_eq!(log.len(), operations, "{log:?}");
    node.assert_kept(&before, &state());
    assert_eq!(node.ledger.id_of, ids);
    assert_eq!(node.audit().to_string(), "", "once is enough");
    assert_eq!(node.reach(&state()), 0);
    node
}

#[test]
fn a_frontend_that_was_removed_comes_back_to_its_service() {
    let node = found(
        |model| {
            model.frontends.remove(&frontend(1));
            model.meters.remove(&frontend(1));
        },
        "1 lost in FRONTENDS4",
        1,
    );
    let last = node.model.log.last();
    assert!(matches!(last, Some(Op::PutFrontend { .. })), "{last:?}");
}

#[test]
fn a_frontend_that_leads_elsewhere_comes_back_to_its_service() {
    for to in [2, 17, u32::MAX] {
        found(
            |model| {
                let kind = model.frontends[&frontend(1)].1;
                model.frontends.insert(frontend(1), (to, kind));
            },
            "1 changed in FRONTENDS4",
            1,
        );
    }
}

#[test]
fn flags_and_meters_of_frontends_are_compared() {
    let write = |model: &mut Model| {
        model.flags.insert(frontend(2), 0);
        model.meters.insert(frontend(3), 60);
    };
    found(write, "2 changed in FRONTENDS4", 2);
}

#[test]
fn a_frontend_that_nobody_wants_is_removed() {
    let write = |model: &mut Model| {
        let place = model.frontends[&frontend(1)];
        model.frontends.insert(frontend(70), place);
        model.frontends.insert(frontend(71), (33, FrontendKind::NodePort));
    };
    found(write, "2 added in FRONTENDS4", 2);
}

#[test]
fn addresses_are_put_right() {
    let write = |model: &mut Model| {
        model.addresses.remove(&frontend(1).addr);
        model.addresses.insert(frontend(2).addr, FrontendKind::NodePort);
        model.addresses.insert(frontend(70).addr, FrontendKind::ClusterIp);
    };
    found(
        write,
        "1 lost in FRONTENDS4, 1 changed in FRONTENDS4, 1 added in FRONTENDS4",
        3,
    );
}

#[test]
fn a_service_whose_element_was_overwritten_gets_a_new_table() {
    let empty = |model: &mut Model| {
        model.services.insert(service(model, 1), TableRef::EMPTY);
    };
    found(empty, "1 lost in SERVICES", 2);
    let other = |model: &mut Model| {
        let table = model.services[&service(model, 2)];
        model.services.insert(service(model, 1), table);
    };
    found(other, "1 changed in SERVICES", 2);
    let without = |model: &mut Model| {
        model.services.insert(service(model, 4), TableRef::new(0, 256));
    };
    found(without, "1 changed in SERVICES", 1);
}

#[test]
fn a_table_that_was_overwritten_is_made_anew_elsewhere() {
    let write = |model: &mut Model| {
        let table = model.services[&service(model, 1)];
        model.maglev[table.offset() as usize + 7] = u32::MAX;
        model.maglev[table.offset() as usize + 9] = u32::MAX;
    };
    found(write, "1 changed in MAGLEV", 2);
}

#[test]
fn a_backend_that_was_overwritten_is_what_it_was_for_the_flows_that_have_it() {
    found(
        |model| *backend(model) = SnapshotBackend::Free { generation: 7 },
        "1 lost in BACKENDS4",
        1,
    );
    let changes: [fn(&mut BackendSlot); 5] = [
        |slot| slot.port = 1,
        |slot| slot.addr = addr(Family::V4, 1, 99),
        |slot| slot.generation += 1,
        |slot| slot.local = !slot.local,
        |slot| slot.kept = !slot.kept,
    ];
    for change in changes {
        let write = |model: &mut Model| {
            if let SnapshotBackend::InUse(slot) = backend(model) {
                change(slot);
            }
        };
        found(write, "1 changed in BACKENDS4", 1);
    }
}

#[test]
fn a_backend_that_keeps_flows_keeps_them() {
    let endpoint = EndpointAddr {
        addr: addr(Family::V4, 1, 3),
        port: 8080,
    };
    let mut node = Node::new(LIMITS);
    node.reach(&wanted(&[("a", &[1], &[1, 2, 3])]));
    let mut state = wanted(&[("a", &[1], &[1, 2])]);
    let a = state.get_mut(&tcp("a")).expect("there is one");
    a.kept.insert(endpoint, Endpoint { local: false });
    node.reach(&state);
    let before = node.slots();
    let (index, generation) = before[&(tcp("a"), endpoint)];
    node.model.strict = false;
    node.model
        .backends
        .insert((Family::V4, index), SnapshotBackend::Free { generation });
    assert_eq!(node.audit().to_string(), "1 lost in BACKENDS4");
    node.assert_kept(&before, &state);
    assert_eq!(node.reach(&state), 0);
}

#[test]
fn services_and_backends_of_nobody_are_taken_out() {
    let write = |model: &mut Model| {
        let slot = *backend(model);
        model.backends.insert((Family::V4, 40), slot);
        model.services.insert(50, TableRef::new(0, 256));
    };
    let node = found(write, "1 added in BACKENDS4, 1 added in SERVICES", 2);
    let freed = node.model.backends[&(Family::V4, 40)];
    assert!(
        matches!(freed, SnapshotBackend::Free { generation } if generation > 1),
        "{freed:?}"
    );
}

#[test]
fn source_ranges_are_put_right() {
    let write = |model: &mut Model| {
        let id = service(model, 2);
        let ranges = model.ranges.get_mut(&id).expect("it has some");
        // A longest match would still find the other one.
        ranges.remove(&net("192.0.2.128/25"));
        ranges.insert(net("198.51.100.0/24"));
        model.ranges.insert(51, [net("203.0.113.0/24")].into());
    };
    found(write, "1 lost in RANGES4, 2 added in RANGES4", 4);
}

/// More than are looked for at once.
const MANY: u16 = 2_100;

#[test]
fn of_many_frontends_and_addresses_the_lost_ones_are_found() {
    let frontend = |n: u16| FrontendAddr {
        addr: [10, 0, (n >> 8) as u8, n as u8].into(),
        ..frontend(0)
    };
    let limits = Limits {
        max_services: MANY.into(),
        max_frontends: 2 * u32::from(MANY),
        ..LIMITS
    };
    let all: Wanted = (0..MANY)
        .map(|n| {
            let key = tcp(&format!("s{n}"));
            let kind = FrontendKind::ClusterIp;
            let port = ServicePort {
                frontends: [(frontend(n), kind)].into(),
                addresses: [(frontend(n).addr, kind)].into(),
                ..ServicePort::default()
            };
            (key, port)
        })
        .collect();
    let mut node = Node::new(limits);
    node.reach(&all);
    node.model.strict = false;
    for n in [0, 1_023, 1_024, 2_047, 2_048, MANY - 1] {
        node.model.frontends.remove(&frontend(n));
        node.model.addresses.remove(&frontend(n + 1).addr);
    }
    assert_eq!(node.audit().to_string(), "11 lost in FRONTENDS4");
    assert_eq!(node.reach(&all), 0);
}

#[test]
fn everything_at_once_that_is_gone_comes_back() {
    let write = |model: &mut Model| {
        model.frontends.clear();
        model.meters.clear();
        model.flags.clear();
        model.addresses.clear();
        model.ranges.clear();
        model.services.clear();
        model.backends.clear();
        model.maglev.fill(0);
    };
    let mut node = Node::new(LIMITS);
    node.reach(&state());
    let before = node.slots();
    node.model.pass(LIMITS.grace);
    node.model.strict = false;
    write(&mut node.model);
    node.audit();
    node.assert_kept(&before, &state());
    assert_eq!(node.reach(&state()), 0);
}

#[test]
fn what_an_operation_that_failed_has_left_open_is_not_told_as_somebody_elses() {
    let mut node = Node::new(LIMITS);
    for after in 0..12 {
        node.reach(&wanted(&[("b", &[2], &[4])]));
        node.model.pass(LIMITS.grace);
        node.model.failure = Some(model::Failure {
            after,
            happens: after % 2 == 0,
        });
        node.ledger.reset(state());
        let now = node.model.now;
        let report = sync(&mut node.ledger, &mut node.model, || now);
        assert_eq!(report.failures.len(), 1, "after {after}");
        node.model.failure = None;
        assert_eq!(node.compare(|_, _| ()).to_string(), "", "after {after}");
        node.reach(&state());
    }
}
