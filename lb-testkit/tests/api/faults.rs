//! Misbehaviour.

use std::{io::Read as _, net::TcpStream, time::Duration};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    api::{ListParams, WatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use lb_testkit::api::{ApiServer, Fault, Order, Verb};
use serde_json::json;

use crate::{client, next, service, soon, told, until};

async fn services(api: &ApiServer) -> Api<Service> {
    Api::all(client(api).await)
}

/// The events of a watch from now on, each in a word, until it ends; a broken stream is the last word.
async fn words(api: &ApiServer) -> impl futures_util::Stream<Item = String> + Unpin + use<> {
    let version = api.version().to_string();
    let services = services(api).await;
    let stream = services
        .watch(&WatchParams::default().timeout(290), &version)
        .await
        .unwrap();
    Box::pin(stream.map(|event| event.map_or_else(|error| format!("broken: {error}"), told)))
}

fn patch(number: u64) -> serde_json::Value {
    json!({"metadata": {"labels": {"number": number.to_string()}}})
}

#[tokio::test]
async fn failures_are_told_with_their_code_as_often_as_ordered() {
    let api = ApiServer::on_loopback().unwrap();
    let services = services(&api).await;
    let order = |code| {
        let fault = Fault::Status {
            code,
            retry_after: Some(0),
        };
        Order::new(fault).verb(Verb::List).resource("services").times(1)
    };
    for ordered in [500, 410] {
        api.order(order(ordered));
        match services.list(&ListParams::default()).await {
            Err(kube::Error::Api(status)) => {
                assert_eq!(status.code, ordered);
                assert_eq!(status.details.unwrap().retry_after_seconds, 0);
            }
            other => panic!("{other:?}"),
        }
        services.list(&ListParams::default()).await.unwrap();
    }
    // These the client itself tries again.
    for ordered in [429, 503] {
        let before = api.requests(Verb::List, "services");
        api.order(order(ordered));
        services.list(&ListParams::default()).await.unwrap();
        assert_eq!(api.requests(Verb::List, "services"), before + 2);
    }
}

#[tokio::test]
async fn a_list_that_hangs_is_answered_when_the_order_is_lifted() {
    let api = ApiServer::on_loopback().unwrap();
    api.create(service("web")).unwrap();
    let services = services(&api).await;
    let id = api.order(Order::new(Fault::Hang).verb(Verb::List));
    let asked = tokio::spawn(async move { services.list(&ListParams::default()).await });
    until("the list is asked for", || {
        api.requests(Verb::List, "services") == 1
    })
    .await;
    assert!(!asked.is_finished());
    api.lift(id);
    assert_eq!(soon(asked).await.unwrap().unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_mute_watch_begins_and_tells_nothing_until_the_order_is_lifted() {
    let api = ApiServer::on_loopback().unwrap();
    let id = api.order(Order::new(Fault::Mute).resource("services"));
    let mut events = words(&api).await;
    api.create(service("web")).unwrap();
    let early = tokio::time::timeout(Duration::from_millis(50), events.next()).await;
    assert!(early.is_err(), "{early:?}");
    api.lift(id);
    assert_eq!(next(&mut events).await, "added web");
}

#[tokio::test]
async fn silence_holds_open_watches_and_new_requests() {
    let api = ApiServer::on_loopback().unwrap();
    let mut events = words(&api).await;
    let id = api.order(Order::new(Fault::Silence));
    api.create(service("web")).unwrap();
    let services = services(&api).await;
    let asked = tokio::spawn(async move { services.list(&ListParams::default()).await });
    until("the list is asked for", || {
        api.requests(Verb::List, "services") == 1
    })
    .await;
    let early = tokio::time::timeout(Duration::from_millis(50), events.next()).await;
    assert!(early.is_err(), "{early:?}");
    assert!(!asked.is_finished());
    assert_eq!(api.watches("services"), 1);
    api.lift(id);
    assert_eq!(next(&mut events).await, "added web");
    assert!(soon(asked).await.unwrap().is_ok());
}

#[tokio::test]
async fn watches_expire_at_their_start_and_later() {
    let api = ApiServer::on_loopback().unwrap();
    api.order(Order::new(Fault::Expired).times(1).verb(Verb::Watch));
    assert_eq!(next(&mut words(&api).await).await, "error 410 Expired");
    let mut events = words(&api).await;
    api.create(service("web")).unwrap();
    assert_eq!(next(&mut events).await, "added web");
    api.expire_watches(Some("services"));
    assert_eq!(next(&mut events).await, "error 410 Expired");
    assert_eq!(soon(events.next()).await, None);
}

#[tokio::test]
async fn streams_break_in_the_middle_of_a_line() {
    let api = ApiServer::on_loopback().unwrap();
    let mut open = words(&api).await;
    until("it watches", || api.watches("services") == 1).await;
    api.tear_watches(None);
    // kube takes a stream that breaks for one that ends.
    assert_eq!(soon(open.next()).await, None);
    api.order(Order::new(Fault::Torn).times(1).verb(Verb::Watch));
    let mut torn = words(&api).await;
    api.create(service("web")).unwrap();
    assert_eq!(soon(torn.next()).await, None);
    api.order(Order::new(Fault::Torn).times(1).verb(Verb::List));
    let list = services(&api).await.list(&ListParams::default()).await;
    assert!(list.is_err(), "{list:?}");
    until("all is closed", || api.watches("services") == 0).await;
}

#[tokio::test]
async fn slow_streams_arrive_whole() {
    let api = ApiServer::on_loopback().unwrap();
    api.order(Order::new(Fault::Slow(Duration::from_micros(10))));
    let mut events = words(&api).await;
    api.create(service("web")).unwrap();
    assert_eq!(next(&mut events).await, "added web");
    let list = services(&api).await.list(&ListParams::default()).await.unwrap();
    assert_eq!(list.items.len(), 1);
}

#[tokio::test]
async fn requests_are_cut_without_an_answer() {
    let api = ApiServer::on_loopback().unwrap();
    let services = services(&api).await;
    api.order(Order::new(Fault::Reset).times(1));
    let error = services.list(&ListParams::default()).await.unwrap_err();
    assert!(!matches!(error, kube::Error::Api(_)), "{error}");
    services.list(&ListParams::default()).await.unwrap();
}

#[tokio::test]
async fn after_a_short_list_clients_list_again() {
    let api = ApiServer::on_loopback().unwrap();
    for name in ["a", "b", "c"] {
        api.create(service(name)).unwrap();
    }
    let id = api.order(Order::new(Fault::Short(1)).resource("services"));
    let watching = watcher(services(&api).await, watcher::Config::default()).default_backoff();
    let (reader, writer) = kube::runtime::reflector::store();
    let mut events = Box::pin(kube::runtime::reflector(writer, watching));
    while !matches!(next(&mut events).await, Ok(watcher::Event::InitDone)) {}
    assert_eq!(reader.state().len(), 1);
    // The watch begins now, or has begun.
    api.lift(id);
    while !matches!(next(&mut events).await, Ok(watcher::Event::InitDone)) {}
    assert_eq!(reader.state().len(), 3);
}

#[tokio::test]
async fn events_come_twice_and_out_of_order() {
    let api = ApiServer::on_loopback().unwrap();
    let mut events = Box::pin(
        services(&api)
            .await
            .watch(&WatchParams::default(), &api.version().to_string())
            .await
            .unwrap(),
    );
    api.create(service("web")).unwrap();
    let first = api.version();
    api.patch("services", "default/web", &patch(1)).unwrap();
    let second = api.version();
    api.repeat("services", "default/web").unwrap();
    api.show_older("services", "default/web").unwrap();
    api.patch("services", "default/web", &patch(2)).unwrap();
    let third = api.version();
    api.show_older("services", "default/web").unwrap();
    let mut versions = Vec::new();
    for _ in 0..6 {
        match next(&mut events).await.unwrap() {
            kube::core::WatchEvent::Added(one) | kube::core::WatchEvent::Modified(one) => {
                versions.push(one.metadata.resource_version.unwrap().parse::<u64>().unwrap());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(versions, [first, second, second, first, third, second]);

    api.order(Order::new(Fault::Twice).resource("services"));
    api.delete("services", "default/web").unwrap();
    for _ in 0..2 {
        assert_eq!(told(next(&mut events).await.unwrap()), "deleted web");
    }
}

#[tokio::test]
async fn connections_are_refused_and_taken_again() {
    let api = ApiServer::on_loopback().unwrap();
    let mut events = words(&api).await;
    until("it watches", || api.watches("services") == 1).await;
    let fresh = services(&api).await;
    api.refuse();
    assert!(fresh.list(&ListParams::default()).await.is_err());
    // What was open stays.
    api.create(service("web")).unwrap();
    assert_eq!(next(&mut events).await, "added web");
    api.cut().unwrap();
    assert_eq!(api.connections(), 0);
    assert_eq!(soon(events.next()).await, None);
    api.accept_again().unwrap();
    assert_eq!(fresh.list(&ListParams::default()).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_watcher_comes_through_a_restart() {
    let api = ApiServer::on_loopback().unwrap();
    api.create(service("a")).unwrap();
    let watching = watcher(services(&api).await, watcher::Config::default())
        .default_backoff()
        .touched_objects();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let watching = tokio::spawn(watching.for_each(move |event| {
        // Errors while it is away are retried.
        if let Ok(service) = event {
            let _ = tell.send(service.metadata.name.unwrap());
        }
        std::future::ready(())
    }));
    assert_eq!(soon(told.recv()).await.unwrap(), "a");
    until("it watches", || api.watches("services") == 1).await;
    api.refuse();
    api.cut().unwrap();
    api.create(service("b")).unwrap();
    api.accept_again().unwrap();
    while soon(told.recv()).await.unwrap() != "b" {}
    watching.abort();
}

#[tokio::test]
async fn a_dropped_server_leaves_no_port_and_no_connection() {
    let api = ApiServer::on_loopback().unwrap();
    let addr = api.url().strip_prefix("https://").unwrap().to_owned();
    let mut open = TcpStream::connect(&addr).unwrap();
    until("it is taken", || api.connections() == 1).await;
    drop(api);
    assert!(matches!(open.read(&mut [0]), Ok(0) | Err(_)));
    assert!(TcpStream::connect(&addr).is_err());
}

#[tokio::test]
async fn a_burst_is_taken_to_its_end() {
    const EVENTS: u64 = 10_000;
    let api = ApiServer::on_loopback().unwrap();
    for name in ["a", "b"] {
        api.create(service(name)).unwrap();
    }
    // Less than the burst: a watch that came to be far behind would get 410.
    api.keep_history(5_000);
    let events = words(&api).await;
    until("it watches", || api.watches("services") == 1).await;
    let counting = tokio::spawn(events.take(EVENTS as usize).collect::<Vec<_>>());
    let api = tokio::task::spawn_blocking(move || {
        api.burst(EVENTS, |number| {
            (
                "services",
                format!("default/{}", ["a", "b"][number as usize % 2]),
                patch(number),
            )
        })
        .unwrap();
        api
    });
    let counted = soon(counting).await.unwrap();
    assert_eq!(counted.len() as u64, EVENTS);
    assert!(counted.iter().all(|word| word.starts_with("modified")));
    drop(api.await.unwrap());
}
