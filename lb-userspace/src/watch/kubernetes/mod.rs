//! The Kubernetes API as a source of events.
//!
//! ```text
//!   connection ── client: kubeconfig or service account, dead peers
//!   servers ───── several servers as one
//!   begun ─────── word of watches that the server begins to answer
//!   watch ─────── one kind: list, watch, list anew when that gets nowhere
//!   trouble ───── what went wrong, in words, with the remedy
//!   status ────── whether the server is reached
//! ```
//!
//! Nothing that the server does takes an object away, but an event that says so, or a list that is complete. Everything runs
//! on a thread of its own: decoding fifty thousand events a second must not hold up the maps.

mod begun;
mod connection;
#[cfg(test)]
mod outage_tests;
mod servers;
#[cfg(test)]
mod silence_tests;
mod status;
#[cfg(test)]
mod testing;
mod trouble;
mod watch;

use std::{fmt, io, sync::Arc, thread::JoinHandle, time::Duration};

use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
use thiserror::Error;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

pub use self::{connection::ConnectionError, status::ApiState};
use self::{
    status::Status,
    watch::{Context, Watch},
};
use super::{Event, Kind, Object};
use crate::cli::config::ApiServer;

/// Events that wait for the agent; more make the watches wait.
const QUEUE_EVENTS: usize = 4_096;

/// Services and slices wait that long for the Node: with its zone known the first endpoints are the right ones.
const NODE_PATIENCE: Duration = Duration::from_secs(3);

/// Services that a proxy serves, as the API server can tell them (`newProxyServer` in `cmd/kube-proxy/app/server.go` of
/// Kubernetes).
const SERVICE_LABELS: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";
const SERVICE_FIELDS: &str = "spec.clusterIP!=None";
const SLICE_LABELS: &str = "!service.kubernetes.io/headless";

/// Why the API server cannot be a source.
#[derive(Debug, Error)]
pub enum KubernetesError {
    /// There is no way to it.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The thread that follows it cannot be started.
    #[error("cannot start the thread that follows the API server: {0}")]
    Thread(#[source] io::Error),
    /// The thread has ended.
    #[error("the thread that follows the API server has ended at its start")]
    Ended,
}

/// Services, EndpointSlices, ServiceCIDRs and the own Node from the API server, followed as long as this value lives.
///
/// The server need not be there: what is wrong is told and tried again.
pub struct Kubernetes {
    events: mpsc::Receiver<Event>,
    started: Started,
    /// Dropping it ends the thread.
    _stop: oneshot::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread hands out when it has begun.
struct Started {
    state: tokio::sync::watch::Receiver<ApiState>,
    relist: [Arc<Notify>; Kind::ALL.len()],
    client: kube::Client,
}

impl Kubernetes {
    /// Begins to follow the server. Where an address of it is in one of `cidrs`, networks of cluster IPs, what is told of
    /// trouble says so.
    ///
    /// # Errors
    /// The configuration cannot be used. That the server does not answer is none.
    pub async fn start(server: &ApiServer, node: &str, cidrs: &[IpNet]) -> Result<Self, KubernetesError> {
        let (sender, events) = mpsc::channel(QUEUE_EVENTS);
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = oneshot::channel();
        let (server, node, cidrs) = (server.clone(), node.to_owned(), cidrs.to_vec());
        let thread = std::thread::Builder::new()
            .name("kubernetes".into())
            .spawn(move || run(&server, &cidrs, &node, sender, stopped, ready))
            .map_err(KubernetesError::Thread)?;
        Ok(Self {
            events,
            started: started.await.map_err(|_| KubernetesError::Ended)??,
            _stop: stop,
            thread: Some(thread),
        })
    }

    /// The next event; `None` if the thread has died. Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The next event, if one is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    /// Whether the server is reached.
    pub fn state(&self) -> tokio::sync::watch::Receiver<ApiState> {
        self.started.state.clone()
    }

    /// The client, for whoever writes to the server. It works on any runtime.
    pub fn client(&self) -> kube::Client {
        self.started.client.clone()
    }

    /// Asks for a new list of a kind.
    pub fn relist(&self, kind: Kind) {
        for (each, relist) in Kind::ALL.iter().zip(&self.started.relist) {
            if *each == kind {
                relist.notify_one();
            }
        }
    }
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes")
            .field("state", &*self.started.state.borrow())
            .finish_non_exhaustive()
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        // Watches that wait for room see that nobody listens; the others end with their runtime.
        self.events.close();
        let (stop, _) = oneshot::channel();
        self._stop = stop;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread.
fn run(
    server: &ApiServer,
    cidrs: &[IpNet],
    node: &str,
    events: mpsc::Sender<Event>,
    stopped: oneshot::Receiver<()>,
    ready: oneshot::Sender<Result<Started, KubernetesError>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(KubernetesError::Thread(error)));
            return;
        }
    };
    runtime.block_on(async {
        let (client, place) = match connection::connect(server, cidrs).await {
            Ok(connected) => connected,
            Err(error) => {
                let _ = ready.send(Err(error.into()));
                return;
            }
        };
        let context = Context {
            client: client.clone(),
            events,
            status: Arc::new(Status::new(place)),
            patience: server.timeout,
        };
        let relist: [Arc<Notify>; Kind::ALL.len()] = Default::default();
        let started = Started {
            state: context.status.subscribe(),
            relist: relist.clone(),
            client,
        };
        if ready.send(Ok(started)).is_ok() {
            tokio::select! {
                _ = stopped => {}
                () = follow(node, context, relist) => {}
            }
        }
    });
    // Name look-ups run on threads that cannot be stopped; nobody waits for them.
    runtime.shutdown_background();
}

/// Follows all kinds, until nobody listens.
async fn follow(node: &str, context: Context, relist: [Arc<Notify>; Kind::ALL.len()]) {
    let [services, slices, nodes, cidrs] = relist;
    let mut node_known = context.status.node();
    let mut watches = JoinSet::new();
    let own = Watch::<Node> {
        kind: Kind::Node,
        labels: None,
        fields: Some(format!("metadata.name={node}")),
        read: |reader, node| Object::Node(reader.node(node).into()),
    };
    watches.spawn(own.follow(context.clone(), nodes));
    let networks = Watch::<ServiceCIDR> {
        kind: Kind::ServiceCidr,
        labels: None,
        fields: None,
        read: |reader, cidr| Object::ServiceCidr(reader.service_cidr(cidr).into()),
    };
    watches.spawn(networks.follow(context.clone(), cidrs));
    // An error would mean that the sender is gone, and it is in the context.
    let _ = timeout(NODE_PATIENCE, node_known.wait_for(|known| *known)).await;
    let all = Watch::<Service> {
        kind: Kind::Service,
        labels: Some(SERVICE_LABELS),
        fields: Some(SERVICE_FIELDS.to_owned()),
        read: |reader, service| Object::Service(reader.service(service).into()),
    };
    watches.spawn(all.follow(context.clone(), services));
    let all = Watch::<EndpointSlice> {
        kind: Kind::EndpointSlice,
        labels: Some(SLICE_LABELS),
        fields: None,
        read: |reader, slice| Object::EndpointSlice(reader.slice(slice).into()),
    };
    watches.spawn(all.follow(context, slices));
    while watches.join_next().await.is_some() {}
}
