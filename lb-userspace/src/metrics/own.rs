//! Fairlead's own metrics.

use std::sync::atomic::Ordering;

use lb_common::{
    abi::{Traffic, map},
    flow::State,
    verdict::{Action, Reason},
};
use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::{Gauges, Histograms, Label, Labels, family_label, family_name};
use crate::{
    events::Outcome,
    flows::Found,
    health::{Reach, Serving},
    load::Sizes,
    plan::{self, Differences},
    telemetry::SyncReport,
};

/// Fairlead's metrics.
#[derive(Debug)]
pub struct Own {
    /// Packets and calls by reason and what is done with them.
    packets: Family<Labels, Counter>,
    /// Bytes of these packets.
    bytes: Family<Labels, Counter>,
    /// Flows by family and state.
    flows: Family<Labels, Gauge>,
    flow_entries: Gauges,
    flow_capacity: Gauges,
    flows_removed: Family<Label, Counter>,
    snat_ports: Gauge,
    snat_flows: Gauges,
    snat_fullest: Gauges,
    map_entries: Gauges,
    map_capacity: Gauges,
    /// How long a phase of a sync took (s).
    phases: Histograms,
    /// Operations on maps: done, failed.
    operations: Family<Label, Counter>,
    /// Entries of maps that somebody else had changed.
    repairs: Family<Label, Counter>,
    /// Service ports, frontends and backends in the kernel.
    programmed: Gauges,
    /// One for the state that the API server is in, zero for the others.
    api: Gauges,
    /// The same of what is served.
    serving: Gauges,
    /// Health check ports: open, refused.
    check_ports: Gauges,
    /// Events by what became of them.
    events: Family<Label, Counter>,
}

/// Maps that are compared with what the agent has written.
const REPAIRED: [&str; 13] = [
    map::FRONTENDS4,
    map::FRONTENDS6,
    map::SERVICES,
    map::MAGLEV,
    map::BACKENDS4,
    map::BACKENDS6,
    map::RANGES4,
    map::RANGES6,
    map::ENDPOINTS4,
    map::ENDPOINTS6,
    map::KNOWN,
    map::CIDRS4,
    map::CIDRS6,
];

fn phase_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_01, 4.0, 11))
}

