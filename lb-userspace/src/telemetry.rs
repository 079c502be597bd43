//! What the agent tells of itself: the handle that the main loop reports to, and the thread that answers.
//!
//! ```text
//!   main loop ──Telemetry──► state behind locks that are held for microseconds
//!                               ▲
//!   thread "telemetry": HTTP ───┘   health, health check ports
//! ```
//!
//! The thread has a runtime of its own. A main loop that is busy holds up no probe, and one that hangs is seen by them.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use serde_json::Value;
use tokio::sync::watch;
use tracing::warn;

use crate::{
    cli::bind::Bind,
    health::{HealthChecks, NodeState, Now, ProxyHealth, Report, Serving, http, servers, servers::Wanted},
    index::ServiceName,
    plan::Family,
    watch::ApiState,
};

/// Where the agent answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binds {
    /// `/healthz` and `/livez`.
    pub healthz: Option<Bind>,
    /// These and the rest.
    pub metrics: Option<Bind>,
}

/// What came of bringing the kernel to what is desired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Families of which something could not be brought to the kernel; `None` if that is about either of them.
    pub failed: BTreeSet<Option<Family>>,
}

/// The handle. Cloning is cheap; no call waits for anything.
#[derive(Clone, Debug)]
pub struct Telemetry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    health: Mutex<ProxyHealth>,
    wanted: watch::Sender<Wanted>,
    configuration: Value,
}

impl Telemetry {
    /// A handle without a thread: nobody can ask. `configuration` is what `/configz` is to answer.
    pub fn new(configuration: Value) -> Self {
        Self(Arc::new(Shared {
            health: Mutex::default(),
            wanted: watch::Sender::default(),
            configuration,
        }))
    }

    /// Starts to answer, on a thread of its own in the caller's network namespace. An address that cannot be listened on
    /// is told in the log and tried again. `api` tells whether the API server is reached, if there is one.
    ///
    /// # Errors
    ///
    /// If there is no thread, or no event queue for it.
    pub fn start(&self, binds: Binds, api: Option<watch::Receiver<ApiState>>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let this = self.clone();
        let builder = thread::Builder::new().name("telemetry".to_owned());
        builder
            .spawn(move || runtime.block_on(this.answer(binds, api)))
            .map(drop)
    }

    async fn answer(self, binds: Binds, api: Option<watch::Receiver<ApiState>>) {
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
        tokio::join!(health, metrics, checks, self.follow_api(api));
    }

    async fn follow_api(&self, api: Option<watch::Receiver<ApiState>>) {
        let Some(mut api) = api else { return };
        loop {
            let reach = (&*api.borrow_and_update()).into();
            self.health().set_api(reach, Now::read());
            if api.changed().await.is_err() {
                return;
            }
        }
    }

    /// The main loop turns. It does so every ten seconds at least.
    pub fn turn(&self) {
        self.health().turned(Now::read());
    }

    /// Changes have come that the kernel does not know of yet.
    pub fn queued(&self) {
        self.health().queued(Now::read());
    }

    /// The kernel was brought to what is desired, or nearly.
    pub fn sync_end(&self, report: &SyncReport) {
        let now = Now::read();
        let mut health = self.health();
        for family in Family::ALL {
            if !report.failed.contains(&None) && !report.failed.contains(&Some(family)) {
                health.updated(family, now);
            }
        }
    }

    /// What the kernel forwards by.
    pub fn serving(&self, serving: Serving) {
        self.health().set_serving(serving);
    }

    /// What is known of this node's Node object.
    pub fn node(&self, node: NodeState) {
        self.health().set_node(node);
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

    /// How the agent is.
    pub fn report(&self) -> Report {
        self.health().report(Now::read())
    }

    /// What `/configz` answers.
    pub(crate) fn configuration(&self) -> &Value {
        &self.0.configuration
    }

    /// A Service's health check port is not answered.
    pub(crate) fn health_check_failed(&self, service: &ServiceName, port: u16, problem: &str) {
        warn!(
            %service, port,
            "health check of a Service is not answered: {problem}; free the port, or set another healthCheckNodePort; \
             trying again"
        );
    }

    fn health(&self) -> MutexGuard<'_, ProxyHealth> {
        self.0.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
