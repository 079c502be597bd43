//! `fairlead run`: the main loop.
//!
//! ```text
//!   API server or manifests ─Event─► index ─► desired ─► ledger ─ordered operations─► maps
//!   netlink ─► devices: attach, forget    addresses: desired
//! ```
//!
//! Start is in an order in which every step can fail without harm to a dataplane that runs: look (source,
//! privileges, kernel, cgroup), lock, load, read back what is there, swap the programs inside the links of the cgroup
//! (all that can still fail), bring the maps to what the source says, and then the devices, one in each turn of the
//! loop.

mod agent;
mod audit;
mod caution;
mod node;
mod service_cidrs;
mod stop;

use std::time::{Duration, Instant};

use lb_common::{abi::XdpMode, datapath::Role};
use serde_json::json;
use thiserror::Error;
use tracing::info;

use self::{agent::Agent, node::Node, stop::Stop};
use crate::{
    apply::{ApplyError, KernelMaps},
    attach::{AttachError, Attacher},
    bpf_log,
    cgroup::{self, CgroupError},
    cleanup,
    cli::config::{self, Config},
    devices::{DeviceError, XdpRules},
    flows::{Collector, FlowsError, monotonic_ns},
    health::Serving,
    load::{self, Knobs, LoadError},
    object::{self, NoObject},
    pins::{PinError, PinFolder},
    probe::{self, Features, ProbeError},
    sockets::{Sockets, SocketsError},
    status::StatusError,
    telemetry::{Api, Binds, Telemetry},
    watch::{Kubernetes, KubernetesError, Manifests, ManifestsError, Source},
};

/// Why the agent could not start or go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// The folder of manifests.
    #[error(transparent)]
    Manifests(#[from] ManifestsError),
    /// The API server.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
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
    /// What there is in the maps cannot be told.
    #[error(transparent)]
    Figures(#[from] StatusError),
    /// Nobody could ask how the agent is.
    #[error("start the thread that answers probes: {0}")]
    Telemetry(#[source] std::io::Error),
    /// Signals cannot be caught.
    #[error("catch signals: {0}")]
    Signals(#[source] std::io::Error),
    /// The source can no longer be followed.
    #[error("what Services there are can no longer be followed; what was programmed stays in force")]
    SourceEnded,
}

/// How long to wait after a failed map operation, a device that could not be attached to, or a failed look at devices.
const RETRY: Duration = Duration::from_secs(1);

/// Runs the agent until SIGINT or SIGTERM. Forwarding goes on afterwards.
///
/// # Errors
///
/// [`RunError`]; what runs in the kernel is as it was, or as it was last brought to.
pub async fn run(config: &Config) -> Result<(), RunError> {
    let begin = Instant::now();
    let mut stop = Stop::new()?;
    let source = match &config.source {
        config::Source::Manifests(folder) => Source::Manifests(Manifests::start(folder)?),
        config::Source::Kubernetes(server) => {
            Source::Kubernetes(Kubernetes::start(server, &config.node_name, &config.service_cidrs).await?)
        }
    };
    let features = probe::check()?;
    if let Some(cgroup) = &config.cgroup {
        cgroup::check(cgroup)?;
    }
    let object = object::bytes()?;
    let pins = PinFolder::open(&config.bpffs)?;
    let adopted = pins.holds_maps();
    let telemetry = start_telemetry(config, &source)?;
    let (mut agent, mut node) = match start(config, &features, object, &pins, source, telemetry).await {
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

/// From here on it is answered who asks how the agent is.
fn start_telemetry(config: &Config, source: &Source) -> Result<Telemetry, RunError> {
    let telemetry = Telemetry::new(&config.node_name, json!({"fairlead.dev": config.settings()}));
    let binds = Binds {
        healthz: config.healthz_bind_address,
        metrics: config.metrics_bind_address,
    };
    let api = match source {
        Source::Kubernetes(api) => Some(Api {
            state: api.state(),
            client: api.client(),
        }),
        Source::Manifests(_) => None,
    };
    telemetry.start(binds, api).map_err(RunError::Telemetry)?;
    Ok(telemetry)
}

/// All that can fail of the start.
async fn start(
    config: &Config,
    features: &Features,
    object: &[u8],
    pins: &PinFolder,
    source: Source,
    telemetry: Telemetry,
) -> Result<(Agent, Node), RunError> {
    let attacher = Attacher::new(pins, features.tcx && !config.no_tcx, features.xdp_pieces);
    attacher.check_namespace()?;
    let knobs = Knobs {
        log_level: config.bpf_log,
        snat_ports: config.snat_ports,
        socket_lb: config.socket_lb,
        timeouts: config.timeouts,
        service_stats: config.service_stats,
        xdp: xdp_modes(&config.xdp),
    };
    let mut bpf = load::load(object, pins, &config.sizes, features, &knobs)?;
    let mut maps = KernelMaps::new(&mut bpf)?;
    let snapshot = maps.snapshot()?;
    maps.adopt_endpoints(&snapshot)?;
    if !snapshot.frontends.is_empty() {
        info!(
            frontends = snapshot.frontends.len(),
            "going on from what is pinned"
        );
        telemetry.serving(Serving::Pinned);
    }
    let mut node = Node::start(config, bpf, attacher).await?;
    node.attach_cgroup(config, pins)?;
    let mut sockets = Sockets::start(pins, config.socket_lb, features.netns_cookie)?;
    sockets.follow_pods(node.pod_namespaces());
    maps.set_sources(&node.sources())?;
    maps.set_uplinks(&node.uplinks())?;
    telemetry.kernel(&pins.maps(), &config.sizes, config.snat_ports.count)?;
    let collector = Collector::open(&pins.maps(), config.timeouts, monotonic_ns)?;
    let flows = telemetry.clone();
    collector.start(&pins.maps(), config.snat_ports, move |found| flows.flows(found))?;
    let agent = Agent::new(config, source, &node, &snapshot, maps, sockets, telemetry)?;
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

/// A word for logs.
fn role_name(role: Role) -> &'static str {
    match role {
        Role::Workload => "workload",
        Role::Uplink => "uplink",
    }
}
