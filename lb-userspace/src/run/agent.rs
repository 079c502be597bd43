//! The main loop.

use std::time::Instant;

use tokio::time::{sleep, sleep_until};
use tracing::{error, info, warn};

use super::{
    RETRY, RunError,
    audit::Audit,
    caution::{Adopted, Caution},
    node::Node,
    service_cidrs::ServiceCidrs,
    stop::Stop,
};
use crate::{
    apply::{ApplyError, KernelMaps},
    cli::config::Config,
    desired::{Desired, NodeFacts, Options},
    diff::{Ledger, Limits, Report, sync},
    health::{NodeState, Serving},
    index::{Index, ServiceName},
    load::Sizes,
    plan::Snapshot,
    sockets::Sockets,
    telemetry::{Phases, SyncReport, Telemetry},
    watch::{Kind, Source},
};

/// Events that are taken in before what they change is applied. A source that never stops to talk must not keep all of it
/// from the kernel.
const MOST_EVENTS: usize = 10_000;

impl Limits {
    fn of(sizes: &Sizes) -> Self {
        Self {
            max_services: sizes.services,
            max_backends: sizes.backends,
            max_frontends: sizes.frontends,
            maglev_slots: sizes.maglev_slots,
            max_meters: sizes.meters,
            ..Self::default()
        }
    }
}

/// What the main loop works with.
pub(super) struct Agent {
    source: Source,
    index: Index,
    desired: Desired,
    ledger: Ledger,
    maps: KernelMaps,
    sockets: Sockets,
    telemetry: Telemetry,
    caution: Caution,
    audit: Audit,
    /// Whether the kernel counts service ports.
    service_stats: bool,
    service_cidrs: ServiceCidrs,
    /// The API server has no Node of our name.
    node_missing: bool,
    /// How long the steps of the sync that is under way took.
    phases: Phases,
    /// When to try again what failed.
    retry: Option<Instant>,
    /// Nothing was worked out yet.
    starting: bool,
}

