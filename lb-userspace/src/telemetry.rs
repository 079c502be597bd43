//! What the agent tells of itself: the handle that the main loop reports to, and the thread that answers.
//!
//! ```text
//!   main loop, collector ──Telemetry──► state behind locks that are held for microseconds, atomic figures, a queue
//!                                          ▲
//!   thread "telemetry": HTTP, Events ──────┘   health, health check ports, metrics
//! ```
//!
//! The thread has a runtime of its own. A main loop that is busy holds up no probe, and one that hangs is seen by them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::{
    cli::bind::Bind,
    desired::{Notice, ServicePortKey, Tally},
    diff::{DiffError, Usage},
    events::{self, Outcome, Recorder, ServiceEvent},
    flows::Found,
    health::{
        HealthChecks, NodeState, Now, ProxyHealth, Reach, Report, Serving, http, servers, servers::Wanted,
    },
    index::{Changes, ServiceName},
    load::Sizes,
    metrics::{Format, Metrics, kernel::Kernel},
    plan::{Differences, Family},
    status::StatusError,
    watch::ApiState,
};

/// Changes whose time to the kernel is measured, of those that wait; a source that is not believed yet may tell of many.
const MOST_TRIGGERS: usize = 10_000;

/// Where the agent answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binds {
    /// `/healthz` and `/livez`.
    pub healthz: Option<Bind>,
    /// These and the rest.
    pub metrics: Option<Bind>,
}

/// The API server, for an agent that has one.
pub struct Api {
    /// Whether it is reached.
    pub state: watch::Receiver<ApiState>,
    /// By which Events are written.
    pub client: kube::Client,
}

/// How long each step from an event to the kernel took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Taking in what the source says.
    pub index: Duration,
    /// Working out what is desired.
    pub desired: Duration,
    /// Comparing it with the kernel.
    pub diff: Duration,
    /// Writing maps.
    pub apply: Duration,
}

/// What came of bringing the kernel to what is desired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Families of which something has changed.
    pub families: BTreeSet<Family>,
    /// Families of which something could not be brought to the kernel; `None` if that is about either of them.
    pub failed: BTreeSet<Option<Family>>,
    /// Everything was worked out anew.
    pub full: bool,
    /// How long it took.
    pub phases: Phases,
    /// Operations on maps that were carried out.
    pub operations: usize,
    /// Those that failed.
    pub failures: usize,
    /// What is in the kernel now.
    pub usage: Usage,
    /// Service ports without local endpoints.
    pub no_local: Tally,
}

/// The handle. Cloning is cheap; no call waits for anything.
#[derive(Clone)]
pub struct Telemetry(Arc<Shared>);

struct Shared {
    begin: Timestamp,
    node: String,
    health: Mutex<ProxyHealth>,
    /// Changes that the kernel does not know of yet.
    waiting: Mutex<Changes>,
    wanted: watch::Sender<Wanted>,
    events: mpsc::Sender<ServiceEvent>,
    /// The other end, until the thread takes it.
    queue: Mutex<Option<mpsc::Receiver<ServiceEvent>>>,
    configuration: Value,
    metrics: Metrics,
    kernel: Mutex<Option<Kernel>>,
}

impl Telemetry {
    /// A handle without a thread: nobody can ask. `node` is the node's name, and `configuration` what `/configz` is to
    /// answer.
    pub fn new(node: &str, configuration: Value) -> Self {
        let (events, queue) = mpsc::channel(events::QUEUE);
        let this = Self(Arc::new(Shared {
            begin: Timestamp::now(),
            node: node.to_owned(),
            health: Mutex::default(),
            waiting: Mutex::default(),
            wanted: watch::Sender::default(),
            events,
            queue: Mutex::new(Some(queue)),
            configuration,
            metrics: Metrics::default(),
            kernel: Mutex::default(),
        }));
        this.0.metrics.own.set_serving(Serving::default());
        this.check_ports(0, 0);
        this
    }

