//! The test API server as the real client sees it.

mod allocation;
mod basics;
mod faults;
mod lab;
mod lists;
mod slices;
mod watches;

use std::{fmt::Debug, future::Future, time::Duration};

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
    core::WatchEvent,
};
use lb_testkit::api::{ADMIN, ApiServer};
use serde_json::{Value, json};

/// How long something that must happen may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A client with a token.
async fn client_as(api: &ApiServer, token: &str) -> Client {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    api.kubeconfig(&path, token, &api.urls()).unwrap();
    let kubeconfig = Kubeconfig::read_from(&path).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    Client::try_from(config.unwrap()).unwrap()
}

/// The administrator's client.
async fn client(api: &ApiServer) -> Client {
    client_as(api, ADMIN).await
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": name},
        "spec": {"ports": [{"port": 80}]}})
}

/// What `work` results in, within the limit.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work)
        .await
        .expect("it does not happen")
}

/// The next item of a stream.
async fn next<T>(stream: &mut (impl Stream<Item = T> + Unpin)) -> T {
    soon(stream.next()).await.expect("the stream has ended")
}

/// Waits until `done`.
async fn until(what: impl Debug, mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait)
        .await
        .unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what:?}"));
}

/// An event in a word: kind and name, and for the errors the code.
fn told(event: WatchEvent<Service>) -> String {
    let name = |service: Service| service.metadata.name.unwrap_or_default();
    match event {
        WatchEvent::Added(service) => format!("added {}", name(service)),
        WatchEvent::Modified(service) => format!("modified {}", name(service)),
        WatchEvent::Deleted(service) => format!("deleted {}", name(service)),
        WatchEvent::Bookmark(bookmark) if bookmark.metadata.annotations.is_empty() => "bookmark".to_owned(),
        WatchEvent::Bookmark(_) => "initial end".to_owned(),
        WatchEvent::Error(status) => format!("error {} {}", status.code, status.reason),
    }
}
