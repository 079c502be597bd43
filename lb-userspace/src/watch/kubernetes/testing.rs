//! The real watch on the real client, with a server behind it that is made up.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use axum::body::{Body, Bytes};
use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{
    runtime::Runtime,
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tower::BoxError;

use super::{
    ApiState, Context, Object, SERVICE_FIELDS, SERVICE_LABELS, Status, Watch, connection::Place,
    servers::Servers,
};
use crate::watch::{Event, Kind};

/// `--api-timeout` unless said otherwise.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a request is answered, if it is.
pub(super) type Answer = Result<http::Response<Body>, BoxError>;

/// A runtime whose clock leaps over the time in which nothing happens.
pub(super) fn leaping() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

/// A watch of one kind, as long as this value lives.
pub(super) struct Watched {
    pub(super) state: watch::Receiver<ApiState>,
    pub(super) relist: Arc<Notify>,
    events: mpsc::Receiver<Event>,
    task: JoinHandle<()>,
}

/// Begins a watch. The server is told the query of each request.
pub(super) fn watched<K, F>(watch: Watch<K>, answer: impl Fn(String) -> F + Clone + Send + 'static) -> Watched
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let place = Place {
        urls: vec!["https://192.0.2.1:6443/".to_owned()],
        cluster_ip: None,
    };
    let inner = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        answer(request.uri().query().unwrap_or_default().to_owned())
    });
    let urls = vec!["https://192.0.2.1:6443".parse().unwrap()];
    let (sender, events) = mpsc::channel(64);
    let context = Context {
        client: Client::new(Servers::new(urls, PATIENCE, inner), "default"),
        events: sender,
        status: Arc::new(Status::new(place)),
        patience: PATIENCE,
    };
    let relist = Arc::new(Notify::new());
    Watched {
        state: context.status.subscribe(),
        relist: relist.clone(),
        events,
        task: tokio::spawn(watch.follow(context, relist)),
    }
}

impl Watched {
    /// What the watch tells until then.
    pub(super) async fn told(&mut self, end: Instant, mut take: impl FnMut(Event)) {
        while let Ok(event) = timeout_at(end, self.events.recv()).await {
            take(event.expect("the watch goes on"));
        }
    }

    /// Lets this time pass.
    pub(super) async fn pass(&mut self, time: Duration) {
        self.told(Instant::now() + time, |_| {}).await;
    }

    /// Whether the server is away, as the watch has it.
    pub(super) fn is_away(&self) -> bool {
        matches!(*self.state.borrow(), ApiState::Away { .. })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How Services are watched.
pub(super) fn services() -> Watch<v1::Service> {
    Watch {
        kind: Kind::Service,
        labels: Some(SERVICE_LABELS),
        fields: Some(SERVICE_FIELDS.to_owned()),
        read: |reader, service| Object::Service(reader.service(service).into()),
    }
}

/// A Service as the server writes it.
pub(super) fn service(name: &str, version: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "resourceVersion": version.to_string()},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    })
}

/// A list of Services.
pub(super) fn list(version: u32, items: &[Value]) -> Body {
    let list = json!({
        "apiVersion": "v1", "kind": "ServiceList", "metadata": {"resourceVersion": version.to_string()},
        "items": items,
    });
    list.to_string().into()
}

/// A watch that tells this, and then nothing more, without an end.
pub(super) fn endless(events: &[Value]) -> Body {
    let lines: Vec<_> = events
        .iter()
        .map(|event| Ok::<_, Infallible>(Bytes::from(format!("{event}\n"))))
        .collect();
    Body::from_stream(stream::iter(lines).chain(stream::pending()))
}