    /// Starts to answer, on a thread of its own in the caller's network namespace. An address that cannot be listened on
    /// is told in the log and tried again.
    ///
    /// # Errors
    ///
    /// If there is no thread, or no event queue for it.
    pub fn start(&self, binds: Binds, api: Option<Api>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let this = self.clone();
        let builder = thread::Builder::new().name("telemetry".to_owned());
        builder
            .spawn(move || runtime.block_on(this.answer(binds, api)))
            .map(drop)
    }

    async fn answer(self, binds: Binds, api: Option<Api>) {
        let health = async {
            if let Some(bind) = binds.healthz {
                let router = http::health(&self);
                http::keep_serving("health", "healthz-bind-address", bind.addr(), router).await;
            }
        };
        let metrics = async {
            if let Some(bind) = binds.metrics {
                let router = http::metrics(&self);
                http::keep_serving("metrics", "metrics-bind-address", bind.addr(), router).await;
            }
        };
        let checks = servers::follow(self.clone(), self.0.wanted.subscribe());
        let (state, client) = api.map(|api| (api.state, api.client)).unzip();
        let queue = lock(&self.0.queue).take();
        let events = async {
            if let Some(queue) = queue {
                let recorder = client.map(|client| Recorder::new(client, &self.0.node));
                events::send(queue, recorder, |outcome| self.0.metrics.own.count_event(outcome)).await;
            }
        };
        tokio::join!(health, metrics, checks, events, self.follow_api(state));
    }

    async fn follow_api(&self, state: Option<watch::Receiver<ApiState>>) {
        let Some(mut state) = state else { return };
        loop {
            let reach = (&*state.borrow_and_update()).into();
            self.api(reach);
            if state.changed().await.is_err() {
                return;
            }
        }
    }

    /// The main loop turns. It does so every ten seconds at least.
    pub fn turn(&self) {
        lock(&self.0.health).turned(Now::read());
    }

    /// Changes have come that the kernel does not know of yet.
    pub fn queued(&self, changes: Changes) {
        let now = Now::read();
        lock(&self.0.health).queued(now);
        let mut waiting = lock(&self.0.waiting);
        waiting.services += changes.services;
        waiting.slices += changes.slices;
        // What happened before the agent was there to see it says nothing of how quick it is.
        let begin = self.0.begin;
        let seen = changes
            .triggers
            .into_iter()
            .filter(|(_, trigger)| *trigger >= begin);
        let room = MOST_TRIGGERS.saturating_sub(waiting.triggers.len());
        waiting.triggers.extend(seen.take(room));
        let kube_proxy = &self.0.metrics.kube_proxy;
        kube_proxy.queued(changes.services, changes.slices, now.wall);
        kube_proxy.set_pending(waiting.services, waiting.slices);
    }

    /// The kernel was brought to what is desired, or nearly.
    pub fn sync_end(&self, report: &SyncReport) {
        let now = Now::read();
        for family in Family::ALL {
            if !report.failed.contains(&None) && !report.failed.contains(&Some(family)) {
                lock(&self.0.health).updated(family, now);
                let changed = report.families.contains(&family);
                self.0.metrics.kube_proxy.caught_up(family, changed, now.wall);
            }
        }
        let waiting = std::mem::take(&mut *lock(&self.0.waiting));
        self.0.metrics.kube_proxy.set_pending(0, 0);
        if report.families.is_empty() && report.operations == 0 && report.failures == 0 {
            return;
        }
        self.0
            .metrics
            .kube_proxy
            .synced(report, &waiting.triggers, now.wall);
        self.0.metrics.own.synced(report);
    }

    /// Entries of maps were not as the agent had written them, and are put right.
    pub fn repaired(&self, found: &Differences) {
        self.0.metrics.own.repaired(found);
    }

