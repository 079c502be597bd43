//! The servers of the Services' health check ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse as _, Response},
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tracing::debug;

use super::{
    checks::{Answer, Clash, HealthChecks, Subject, by_address, steps},
    http::{self, RETRY, json, status},
    listen,
};
use crate::{index::ServiceName, telemetry::Telemetry};

/// The header that tells load balancers how much of a Service is on this node (KEP-2086's weighting of nodes).
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Which health checks there are, and where they are answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) checks: HealthChecks,
    /// The NodePort addresses.
    pub(crate) addresses: Vec<IpAddr>,
}

type Subjects = Arc<RwLock<BTreeMap<SocketAddr, Subject>>>;

/// What is open.
struct Servers {
    telemetry: Telemetry,
    open: BTreeMap<SocketAddr, JoinHandle<Infallible>>,
    subjects: Subjects,
    /// What was told already, for as long as it is true.
    refused: BTreeSet<(ServiceName, SocketAddr)>,
    clashes: BTreeSet<Clash>,
}

/// Opens and closes ports as Services change, until whoever tells of them is gone.
pub(crate) async fn follow(telemetry: Telemetry, mut wanted: watch::Receiver<Wanted>) {
    let mut servers = Servers {
        telemetry,
        open: BTreeMap::new(),
        subjects: Subjects::default(),
        refused: BTreeSet::new(),
        clashes: BTreeSet::new(),
    };
    loop {
        let now = wanted.borrow_and_update().clone();
        let is_done = servers.reconcile(&now);
        let change = wanted.changed();
        let changed = if is_done {
            change.await
        } else {
            timeout(RETRY, change).await.unwrap_or(Ok(()))
        };
        if changed.is_err() {
            return;
        }
    }
}

impl Servers {
    /// Opens and closes what has to be; says whether all of it worked.
    fn reconcile(&mut self, wanted: &Wanted) -> bool {
        let (subjects, clashes) = by_address(&wanted.checks, &wanted.addresses);
        for clash in clashes.difference(&self.clashes) {
            let problem = format!("{} has that port", clash.taken_by);
            self.telemetry
                .health_check_failed(&clash.service, &clash.uid, clash.port, &problem);
        }
        self.clashes = clashes;
        let open = self.open.keys().copied().collect();
        let steps = steps(&open, &subjects);
        for addr in steps.close {
            if let Some(server) = self.open.remove(&addr) {
                debug!(%addr, "closing a health check port");
                server.abort();
            }
        }
        *self.subjects.write().unwrap_or_else(PoisonError::into_inner) = subjects.clone();
        let mut refused = BTreeSet::new();
        for addr in steps.open {
            let Some(subject) = subjects.get(&addr) else {
                continue;
            };
            match listen::anywhere(addr) {
                Ok(listener) => {
                    debug!(%addr, service = %subject.service, "opened a health check port");
                    let router = self.router(addr);
                    self.open
                        .insert(addr, tokio::spawn(http::serve(listener, router)));
                }
                Err(failure) => {
                    let key = (subject.service.clone(), addr);
                    if !self.refused.contains(&key) {
                        let problem = format!("listen on {addr}: {failure}");
                        self.telemetry.health_check_failed(
                            &subject.service,
                            &subject.uid,
                            addr.port(),
                            &problem,
                        );
                    }
                    refused.insert(key);
                }
            }
        }
        self.refused = refused;
        self.telemetry.check_ports(self.open.len(), self.refused.len());
        self.refused.is_empty()
    }

    /// Answers for whatever Service is asked for at the address, on any path.
    fn router(&self, addr: SocketAddr) -> Router {
        let state = (self.telemetry.clone(), Arc::clone(&self.subjects), addr);
        Router::new().fallback(answer).with_state(state)
    }
}

async fn answer(State((telemetry, subjects, addr)): State<(Telemetry, Subjects, SocketAddr)>) -> Response {
    let subject = subjects
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&addr)
        .cloned();
    let Some(subject) = subject else {
        // The Service is gone since the connection was accepted.
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let answer = Answer::new(&subject, telemetry.report().healthy);
    let mut response = json(status(answer.is_good()), &answer);
    response
        .headers_mut()
        .insert(WEIGHT, HeaderValue::from(answer.weight()));
    response
}
