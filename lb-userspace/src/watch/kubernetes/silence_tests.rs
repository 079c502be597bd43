//! A server that accepts everything and says nothing for five minutes: the real watch on the real client, with answers that
//! are made up behind it, and with tokio's clock, which leaps over the time in which nothing happens.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::body::{Body, Bytes};
use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1;
use kube::Client;
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout_at},
};

use super::{
    ApiState, Context, Object, SERVICE_FIELDS, SERVICE_LABELS, Status, Watch,
    connection::{Place, Servers},
};
use crate::{
    index::{Index, ServiceName},
    watch::Kind,
};

/// How long the server says nothing.
const SILENCE: Duration = Duration::from_secs(300);
/// `--api-timeout` unless said otherwise.
const PATIENCE: Duration = Duration::from_secs(15);
/// kube waits up to half a minute between two attempts, and an attempt may have begun in the silence.
const BACK: Duration = Duration::from_secs(60);

/// The other side.
#[derive(Debug, Default)]
struct Server {
    silent: AtomicBool,
    /// When it was asked for what.
    asked: Mutex<Vec<(Instant, String)>>,
}

fn service(name: &str, version: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "resourceVersion": version.to_string()},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    })
}

impl Server {
    /// There are `mail`, `web` and `old` until the silence begins, and `new` in the place of `old` from then on.
    fn list(&self) -> Body {
        let (version, other) = if self.asked.lock().unwrap().len() > 1 {
            (9, service("new", 9))
        } else {
            (7, service("old", 6))
        };
        let list = json!({
            "apiVersion": "v1", "kind": "ServiceList", "metadata": {"resourceVersion": version.to_string()},
            "items": [service("mail", 4), other, service("web", 5)],
        });
        list.to_string().into()
    }

    /// What one that was at version 7 has missed, and then nothing more, without an end.
    fn watch(&self, query: &str) -> Body {
        let missed = [
            json!({"type": "DELETED", "object": service("old", 8)}),
            json!({"type": "ADDED", "object": service("new", 9)}),
        ];
        let is_first = self.asked.lock().unwrap().len() <= 2;
        let told = missed
            .iter()
            .filter(|_| !is_first && query.contains("resourceVersion=7"));
        let lines: Vec<_> = told
            .map(|event| Ok::<_, Infallible>(Bytes::from(format!("{event}\n"))))
            .collect();
        Body::from_stream(stream::iter(lines).chain(stream::pending()))
    }

    async fn answer(self: Arc<Self>, query: String) -> Result<http::Response<Body>, Infallible> {
        self.asked.lock().unwrap().push((Instant::now(), query.clone()));
        if self.silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let body = if query.contains("watch=true") {
            self.watch(&query)
        } else {
            self.list()
        };
        Ok(http::Response::new(body))
    }
}

/// The names that an index has, until `end`; after each event `check` looks at them.
async fn pump(
    index: &mut Index,
    events: &mut mpsc::Receiver<crate::watch::Event>,
    end: Instant,
    check: impl Fn(&[&str]),
) {
    while let Ok(event) = timeout_at(end, events.recv()).await {
        index.handle(event.expect("the watch goes on"));
        check(&names(index));
    }
}

fn names(index: &Index) -> Vec<&str> {
    index.names().map(|name: &ServiceName| &*name.name).collect()
}

async fn five_minutes() {
    let server = Arc::new(Server::default());
    let place = Place {
        urls: vec!["https://192.0.2.1:6443/".to_owned()],
        is_cluster_ip: false,
    };
    let inner = {
        let server = server.clone();
        tower::service_fn(move |request: http::Request<kube::client::Body>| {
            server
                .clone()
                .answer(request.uri().query().unwrap_or_default().to_owned())
        })
    };
    let urls = vec!["https://192.0.2.1:6443".parse().unwrap()];
    let (sender, mut events) = mpsc::channel(64);
    let context = Context {
        client: Client::new(Servers::new(urls, PATIENCE, inner), "default"),
        events: sender,
        status: Arc::new(Status::new(place)),
        patience: PATIENCE,
    };
    let state = context.status.subscribe();
    let watch = Watch::<v1::Service> {
        kind: Kind::Service,
        labels: Some(SERVICE_LABELS),
        fields: Some(SERVICE_FIELDS.to_owned()),
        read: |reader, service| Object::Service(reader.service(service).into()),
    };
    let watching = tokio::spawn(watch.follow(context, Arc::new(Notify::new())));
    let mut index = Index::doubting();
    pump(
        &mut index,
        &mut events,
        Instant::now() + Duration::from_secs(1),
        |_| {},
    )
    .await;
    assert_eq!(names(&index), ["mail", "old", "web"]);
    assert_eq!(*state.borrow(), ApiState::Reached);

    server.silent.store(true, Ordering::Relaxed);
    let begin = Instant::now();
    let unchanged = |names: &[&str]| assert_eq!(names, ["mail", "old", "web"], "nothing goes for silence");
    pump(&mut index, &mut events, begin + SILENCE, unchanged).await;
    assert!(matches!(*state.borrow(), ApiState::Away { .. }), "{state:?}");
    let asked: Vec<_> = server.asked.lock().unwrap()[2..].to_vec();
    // A watch ends after 2 to 3 minutes, and is waited for 5 s longer. From then on it is tried again, in moderation.
    let first = asked.first().expect("it asks again").0 - begin;
    assert!(
        Duration::from_secs(120) < first && first < Duration::from_secs(190),
        "{first:?}"
    );
    assert!((3..=20).contains(&asked.len()), "{asked:?}");

    server.silent.store(false, Ordering::Relaxed);
    pump(&mut index, &mut events, Instant::now() + BACK, |names| {
        assert!(names.contains(&"mail") && names.contains(&"web"), "{names:?}");
    })
    .await;
    assert_eq!(
        names(&index),
        ["mail", "new", "web"],
        "{:?}",
        server.asked.lock().unwrap()
    );
    assert_eq!(*state.borrow(), ApiState::Reached);
    watching.abort();
}

#[test]
fn five_minutes_without_a_word_take_nothing_away_and_what_was_missed_comes_after_them() {
    // When a watch ends is left to chance; with it, how far the attempts have come when the server speaks again.
    for _ in 0..20 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(five_minutes());
    }
}