    /// What the kernel forwards by.
    pub fn serving(&self, serving: Serving) {
        if lock(&self.0.health).set_serving(serving) {
            self.0.metrics.own.set_serving(serving);
        }
    }

    /// What is known of this node's Node object.
    pub fn node(&self, node: NodeState) {
        lock(&self.0.health).set_node(node);
    }

    /// Whether the API server is reached.
    pub fn api(&self, reach: Reach) {
        lock(&self.0.health).set_api(reach, Now::read());
        self.0.metrics.own.set_api(reach);
    }

    /// Which health checks Services have, and the addresses that they are answered on.
    pub fn health_checks(&self, checks: &HealthChecks, addresses: &[IpAddr]) {
        self.0.wanted.send_if_modified(|wanted| {
            if wanted.checks == *checks && wanted.addresses == addresses {
                return false;
            }
            *wanted = Wanted {
                checks: checks.clone(),
                addresses: addresses.to_vec(),
            };
            true
        });
    }

    /// The maps of the kernel are there and can be read; `sizes` is how much they have room for, and `ports` how many source
    /// ports there are.
    ///
    /// # Errors
    ///
    /// If they cannot be opened.
    pub fn kernel(&self, maps: &Path, sizes: &Sizes, ports: u16) -> Result<(), StatusError> {
        let own = &self.0.metrics.own;
        own.set_capacities(sizes);
        own.set_snat_ports(ports);
        *lock(&self.0.kernel) = Some(Kernel::open(maps)?);
        Ok(())
    }

    /// Whose each meter is, and how many service ports have none.
    pub fn meters(&self, meters: &BTreeMap<u16, ServicePortKey>, left_out: usize) {
        self.0.metrics.services.name(meters, left_out);
    }

    /// What the collector has found in the flow tables, that of IPv4 first.
    pub fn flows(&self, found: &[Found; 2]) {
        self.0.metrics.own.set_flows(found);
    }

    /// A Service, whose uid is this, is served otherwise than it asks for. `starting`: it was so before the agent's start.
    pub fn notice(&self, notice: &Notice, uid: &str, starting: bool) {
        notice.log();
        let event = ServiceEvent::of_notice(notice, uid);
        if event.is_news(starting) {
            self.event(event);
        }
    }

    /// A Service, whose uid is this, finds a table full. It is in the log already.
    pub fn limit(&self, limit: &DiffError, uid: &str) {
        self.event(ServiceEvent::of_limit(limit, uid));
    }

    /// A Service's health check port is not answered.
    pub(crate) fn health_check_failed(&self, service: &ServiceName, uid: &str, port: u16, problem: &str) {
        warn!(
            %service, port,
            "health check of a Service is not answered: {problem}; free the port, or set another healthCheckNodePort; \
             trying again"
        );
        let node = &self.0.node;
        self.event(ServiceEvent::of_health_check(service, uid, node, port, problem));
    }

    /// Puts an Event into the queue, if there is room.
    fn event(&self, event: ServiceEvent) {
        if self.0.events.try_send(event).is_err() {
            self.0.metrics.own.count_event(Outcome::Dropped);
        }
    }

    /// Health check ports that are open, and those that could not be opened.
    pub(crate) fn check_ports(&self, open: usize, refused: usize) {
        self.0.metrics.own.set_check_ports(open, refused);
    }

    /// How the agent is.
    pub fn report(&self) -> Report {
        lock(&self.0.health).report(Now::read())
    }

    /// What `/configz` answers.
    pub(crate) fn configuration(&self) -> &Value {
        &self.0.configuration
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// What `/metrics` answers. Takes milliseconds where maps are full.
    pub(crate) fn metrics_text(&self, format: Format) -> String {
        if let Some(kernel) = &mut *lock(&self.0.kernel) {
            kernel.read(&self.0.metrics, Instant::now());
        }
        self.0.metrics.text(format)
    }
}

/// A panic elsewhere leaves figures behind that are as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