impl Agent {
    /// An agent that goes on from what is in the kernel.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub(super) fn new(
        config: &Config,
        source: Source,
        node: &Node,
        snapshot: &Snapshot,
        maps: KernelMaps,
        sockets: Sockets,
        telemetry: Telemetry,
    ) -> Result<Self, ApplyError> {
        let options = Options {
            external_ips: config.external_ips,
        };
        let service_cidrs = ServiceCidrs::new(config, matches!(source, Source::Kubernetes(_)));
        let ledger = Ledger::adopt(Limits::of(&config.sizes), snapshot, |table| maps.table(table))?;
        Ok(Self {
            index: match source {
                Source::Manifests(_) => Index::new(),
                Source::Kubernetes(_) => Index::doubting(),
            },
            source,
            desired: Desired::new(options, node.facts()),
            ledger,
            maps,
            sockets,
            telemetry,
            caution: Caution::new(Adopted::of(snapshot)),
            audit: Audit::new(config.audit_period, Instant::now()),
            service_stats: config.service_stats,
            service_cidrs,
            node_missing: false,
            phases: Phases::default(),
            retry: None,
            starting: true,
        })
    }

    /// Follows the source and devices until a signal comes, and returns its name. A turn of the loop deals with one
    /// event, the change that it makes, and one device.
    pub(super) async fn follow(
        &mut self,
        config: &Config,
        node: &mut Node,
        stop: &mut Stop,
        begin: Instant,
    ) -> Result<&'static str, RunError> {
        let mut ready = false;
        loop {
            let wakeup = [
                self.retry,
                self.ledger.next_wakeup(),
                self.caution.next_relist(),
                self.next_audit(),
                Some(node.next_work()),
            ];
            let wakeup = wakeup.into_iter().flatten().min();
            tokio::select! {
                // Changes of endpoints go before new devices: connections fail meanwhile.
                biased;
                signal = stop.wait() => return Ok(signal),
                event = self.source.next() => {
                    let begin = Instant::now();
                    self.index.handle(event.ok_or(RunError::SourceEnded)?);
                    self.phases.index += begin.elapsed();
                    // Further changes of the same sweep are applied together with this one.
                    tokio::select! {
                        signal = stop.wait() => return Ok(signal),
                        () = sleep(config.min_sync_period) => {}
                    }
                    let begin = Instant::now();
                    for _ in 0..MOST_EVENTS {
                        let Some(event) = self.source.try_next() else { break };
                        self.index.handle(event);
                    }
                    self.phases.index += begin.elapsed();
                    self.telemetry.queued(self.index.take_changes());
                }
                changed = node.changed() => changed?,
                () = sleep_until(wakeup.unwrap_or_else(Instant::now).into()) => {}
            }
            node.listen()?;
            self.telemetry.turn();
            self.caution.relist(&mut self.index, &self.source, Instant::now());
            self.set_node(config, node);
            self.update();
            if node.work(config).await {
                if let Err(failure) = self.maps.set_sources(&node.sources()) {
                    error!("{failure}; packets to other nodes may be dropped");
                }
                self.sockets.follow_pods(node.pod_namespaces());
                if let Err(failure) = self.maps.set_uplinks(&node.uplinks()) {
                    error!("{failure}; XDP may leave packets to tc");
                }
                self.set_node(config, node);
                self.update();
                self.tell_health_checks();
            }
            self.audit();
            if !ready && self.caution.has_listed() && node.is_started() {
                ready = true;
                self.tell_ready(config, node, begin);
            }
        }
    }

    /// Takes in what is known of the node: its addresses by its devices, its zone by its Node object.
    fn set_node(&mut self, config: &Config, node: &Node) {
        let object = self.index.node(&config.node_name);
        let is_known =
            matches!(self.source, Source::Kubernetes(_)) && self.index.times_listed(Kind::Node) > 0;
        if is_known {
            self.telemetry.node(NodeState::of(object));
        }
        let is_missing = object.is_none() && is_known;
        if is_missing && !self.node_missing {
            warn!(
                node = config.node_name,
                "the API server has no Node of that name: no endpoint is local, and hints for zones are not followed; name \
                 the node with --hostname-override or NODE_NAME"
            );
        }
        let zone = object.and_then(|node| node.zone.clone());
        self.node_missing = is_missing;
        self.desired.set_node(NodeFacts { zone, ..node.facts() });
    }

    fn tell_health_checks(&self) {
        let (checks, addresses) = (self.desired.health_checks(), self.desired.node_port_addresses());
        self.telemetry.health_checks(checks, addresses);
    }

    fn tell_ready(&self, config: &Config, node: &Node, begin: Instant) {
        let usage = self.ledger.usage();
        info!(
            node = config.node_name,
            services = usage.services,
            frontends = usage.frontends,
            backends = usage.backends,
            maglev_bytes = usage.table_slots * 4,
            devices = node.attached(),
            ms = begin.elapsed().as_millis() as u64,
            "fairlead is ready"
        );
    }

    /// Works out what is desired now and brings the kernel to it.
    fn update(&mut self) {
        let begin = Instant::now();
        self.caution.doubt(&self.index.take_doubts(), begin);
        if !self.caution.may_apply(&self.index, &self.source, begin) {
            return;
        }
        self.telemetry.serving(Serving::Current);
        let mut told = SyncReport::default();
        if let Some(update) = self.desired.update(&mut self.index) {
            for notice in &update.notices {
                self.telemetry
                    .notice(notice, self.uid(notice.service()), self.starting);
            }
            self.starting = false;
            if update.health_checks {
                self.tell_health_checks();
            }
            told.full = update.full;
            told.families = update.changes.iter().map(|change| change.key().family).collect();
            self.ledger.apply(update.changes);
        }
        self.phases.desired = begin.elapsed();
        let report = sync(&mut self.ledger, &mut self.maps, Instant::now);
        if report.freed > 0 {
            self.sockets.endpoints_left();
        }
        for limit in &report.errors {
            error!("{limit}");
            self.telemetry.limit(limit, self.uid(&limit.service().service));
        }
        for (op, failure) in &report.failures {
            error!(?op, "{failure}; trying again");
        }
        told.failed = report.failures.iter().map(|(op, _)| op.family()).collect();
        self.tell_sync(told, &report);
        if self.service_stats
            && let Some((meters, left_out)) = self.ledger.take_meters()
        {
            self.telemetry.meters(&meters, left_out);
        }
        self.retry = (!report.failures.is_empty()).then(|| Instant::now() + RETRY);
        if report.failures.is_empty() {
            self.service_cidrs.tell(&self.index, &mut self.maps);
        }
        if report.applied > 0 {
            let usage = self.ledger.usage();
            info!(
                operations = report.applied,
                services = usage.services,
                backends = usage.backends,
                us = begin.elapsed().as_micros() as u64,
                "synced"
            );
        }
    }

    /// When to compare the maps next: never while operations are to be tried again, or nothing was worked out yet.
    fn next_audit(&self) -> Option<Instant> {
        let may = !self.starting && self.retry.is_none();
        self.audit.next_work().filter(|_| may)
    }

    /// Compares a part of the maps with what was put there, and puts it right.
    fn audit(&mut self) {
        if self.next_audit().is_none() {
            return;
        }
        let (ledger, maps, cidrs) = (&mut self.ledger, &mut self.maps, self.service_cidrs.told());
        let differs = self.audit.work(ledger, maps, cidrs, &self.telemetry);
        if differs {
            self.update();
        }
    }

    /// Reports a sync.
    fn tell_sync(&mut self, told: SyncReport, report: &Report<ApplyError>) {
        self.telemetry.sync_end(&SyncReport {
            phases: Phases {
                diff: report.comparing,
                apply: report.applying,
                ..std::mem::take(&mut self.phases)
            },
            operations: report.applied,
            failures: report.failures.len(),
            usage: self.ledger.usage(),
            no_local: self.desired.tally(),
            ..told
        });
    }

    /// The uid of a Service, if it is known.
    fn uid(&self, service: &ServiceName) -> &str {
        self.index.service(service).map_or("", |service| &service.uid)
    }
}
