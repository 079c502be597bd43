//! Metrics with kube-proxy's names, labels and buckets (`pkg/proxy/metrics/metrics.go` of Kubernetes).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use k8s_openapi::jiff::Timestamp;
use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets, linear_buckets},
    },
    registry::Registry,
};

use super::{Histograms, Label, Labels, family_label, family_name, own::set};
use crate::{plan, telemetry::SyncReport};

/// Seconds since 1970.
type Timestamps = Family<Label, Gauge<f64, AtomicU64>>;

/// kube-proxy's metrics.
#[derive(Debug)]
pub struct KubeProxy {
    /// How long it took to bring a family to what is desired (s).
    sync: Histograms,
    /// The same, where everything was worked out anew.
    sync_full: Histograms,
    /// The same, where only what was touched was.
    sync_partial: Histograms,
    /// When a family was brought to what is desired last.
    last_sync: Timestamps,
    /// When there was something to do last.
    last_queued: Timestamps,
    /// Whether something has come since the last sync, by family.
    behind: [AtomicBool; 2],
    /// From the change of a pod or Service to the kernel's maps (s).
    programming: Histograms,
    /// Changes of EndpointSlices.
    endpoint_changes: Counter,
    /// Those that the kernel does not know of yet.
    endpoint_changes_pending: Gauge,
    /// Changes of Services.
    service_changes: Counter,
    /// Those that the kernel does not know of yet.
    service_changes_pending: Gauge,
    /// Service ports of a policy Local without local endpoints, by family and policy.
    no_local_endpoints: Family<Labels, Gauge>,
    /// Answers of /healthz, by status.
    healthz: Family<Label, Counter>,
    /// Answers of /livez, by status.
    livez: Family<Label, Counter>,
}

fn sync_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

fn programming_histogram() -> Histogram {
    let buckets = linear_buckets(0.25, 0.25, 2)
        .chain(linear_buckets(1.0, 1.0, 59))
        .chain(linear_buckets(60.0, 5.0, 12))
        .chain(linear_buckets(120.0, 30.0, 7));
    Histogram::new(buckets)
}

impl KubeProxy {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let this = Self {
            sync: Family::new_with_constructor(sync_histogram),
            sync_full: Family::new_with_constructor(sync_histogram),
            sync_partial: Family::new_with_constructor(sync_histogram),
            last_sync: Family::default(),
            last_queued: Family::default(),
            behind: Default::default(),
            programming: Family::new_with_constructor(programming_histogram),
            endpoint_changes: Counter::default(),
            endpoint_changes_pending: Gauge::default(),
            service_changes: Counter::default(),
            service_changes_pending: Gauge::default(),
            no_local_endpoints: Family::default(),
            healthz: Family::default(),
            livez: Family::default(),
        };
        let registry = registry.sub_registry_with_prefix("kubeproxy");
        this.register_syncs(registry);
        this.register_changes(registry);
        this
    }

    fn register_syncs(&self, registry: &mut Registry) {
        registry.register(
            "sync_proxy_rules_duration_seconds",
            "How long it took to bring the kernel to what is desired",
            self.sync.clone(),
        );
        registry.register(
            "sync_full_proxy_rules_duration_seconds",
            "The same, where everything was worked out anew",
            self.sync_full.clone(),
        );
        registry.register(
            "sync_partial_proxy_rules_duration_seconds",
            "The same, where only what was touched was",
            self.sync_partial.clone(),
        );
        registry.register(
            "sync_proxy_rules_last_timestamp_seconds",
            "When the kernel was brought to what is desired last",
            self.last_sync.clone(),
        );
        registry.register(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "When there was something to do last",
            self.last_queued.clone(),
        );
        registry.register(
            "network_programming_duration_seconds",
            "From the change of a pod or Service to the kernel's maps",
            self.programming.clone(),
        );
    }

    fn register_changes(&self, registry: &mut Registry) {
        registry.register(
            "sync_proxy_rules_endpoint_changes",
            "Changes of EndpointSlices",
            self.endpoint_changes.clone(),
        );
        registry.register(
            "sync_proxy_rules_endpoint_changes_pending",
            "Changes of EndpointSlices that the kernel does not know of yet",
            self.endpoint_changes_pending.clone(),
        );
        registry.register(
            "sync_proxy_rules_service_changes",
            "Changes of Services",
            self.service_changes.clone(),
        );
        registry.register(
            "sync_proxy_rules_service_changes_pending",
            "Changes of Services that the kernel does not know of yet",
            self.service_changes_pending.clone(),
        );
        registry.register(
            "sync_proxy_rules_no_local_endpoints_total",
            "Service ports of a policy Local all of whose endpoints are on other nodes",
            self.no_local_endpoints.clone(),
        );
        registry.register(
            "proxy_healthz",
            "Answers of /healthz by status",
            self.healthz.clone(),
        );
        registry.register("proxy_livez", "Answers of /livez by status", self.livez.clone());
    }
}

impl KubeProxy {
    /// Changes have come.
    pub(crate) fn queued(&self, services: u64, slices: u64, now: Timestamp) {
        self.service_changes.inc_by(services);
        self.endpoint_changes.inc_by(slices);
        if services + slices > 0 {
            for family in plan::Family::ALL {
                self.last_queued
                    .get_or_create(&family_label(family))
                    .set(seconds(now));
                self.behind[family as usize].store(true, Ordering::Relaxed);
            }
        }
    }

    /// So many changes wait.
    pub(crate) fn set_pending(&self, services: u64, slices: u64) {
        set(&self.service_changes_pending, services);
        set(&self.endpoint_changes_pending, slices);
    }

    /// What has come is in the kernel for this family, if that is only to know that nothing of it matters there.
    pub(crate) fn caught_up(&self, family: plan::Family, changed: bool, now: Timestamp) {
        if self.behind[family as usize].swap(false, Ordering::Relaxed) || changed {
            self.last_sync
                .get_or_create(&family_label(family))
                .set(seconds(now));
        }
    }

    /// The kernel was brought to what is desired, which these changes had asked for.
    pub(crate) fn synced(&self, report: &SyncReport, triggers: &[(plan::Family, Timestamp)], now: Timestamp) {
        let took = (report.phases.desired + report.phases.diff + report.phases.apply).as_secs_f64();
        for family in &report.families {
            let label = family_label(*family);
            self.sync.get_or_create(&label).observe(took);
            let kind = if report.full {
                &self.sync_full
            } else {
                &self.sync_partial
            };
            kind.get_or_create(&label).observe(took);
        }
        for (family, trigger) in triggers {
            // A clock that is behind is no reason for a negative time.
            let took = now.duration_since(*trigger).as_secs_f64().max(0.0);
            let histogram = self.programming.get_or_create(&family_label(*family));
            histogram.observe(took);
        }
        for (family, counted) in plan::Family::ALL.into_iter().zip(report.no_local.by_family) {
            for (policy, ports) in [("internal", counted.internal), ("external", counted.external)] {
                let labels = [("ip_family", family_name(family)), ("traffic_policy", policy)];
                set(&self.no_local_endpoints.get_or_create(&labels), ports);
            }
        }
    }

    /// A probe was answered with that status.
    pub(crate) fn answered(&self, probe: Probe, status: u16) {
        let code = if status == 200 { "200" } else { "503" };
        let answers = match probe {
            Probe::Healthz => &self.healthz,
            Probe::Livez => &self.livez,
        };
        answers.get_or_create(&[("code", code)]).inc();
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `/healthz`.
    Healthz,
    /// `/livez`.
    Livez,
}

fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1e3
}
