//! `fairlead run`: the main loop.
//!
//! ```text
//!   manifests ─Event─► index ─► desired ─► ledger ─ordered operations─► maps
//!   netlink ─► devices: attach, forget    addresses: desired
//! ```
//!
//! Start is in an order in which every step can fail without harm to a dataplane that runs: look (manifests,
//! privileges, kernel, cgroup), lock, load, read back what is there, swap the programs inside the links of the cgroup
//! (all that can still fail), bring the maps to what the manifests say, and then the devices, one in each turn of the
//! loop.

mod node;

use std::time::Instant;

use lb_common::{abi::XdpMode, datapath::Role};
use thiserror::Error;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{sleep, sleep_until},
};
use tracing::{error, info};

use self::node::Node;
use crate::{
    apply::{ApplyError, KernelMaps},
    attach::{AttachError, Attacher},
    bpf_log,
    cgroup::{self, CgroupError},
    cleanup,
    cli::config::{self, Config},
    desired::{Desired, Options},
    devices::{DeviceError, XdpRules},
    diff::{Ledger, Limits, sync},
    flows::{Collector, FlowsError, monotonic_ns},
    index::Index,
    load::{self, Knobs, LoadError, ServiceCidrs, Sizes},
    object::{self, NoObject},
    pins::{PinError, PinFolder},
    probe::{self, Features, ProbeError},
    sockets::{Sockets, SocketsError},
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
    /// The collector of flows.
    #[error(transparent)]
    Flows(#[from] FlowsError),
    /// Devices cannot be found.
    #[error(transparent)]
    Devices(#[from] DeviceError),
    /// The folder of the cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The programs cannot be attached to the cgroup.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Sockets cannot be looked after.
    #[error(transparent)]
    Sockets(#[from] SocketsError),
    /// Signals cannot be caught.
    #[error("catch signals: {0}")]
    Signals(#[source] std::io::Error),
    /// The API server cannot be a source yet.
    #[error("the Kubernetes API cannot be a source yet; use --manifests")]
    NoKubernetesYet,
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
    let source = match &config.source {
        config::Source::Manifests(folder) => Manifests::start(folder)?,
        config::Source::Kubernetes(_) => return Err(RunError::NoKubernetesYet),
    };
    let features = probe::check()?;
    if let Some(cgroup) = &config.cgroup {
        cgroup::check(cgroup)?;
    }
    let object = object::bytes()?;
    let pins = PinFolder::open(&config.bpffs)?;
    let adopted = pins.holds_maps();
    let (mut agent, mut node) = match start(config, &features, object, &pins, source).await {
        Ok(started) => started,
        Err(error) => {
            if !adopted {
                cleanup::undo(pins);
            }
            return Err(error);
        }
    };
    let _log = bpf_log::forward(node.programs(), config.bpf_log);
    let ended = agent.follow(config, &mut node, &mut stop, begin).await?;
    info!(
        signal = ended,
        "stopped; forwarding goes on, `fairlead cleanup` ends it"
    );
    Ok(())
}

/// All that can fail of the start.
async fn start(
    config: &Config,
    features: &Features,
    object: &[u8],
    pins: &PinFolder,
    source: Manifests,
) -> Result<(Agent, Node), RunError> {
    let attacher = Attacher::new(pins, features.tcx && !config.no_tcx, features.xdp_pieces);
    attacher.check_namespace()?;
    let knobs = Knobs {
        log_level: config.bpf_log,
        snat_ports: config.snat_ports,
        service_cidrs: ServiceCidrs::new(&config.service_cidrs),
        socket_lb: config.socket_lb,
        timeouts: config.timeouts,
        xdp: xdp_modes(&config.xdp),
    };
    let mut bpf = load::load(object, pins, &config.sizes, features, &knobs)?;
    let mut maps = KernelMaps::new(&mut bpf)?;
    let snapshot = maps.snapshot()?;
    maps.adopt_endpoints(&snapshot)?;
    let adopted = !snapshot.frontends.is_empty();
    if adopted {
        info!(
            frontends = snapshot.frontends.len(),
            "going on from what is pinned"
        );
    }
    let mut node = Node::start(config, bpf, attacher).await?;
    node.attach_cgroup(config, pins)?;
    let mut sockets = Sockets::start(pins, config.socket_lb, features.netns_cookie)?;
    sockets.follow_pods(node.pod_namespaces());
    let mut agent = Agent {
        source,
        index: Index::new(),
        desired: Desired::new(Options::default(), node.facts()),
        ledger: Ledger::adopt(Limits::of(&config.sizes), &snapshot),
        maps,
        sockets,
        adopted,
        stage: Stage::Listing,
        retry: None,
    };
    agent.maps.set_sources(&node.sources())?;
    Collector::open(&pins.maps(), config.timeouts, monotonic_ns)?.start(&pins.maps(), config.snat_ports)?;
    agent.maps.set_uplinks(&node.uplinks())?;
    Ok((agent, node))
}

/// The XDP modes that devices may come to have.
fn xdp_modes(rules: &XdpRules) -> &'static [XdpMode] {
    let may = |mode| rules.may_choose(mode);
    match (may(XdpMode::Native), may(XdpMode::Generic)) {
        (true, true) => &[XdpMode::Native, XdpMode::Generic],
        (true, false) => &[XdpMode::Native],
        (false, true) => &[XdpMode::Generic],
        (false, false) => &[],
    }
}

/// What the main loop works with.
struct Agent {
    source: Manifests,
    index: Index,
    desired: Desired,
    ledger: Ledger,
    maps: KernelMaps,
    sockets: Sockets,
    /// There were frontends in the kernel at the start.
    adopted: bool,
    stage: Stage,
    /// When to try again what failed.
    retry: Option<Instant>,
}

/// How far the agent has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not everything was listed yet.
    Listing,
    /// There are no manifests, or some that have never been valid, and there is a dataplane to lose: what is not seen
    /// may be what runs.
    Holding,
    /// Changes are applied as they come.
    Following,
}

/// How long to wait after a failed map operation, a device that could not be attached to, or a failed look at devices.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

impl Agent {
    /// Follows manifests and devices until a signal comes, and returns its name. A turn of the loop deals with one
    /// event, the change that it makes, and one device.
    async fn follow(
        &mut self,
        config: &Config,
        node: &mut Node,
        stop: &mut Stop,
        begin: Instant,
    ) -> Result<&'static str, RunError> {
        let mut ready = false;
        loop {
            let wakeup = [self.retry, self.ledger.next_wakeup(), Some(node.next_work())]
                .into_iter()
                .flatten()
                .min();
            tokio::select! {
                // Changes of endpoints go before new devices: connections fail meanwhile.
                biased;
                signal = stop.wait() => return Ok(signal),
                event = self.source.next() => {
                    self.index.handle(event.ok_or(RunError::SourceEnded)?);
                    // Further changes of the same sweep are applied together with this one.
                    tokio::select! {
                        signal = stop.wait() => return Ok(signal),
                        () = sleep(config.min_sync_period) => {}
                    }
                    while let Some(event) = self.source.try_next() {
                        self.index.handle(event);
                    }
                }
                changed = node.changed() => changed?,
                () = sleep_until(wakeup.unwrap_or_else(Instant::now).into()) => {}
            }
            self.update();
            if node.work(config).await {
                if let Err(failure) = self.maps.set_sources(&node.sources()) {
                    error!("{failure}; packets to other nodes may be dropped");
                }
                self.sockets.follow_pods(node.pod_namespaces());
                if let Err(failure) = self.maps.set_uplinks(&node.uplinks()) {
                    error!("{failure}; XDP may leave packets to tc");
                }
                self.desired.set_node(node.facts());
                self.update();
            }
            if !ready && self.stage != Stage::Listing && node.is_started() {
                ready = true;
                self.tell_ready(config, node, begin);
            }
        }
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

    /// Whether what is known may be applied.
    fn may_apply(&mut self) -> bool {
        let listed = self.index.is_listed();
        let next = match self.stage {
            Stage::Listing if !listed => Stage::Listing,
            Stage::Listing if self.adopted && !self.source.is_whole() => {
                error!(
                    "manifests are missing or invalid, and what an earlier agent programmed may come from them: it \
                     stays in force, and no change is applied until all manifests are valid; repair them or move them \
                     out of the folder, or end forwarding with `fairlead cleanup`"
                );
                Stage::Holding
            }
            Stage::Holding if !self.source.is_whole() => Stage::Holding,
            Stage::Holding => {
                info!("all manifests are valid now; changes are applied");
                Stage::Following
            }
            Stage::Listing | Stage::Following => Stage::Following,
        };
        self.stage = next;
        next == Stage::Following
    }

    /// Works out what is desired now and brings the kernel to it.
    fn update(&mut self) {
        if !self.may_apply() {
            return;
        }
        let begin = Instant::now();
        if let Some(update) = self.desired.update(&mut self.index) {
            for notice in &update.notices {
                notice.log();
            }
            self.ledger.apply(update.changes);
        }
        let report = sync(&mut self.ledger, &mut self.maps, Instant::now);
        if report.freed > 0 {
            self.sockets.endpoints_left();
        }
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
