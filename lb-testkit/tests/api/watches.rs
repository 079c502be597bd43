//! Watches.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    api::WatchParams,
    runtime::{WatchStreamExt as _, watcher},
};
use lb_testkit::api::{ApiServer, Verb};
use serde_json::json;

use crate::{client, next, service, soon, told, until};

async fn services(api: &ApiServer) -> Api<Service> {
    Api::all(client(api).await)
}

/// A watch from a version, each event in a word.
async fn words(
    services: &Api<Service>,
    params: WatchParams,
    version: &str,
) -> impl futures_util::Stream<Item = String> + Unpin + use<> {
    let stream = services.watch(&params, version).await.unwrap();
    Box::pin(stream.map(|event| event.map_or_else(|error| format!("broken: {error}"), told)))
}

#[tokio::test]
async fn a_watch_tells_what_happens_after_its_version() {
    let api = ApiServer::on_loopback().unwrap();
    api.create(service("before")).unwrap();
    let version = api.version().to_string();
    api.create(service("web")).unwrap();
    let services = services(&api).await;
    let mut events = words(&services, WatchParams::default(), &version).await;
    assert_eq!(next(&mut events).await, "added web");
    api.patch("services", "default/web", &json!({"spec": {"type": "NodePort"}}))
        .unwrap();
    assert_eq!(next(&mut events).await, "modified web");
    api.delete("services", "default/web").unwrap();
    assert_eq!(next(&mut events).await, "deleted web");
    assert_eq!(api.watches("services"), 1);
    assert_eq!(api.requests(Verb::Watch, "services"), 1);
    drop(events);
    until("the watch is closed", || api.watches("services") == 0).await;
}

#[tokio::test]
async fn objects_come_into_a_selector_and_leave_it() {
    let api = ApiServer::on_loopback().unwrap();
    api.create(service("web")).unwrap();
    let services = services(&api).await;
    let params = WatchParams::default().labels("!hidden");
    let mut events = words(&services, params, &api.version().to_string()).await;
    let label = |value| json!({"metadata": {"labels": {"hidden": value}}});
    api.patch("services", "default/web", &label(Some("yes"))).unwrap();
    api.patch("services", "default/web", &json!({"spec": {"type": "NodePort"}}))
        .unwrap();
    api.patch("services", "default/web", &label(None)).unwrap();
    api.patch("services", "default/web", &label(Some("yes"))).unwrap();
    api.delete("services", "default/web").unwrap();
    api.create(service("end")).unwrap();
    for expected in ["deleted web", "added web", "deleted web", "added end"] {
        assert_eq!(next(&mut events).await, expected);
    }
}

#[tokio::test]
async fn what_leaves_a_selector_is_shown_as_it_last_matched() {
    let api = ApiServer::on_loopback().unwrap();
    api.create(service("web")).unwrap();
    let services = services(&api).await;
    let params = WatchParams::default().labels("!hidden");
    let mut events = services
        .watch(&params, &api.version().to_string())
        .await
        .unwrap()
        .boxed();
    api.patch(
        "services",
        "default/web",
        &json!({"metadata": {"labels": {"hidden": ""}}}),
    )
    .unwrap();
    let kube::core::WatchEvent::Deleted(shown) = next(&mut events).await.unwrap() else {
        panic!("not deleted");
    };
    assert_eq!(shown.metadata.labels, None);
    assert_eq!(shown.metadata.resource_version, Some(api.version().to_string()));
}

#[tokio::test]
async fn version_zero_shows_what_is_there_first() {
    let api = ApiServer::on_loopback().unwrap();
    api.create(service("web")).unwrap();
    let services = services(&api).await;
    let mut events = words(&services, WatchParams::default(), "0").await;
    assert_eq!(next(&mut events).await, "added web");
}

