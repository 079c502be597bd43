//! `fairlead run`: the main loop.
//!
//! ```text
//!   manifests ─Event─► index ─► desired ─► ledger ─ordered operations─► maps
//!   netlink ─► devices: attach, forget    addresses: desired
//! ```
//!
//! Start is in an order in which every step can fail without harm to a dataplane that runs: look (manifests,
//! privileges, kernel), lock, load, read back what is there, bring it to what the manifests say, and only then swap
//! the programs inside their links.

mod node;

use std::time::Instant;

use lb_common::datapath::Role;
use thiserror::Error;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{sleep, sleep_until},
};
use tracing::{error, info};

use self::node::Node;
use crate::{
    apply::{ApplyError, KernelMaps},
    attach::AttachError,
    bpf_log,
    cgroup::{self, CgroupError},
    cli::config::Config,
    desired::{Desired, Options},
    devices::DeviceError,
    diff::{Ledger, Limits, sync},
    index::Index,
    load::{self, LoadError, Sizes},
    object::{self, NoObject},
    pins::{PinError, PinFolder},
    probe::{self, ProbeError},
    watch::{Manifests, ManifestsError},
};

/// Why the agent could not start or go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// The folder of manifests.
    #[error(transparent)]
    Manifests(#[from] ManifestsError),
    /// Privileges or kernel.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The binary has no kernel programs.
    #[error(transparent)]
    Object(#[from] NoObject),
    /// The pin folder.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// The kernel programs.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The maps.
    #[error(transparent)]
    Maps(#[from] ApplyError),
    /// Devices cannot be found.
    #[error(transparent)]
    Devices(#[from] DeviceError),
    /// The folder of the cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The programs cannot be attached to the cgroup.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Signals cannot be caught.
    #[error("catch signals: {0}")]
    Signals(#[source] std::io::Error),
    /// The folder of manifests can no longer be followed.
    #[error("the folder of manifests can no longer be followed; what was programmed stays in force")]
    SourceEnded,
}

impl Limits {
    fn of(sizes: &Sizes) -> Self {
        Self {
            max_services: sizes.services,
            max_backends: sizes.backends,
            max_frontends: sizes.frontends,
            maglev_slots: sizes.maglev_slots,
            ..Self::default()
        }
    }
}

/// Runs the agent until SIGINT or SIGTERM. Forwarding goes on afterwards.
///
/// # Errors
///
/// [`RunError`]; what runs in the kernel is as it was, or as it was last brought to.
pub async fn run(config: &Config) -> Result<(), RunError> {
    let begin = Instant::now();
    let mut stop = Stop::new()?;
    let source = Manifests::start(&config.manifests)?;
    let features = probe::check()?;
    cgroup::check(&config.cgroup)?;
    let object = object::bytes()?;
    let pins = PinFolder::open(&config.bpffs)?;
    let mut bpf = load::load(object, &pins, &config.sizes, &features, config.bpf_log)?;
    let _log = bpf_log::forward(&mut bpf, config.bpf_log);
    let maps = KernelMaps::new(&mut bpf)?;
    let snapshot = maps.snapshot()?;
    if !snapshot.frontends.is_empty() {
        info!(
            frontends = snapshot.frontends.len(),
            "going on from what is pinned"
        );
    }

    let mut node = Node::start(config, bpf, &pins, features.tcx && !config.no_tcx).await?;
    let mut agent = Agent {
        source,
        index: Index::new(),
        desired: Desired::new(Options::default(), node.facts()),
        ledger: Ledger::adopt(Limits::of(&config.sizes), &snapshot),
        maps,
        retry: None,
    };
    agent.first_listing().await?;
    node.attach_all(config, &pins).await?;
    let usage = agent.ledger.usage();
    info!(
        node = config.node_name,
        services = usage.services,
        frontends = usage.frontends,
        backends = usage.backends,
        maglev_bytes = usage.table_slots * 4,
        devices = node.attached().count(),
        ms = begin.elapsed().as_millis() as u64,
        "fairlead is ready"
    );
    agent.follow(config, &mut node, &mut stop).await?;
    info!("stopped; forwarding goes on, `fairlead cleanup` ends it");
    Ok(())
}

/// What the main loop works with.
struct Agent {
    source: Manifests,
    index: Index,
    desired: Desired,
    ledger: Ledger,
    maps: KernelMaps,
    /// When to try again what failed.
    retry: Option<Instant>,
}

/// How long to wait after a failed map operation, a device that could not be attached to, or a failed look at devices.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

impl Agent {
    /// Takes events until everything was listed once, and applies that.
    async fn first_listing(&mut self) -> Result<(), RunError> {
        while !self.index.is_listed() {
            let event = self.source.next().await.ok_or(RunError::SourceEnded)?;
            self.index.handle(event);
        }
        self.update();
        Ok(())
    }

    /// Follows manifests and devices until a signal comes.
    async fn follow(&mut self, config: &Config, node: &mut Node, stop: &mut Stop) -> Result<(), RunError> {
        loop {
            let wakeup = [self.retry, self.ledger.next_wakeup(), node.retry_at()]
                .into_iter()
                .flatten()
                .min();
            tokio::select! {
                signal = stop.wait() => {
                    info!(signal, "stopping");
                    return Ok(());
                }
                event = self.source.next() => {
                    self.index.handle(event.ok_or(RunError::SourceEnded)?);
                    // Further changes of the same sweep are applied together with this one.
                    tokio::select! {
                        () = sleep(config.min_sync_period) => {}
                        signal = stop.wait() => {
                            info!(signal, "stopping");
                            return Ok(());
                        }
                    }
                    while let Some(event) = self.source.try_next() {
                        self.index.handle(event);
                    }
                }
                changed = node.changed() => {
                    changed?;
                    node.look_again(config).await;
                    self.desired.set_node(node.facts());
                }
                () = sleep_until(wakeup.unwrap_or_else(Instant::now).into()), if wakeup.is_some() => {
                    if node.retry_at().is_some_and(|at| at <= Instant::now()) {
                        node.look_again(config).await;
                        self.desired.set_node(node.facts());
                    }
                }
            }
            self.update();
        }
    }

    /// Works out what is desired now and brings the kernel to it.
    fn update(&mut self) {
        let begin = Instant::now();
        if let Some(update) = self.desired.update(&mut self.index) {
            for notice in &update.notices {
                notice.log();
            }
            self.ledger.apply(update.changes);
        }
        let report = sync(&mut self.ledger, &mut self.maps, Instant::now);
        for limit in &report.errors {
            error!("{limit}");
        }
        for (op, failure) in &report.failures {
            error!(?op, "{failure}; trying again");
        }
        self.retry = (!report.failures.is_empty()).then(|| Instant::now() + RETRY);
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
}

/// SIGINT and SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> Result<Self, RunError> {
        let catch = |kind| signal(kind).map_err(RunError::Signals);
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
        })
    }

    async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// A word for logs.
fn role_name(role: Role) -> &'static str {
    match role {
        Role::Workload => "workload",
        Role::Uplink => "uplink",
    }
}