impl Own {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let this = Self {
            packets: Family::default(),
            bytes: Family::default(),
            flows: Family::default(),
            flow_entries: Family::default(),
            flow_capacity: Family::default(),
            flows_removed: Family::default(),
            snat_ports: Gauge::default(),
            snat_flows: Family::default(),
            snat_fullest: Family::default(),
            map_entries: Family::default(),
            map_capacity: Family::default(),
            phases: Family::new_with_constructor(phase_histogram),
            operations: Family::default(),
            repairs: Family::default(),
            programmed: Family::default(),
            api: Family::default(),
            serving: Family::default(),
            check_ports: Family::default(),
            events: Family::default(),
        };
        let registry = registry.sub_registry_with_prefix("fairlead");
        this.register_kernel(registry);
        this.register_agent(registry);
        for outcome in Outcome::ALL {
            this.events.get_or_create(&[("result", outcome.name())]).inc_by(0);
        }
        for map in REPAIRED {
            this.repairs.get_or_create(&[("map", map)]).inc_by(0);
        }
        this
    }

    fn register_kernel(&self, registry: &mut Registry) {
        registry.register(
            "packets",
            "Packets, and calls of processes, by what was decided and why",
            self.packets.clone(),
        );
        registry.register(
            "bytes",
            "Bytes of these packets, their Ethernet headers included",
            self.bytes.clone(),
        );
        registry.register(
            "flows",
            "Flows that are remembered, by state, a few seconds ago",
            self.flows.clone(),
        );
        registry.register(
            "flow_table_entries",
            "Entries of the flow table, two a flow",
            self.flow_entries.clone(),
        );
        registry.register(
            "flow_table_capacity",
            "Entries that the flow table has room for",
            self.flow_capacity.clone(),
        );
        registry.register(
            "flows_removed",
            "Flows that were over and were removed",
            self.flows_removed.clone(),
        );
        registry.register(
            "snat_ports",
            "Source ports of the node towards each endpoint",
            self.snat_ports.clone(),
        );
        registry.register(
            "snat_flows",
            "Flows that have one of these source ports",
            self.snat_flows.clone(),
        );
        registry.register(
            "snat_flows_fullest",
            "Those of them to the endpoint that most go to",
            self.snat_fullest.clone(),
        );
        registry.register("map_entries", "Entries of a map", self.map_entries.clone());
        registry.register(
            "map_capacity",
            "Entries that a map has room for",
            self.map_capacity.clone(),
        );
    }

    fn register_agent(&self, registry: &mut Registry) {
        registry.register(
            "sync_phase_duration_seconds",
            "How long a phase of bringing changes to the kernel took",
            self.phases.clone(),
        );
        registry.register(
            "map_operations",
            "Operations on the kernel's maps",
            self.operations.clone(),
        );
        registry.register(
            "map_repairs",
            "Entries of a map that somebody else had changed and that were put right",
            self.repairs.clone(),
        );
        registry.register("programmed", "What is in the kernel", self.programmed.clone());
        registry.register(
            "api_state",
            "1 for the state that the connection to the API server is in",
            self.api.clone(),
        );
        registry.register(
            "serving",
            "1 for what the kernel forwards by",
            self.serving.clone(),
        );
        registry.register(
            "health_check_ports",
            "Addresses and ports of the Services' health checks",
            self.check_ports.clone(),
        );
        registry.register(
            "events",
            "Kubernetes Events about Services, by what became of them",
            self.events.clone(),
        );
        let build: Gauges = Family::default();
        build
            .get_or_create(&[("version", env!("CARGO_PKG_VERSION"))])
            .set(1);
        registry.register("build_info", "1, with the version of the agent", build);
    }

    /// What the kernel has counted, over all CPUs. Reasons that are left out were never met, and calls have no bytes.
    pub fn set_packets(&self, counted: &[(Reason, Traffic)]) {
        for (reason, Traffic { packets, bytes }) in counted {
            let labels = [
                ("reason", reason.name()),
                ("action", action_name(reason.action())),
            ];
            for (family, value) in [(&self.packets, *packets), (&self.bytes, *bytes)] {
                if value > 0 {
                    let counter = family.get_or_create(&labels);
                    counter.inner().store(value, Ordering::Relaxed);
                }
            }
        }
    }

    /// What a walk through the flow tables has found, that of IPv4 first.
    pub fn set_flows(&self, found: &[Found; 2]) {
        for (family, found) in plan::Family::ALL.into_iter().zip(found) {
            for state in State::ALL {
                let flows = found.states.iter().find(|(counted, _)| *counted == state);
                let labels = [("ip_family", family_name(family)), ("state", state.name())];
                set(
                    &self.flows.get_or_create(&labels),
                    flows.map_or(0, |(_, flows)| *flows),
                );
            }
            let label = family_label(family);
            set(&self.flow_entries.get_or_create(&label), found.entries);
            set(&self.flow_capacity.get_or_create(&label), found.capacity);
            set(&self.snat_flows.get_or_create(&label), found.with_ports);
            let fullest = found.fullest.as_ref().map_or(0, |fullest| fullest.flows);
            set(&self.snat_fullest.get_or_create(&label), fullest);
            self.flows_removed.get_or_create(&label).inc_by(found.removed);
        }
    }

    /// How many source ports the node has towards each endpoint.
    pub fn set_snat_ports(&self, ports: u16) {
        self.snat_ports.set(ports.into());
    }

    /// How much the maps have room for whose entries the agent itself counts.
    pub(crate) fn set_capacities(&self, sizes: &Sizes) {
        for (name, capacity) in [
            (map::SERVICES, sizes.services),
            (map::MAGLEV, sizes.maglev_slots),
            (map::BACKENDS4, sizes.backends),
            (map::BACKENDS6, sizes.backends),
        ] {
            self.set_map(name, 0, capacity.into());
        }
    }

    /// The kernel was brought to what is desired.
    pub(crate) fn synced(&self, report: &SyncReport) {
        for (phase, took) in [
            ("index", report.phases.index),
            ("desired", report.phases.desired),
            ("diff", report.phases.diff),
            ("apply", report.phases.apply),
        ] {
            let histogram = self.phases.get_or_create(&[("phase", phase)]);
            histogram.observe(took.as_secs_f64());
        }
        for (result, operations) in [("done", report.operations), ("failed", report.failures)] {
            let counter = self.operations.get_or_create(&[("result", result)]);
            counter.inc_by(operations as u64);
        }
        let usage = &report.usage;
        for (kind, number) in [
            ("services", usage.services),
            ("frontends", usage.frontends),
            ("backends", usage.backends),
        ] {
            set(&self.programmed.get_or_create(&[("kind", kind)]), number as u64);
        }
        let [backends4, backends6] = usage.backends_by_family;
        for (name, entries) in [
            (map::SERVICES, usage.services as u64),
            (map::MAGLEV, usage.table_slots),
            (map::BACKENDS4, backends4 as u64),
            (map::BACKENDS6, backends6 as u64),
        ] {
            set(&self.map_entries.get_or_create(&[("map", name)]), entries);
        }
    }

    /// Entries of maps were not as the agent had written them.
    pub(crate) fn repaired(&self, found: &Differences) {
        for (map, entries) in found.by_map() {
            self.repairs.get_or_create(&[("map", map)]).inc_by(entries);
        }
    }

    /// Whether the API server is reached.
    pub(crate) fn set_api(&self, reach: Reach) {
        let now = match reach {
            Reach::Connecting => "connecting",
            Reach::Reached => "reached",
            Reach::Away => "away",
        };
        set_state(&self.api, &["connecting", "reached", "away"], now);
    }

    /// What the kernel forwards by.
    pub(crate) fn set_serving(&self, serving: Serving) {
        let now = match serving {
            Serving::Nothing => "nothing",
            Serving::Pinned => "pinned",
            Serving::Current => "current",
        };
        set_state(&self.serving, &["nothing", "pinned", "current"], now);
    }

    /// Health check ports that are open, and those that could not be opened.
    pub(crate) fn set_check_ports(&self, open: usize, refused: usize) {
        for (state, ports) in [("open", open), ("refused", refused)] {
            set(&self.check_ports.get_or_create(&[("state", state)]), ports as u64);
        }
    }

    /// Something became of an Event.
    pub(crate) fn count_event(&self, outcome: Outcome) {
        self.events.get_or_create(&[("result", outcome.name())]).inc();
    }

    /// How full a map is.
    pub fn set_map(&self, name: &'static str, entries: u64, capacity: u64) {
        set(&self.map_entries.get_or_create(&[("map", name)]), entries);
        set(&self.map_capacity.get_or_create(&[("map", name)]), capacity);
    }
}

/// Sets a gauge; beyond what it can hold is as good as its largest value.
pub(crate) fn set(gauge: &Gauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

/// A label for metrics.
const fn action_name(action: Action) -> &'static str {
    match action {
        Action::Pass => "pass",
        Action::Forward => "forward",
        Action::Reject => "reject",
        Action::Drop => "drop",
    }
}

/// Sets the gauge of `now` to one and those of the others to zero.
fn set_state(gauges: &Gauges, states: &[&'static str], now: &str) {
    for state in states {
        gauges
            .get_or_create(&[("state", *state)])
            .set(i64::from(*state == now));
    }
}