#[tokio::test]
async fn a_watch_from_a_forgotten_version_is_told_so() {
    let api = ApiServer::on_loopback().unwrap();
    let version = api.version().to_string();
    api.create(service("web")).unwrap();
    api.compact();
    let services = services(&api).await;
    let mut events = words(&services, WatchParams::default(), &version).await;
    assert_eq!(next(&mut events).await, "error 410 Expired");
    assert_eq!(soon(events.next()).await, None);
}

#[tokio::test]
async fn bookmarks_carry_the_version_of_the_whole_store() {
    let api = ApiServer::on_loopback().unwrap();
    let services = services(&api).await;
    let mut events = services
        .watch(&WatchParams::default(), &api.version().to_string())
        .await
        .unwrap()
        .boxed();
    until("it watches", || api.watches("services") == 1).await;
    api.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}}))
        .unwrap();
    api.bookmarks_every(Duration::from_secs(3600));
    let kube::core::WatchEvent::Bookmark(bookmark) = next(&mut events).await.unwrap() else {
        panic!("no bookmark");
    };
    assert_eq!(bookmark.metadata.resource_version, api.version().to_string());
}

#[tokio::test]
async fn a_watch_ends_when_its_time_is_over_with_a_bookmark() {
    let api = ApiServer::on_loopback().unwrap();
    let services = services(&api).await;
    let events = words(&services, WatchParams::default().timeout(1), "1").await;
    let all: Vec<String> = soon(events.collect()).await;
    assert_eq!(all, ["bookmark"]);
    let without = WatchParams::default().timeout(1).disable_bookmarks();
    let all: Vec<String> = soon(words(&services, without, "1").await.collect()).await;
    assert!(all.is_empty(), "{all:?}");
}

#[tokio::test]
async fn a_streaming_list_ends_with_its_bookmark() {
    let api = ApiServer::on_loopback().unwrap();
    api.create(service("a")).unwrap();
    api.create(service("b")).unwrap();
    let services = services(&api).await;
    let params = WatchParams::default().initial_events();
    let mut events = words(&services, params, "0").await;
    for expected in ["added a", "added b", "initial end"] {
        assert_eq!(next(&mut events).await, expected);
    }
    api.delete("services", "default/a").unwrap();
    assert_eq!(next(&mut events).await, "deleted a");
}

/// A watcher's event in a word.
fn word(event: watcher::Event<Service>) -> String {
    let name = |service: Service| service.metadata.name.unwrap_or_default();
    match event {
        watcher::Event::Init => "init".to_owned(),
        watcher::Event::InitApply(service) => format!("there {}", name(service)),
        watcher::Event::InitDone => "done".to_owned(),
        watcher::Event::Apply(service) => format!("apply {}", name(service)),
        watcher::Event::Delete(service) => format!("delete {}", name(service)),
    }
}

#[tokio::test]
async fn a_watcher_follows_in_both_ways_of_listing() {
    for config in [
        watcher::Config::default().page_size(2),
        watcher::Config::default().streaming_lists(),
        watcher::Config::default().any_semantic(),
    ] {
        let api = ApiServer::on_loopback().unwrap();
        for name in ["a", "b", "c"] {
            api.create(service(name)).unwrap();
        }
        let watching = watcher(services(&api).await, config.clone())
            .default_backoff()
            .map_ok(word);
        let mut events = Box::pin(watching);
        for expected in ["init", "there a", "there b", "there c", "done"] {
            assert_eq!(next(&mut events).await.unwrap(), expected, "{config:?}");
        }
        api.create(service("d")).unwrap();
        assert_eq!(next(&mut events).await.unwrap(), "apply d", "{config:?}");
        api.delete("services", "default/d").unwrap();
        assert_eq!(next(&mut events).await.unwrap(), "delete d", "{config:?}");
        // Its version is forgotten: it lists anew.
        api.expire_watches(None);
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last| last != "done") {
            // The error of the watch comes first.
            if let Ok(word) = next(&mut events).await {
                seen.push(word);
            }
        }
        assert_eq!(
            seen,
            ["init", "there a", "there b", "there c", "done"],
            "{config:?}"
        );
    }
}
