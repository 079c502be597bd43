//! Ten thousand services of three endpoints, from the text of manifests to the kernel.

use std::{fmt::Write, time::Instant};

use super::*;
use crate::{
    desired::{Desired, NodeFacts, Options},
    index::Index,
    plan::{Dataplane, Op},
    watch::{Kind, parse::parse},
};

const SERVICES: u32 = 10_000;

/// A kernel that only counts.
#[derive(Default)]
struct Count {
    ops: usize,
    slots: usize,
}

impl Dataplane for Count {
    type Error = Infallible;

    fn apply(&mut self, op: &Op) -> Result<(), Self::Error> {
        self.ops += 1;
        if let Op::WriteTable { slots, .. } = op {
            self.slots += slots.len();
        }
        Ok(())
    }
}

fn manifests(services: u32) -> String {
    let mut text = String::new();
    for i in 0..services {
        let (high, low) = (i / 250, i % 250 + 1);
        write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s{i}}}\nspec:\n  clusterIP: 10.96.{high}.{low}\n  ports: \
             [{{port: 80}}]\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{i}-1, labels: \
             {{kubernetes.io/service-name: s{i}}}}}\naddressType: IPv4\nendpoints: [{{addresses: [10.1.{high}.{low}]}}, \
             {{addresses: [10.2.{high}.{low}]}}, {{addresses: [10.3.{high}.{low}]}}]\nports: [{{port: 8080}}]\n---\n"
        )
        .unwrap();
    }
    text
}

#[test]
fn ten_thousand_services_of_three_endpoints_fit_into_16_mib_of_tables() {
    let text = manifests(SERVICES);
    let begin = Instant::now();
    let parsed = parse(&text);
    assert_eq!(parsed.problems, []);
    println!("parse {} KiB: {:?}", text.len() / 1024, begin.elapsed());

    let begin = Instant::now();
    let mut index = Index::new();
    for kind in Kind::ALL {
        index.reset(
            kind,
            parsed
                .objects
                .iter()
                .map(|located| located.object.clone())
                .collect(),
        );
    }
    let mut desired = Desired::new(Options::default(), NodeFacts::default());
    let update = desired.update(&mut index).unwrap();
    assert_eq!(
        (update.changes.len(), update.notices.len()),
        (SERVICES as usize, 0)
    );
    println!("index and desired: {:?}", begin.elapsed());

    let begin = Instant::now();
    let mut ledger = Ledger::new(Limits::default());
    ledger.apply(update.changes);
    let mut kernel = Count::default();
    let report = sync(&mut ledger, &mut kernel, Instant::now);
    assert_eq!(report.errors, []);
    let usage = ledger.usage();
    println!(
        "plan and confirm {} operations: {:?}",
        kernel.ops,
        begin.elapsed()
    );
    println!(
        "tables: {} slots, {:.1} MiB",
        usage.table_slots,
        usage.table_slots as f64 * 4.0 / 1048576.0
    );
    assert_eq!(usage.services, SERVICES as usize);
    assert_eq!(usage.table_slots, kernel.slots as u64);
    assert!(usage.table_slots < 4 * 1024 * 1024, "{} slots", usage.table_slots);
    assert!(ledger.is_settled());

    let begin = Instant::now();
    let text = manifests(SERVICES).replace("10.2.20.7]", "10.9.20.7]");
    let object = parse(&text)
        .objects
        .into_iter()
        .find(|located| !parsed.objects.contains(located));
    println!("parse again and find the change: {:?}", begin.elapsed());
    let (begin, work) = (Instant::now(), index.work());
    index.apply(object.expect("one object has changed").object);
    ledger.apply(desired.update(&mut index).unwrap().changes);
    let report = sync(&mut ledger, &mut kernel, Instant::now);
    println!(
        "one endpoint of one service: {} operations, {:?}",
        report.applied,
        begin.elapsed()
    );
    assert_eq!((report.applied, index.work() - work), (4, 1));
}

/// What one changed endpoint of one Service costs among so many: steps of index, desired and ledger, and operations.
fn steps(services: u32) -> [u64; 4] {
    let text = manifests(services);
    let mut index = Index::new();
    let parsed = parse(&text).objects;
    for kind in Kind::ALL {
        let of_kind = parsed.iter().filter(|located| located.object.kind() == kind);
        index.reset(kind, of_kind.map(|located| located.object.clone()).collect());
    }
    let mut desired = Desired::new(Options::default(), NodeFacts::default());
    let mut ledger = Ledger::new(Limits::default());
    let mut kernel = Count::default();
    ledger.apply(desired.update(&mut index).unwrap().changes);
    sync(&mut ledger, &mut kernel, Instant::now);
    let before = [index.work(), desired.work(), ledger.work(), kernel.ops as u64];
    assert!(before.iter().all(|work| *work >= services.into()), "{before:?}");

    let changed = parse(&text.replace("10.2.0.7]", "10.9.0.7]")).objects;
    let mut changed = changed.into_iter().filter(|located| !parsed.contains(located));
    index.apply(changed.next().expect("one object has changed").object);
    ledger.apply(desired.update(&mut index).unwrap().changes);
    sync(&mut ledger, &mut kernel, Instant::now);
    let after = [index.work(), desired.work(), ledger.work(), kernel.ops as u64];
    std::array::from_fn(|step| after[step] - before[step])
}

#[test]
fn one_changed_endpoint_costs_the_same_among_ten_services_and_among_a_thousand() {
    let few = steps(10);
    assert_eq!(few, steps(1_000));
    assert!(few.iter().all(|work| (1..=40).contains(work)), "{few:?}");
}
