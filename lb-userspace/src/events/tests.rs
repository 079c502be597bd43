//! Events as the API server gets them: from the real client, over a real socket.

use std::{net::Ipv4Addr, sync::mpsc, thread, time::Duration};

use axum::{Json, Router, extract::State, http::Method, http::Uri, routing::any};
use serde_json::{Value, json};

use super::*;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

fn name() -> ServiceName {
    ServiceName {
        namespace: "ns".into(),
        name: "web".into(),
    }
}

fn event(note: &str) -> ServiceEvent {
    ServiceEvent::of_health_check(&name(), "the-uid", "n1", 31_000, note)
}

type Requests = mpsc::Sender<(Method, String, Value)>;

async fn take(
    State(requests): State<Requests>,
    method: Method,
    uri: Uri,
    Json(body): Json<Value>,
) -> Json<Value> {
    requests
        .send((method, uri.path().to_owned(), body.clone()))
        .unwrap();
    Json(body)
}

/// Sends the events to a server that takes all of them; returns the requests that it got.
fn sent(events: Vec<ServiceEvent>, expected: usize) -> Vec<(Method, String, Value)> {
    let (requests, got) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .await
                .unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let router = Router::new().fallback(any(take)).with_state(requests);
            tokio::spawn(crate::health::http::serve(listener, router));
            let client = kube::Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
            let (sender, queue) = tokio::sync::mpsc::channel(QUEUE);
            for event in events {
                sender.try_send(event).unwrap();
            }
            drop(sender);
            send(queue, Some(Recorder::new(client, "n1")), |outcome| {
                assert_eq!(outcome, Outcome::Sent);
            })
            .await;
        });
    });
    (0..expected)
        .map(|_| got.recv_timeout(PATIENCE).unwrap())
        .collect()
}

#[test]
fn an_event_names_the_service_the_node_and_the_reason() {
    let requests = sent(vec![event("listen on 192.0.2.1:31000: address in use")], 1);
    let (method, path, body) = &requests[0];
    assert_eq!(*method, Method::POST);
    assert_eq!(path, "/apis/events.k8s.io/v1/namespaces/ns/events");
    assert_eq!(body["reason"], "FailedToStartServiceHealthcheck");
    assert_eq!(body["action"], "Listen");
    assert_eq!(body["type"], "Warning");
    assert_eq!(body["reportingController"], "fairlead");
    assert_eq!(body["reportingInstance"], "n1");
    let regarding = json!({
        "apiVersion": "v1", "kind": "Service", "namespace": "ns", "name": "web", "uid": "the-uid",
    });
    assert_eq!(body["regarding"], regarding);
    assert_eq!(
        body["note"],
        "node n1 failed to start healthcheck \"ns/web\" on port 31000: listen on 192.0.2.1:31000: address in use"
    );
}

#[test]
fn the_same_again_becomes_a_count() {
    let requests = sent(vec![event("a"), event("a"), event("a")], 3);
    let methods: Vec<_> = requests.iter().map(|(method, _, _)| method.clone()).collect();
    assert_eq!(methods, [Method::POST, Method::PATCH, Method::PATCH]);
    let (_, _, last) = &requests[2];
    assert_eq!(last["series"]["count"], 3);
}

#[test]
fn a_note_is_cut_at_what_the_api_server_takes() {
    let long = event(&"ä".repeat(2_000));
    assert!(long.note().len() <= NOTE_BYTES && long.note().len() > NOTE_BYTES - 4);
    assert_eq!(event("short").note(), event("short").note);
}

#[test]
fn what_is_good_to_know_is_no_news_at_a_start_and_warnings_are() {
    let sctp = Notice::SctpWithoutNode { service: name() };
    let range = Notice::BadSourceRange {
        service: name(),
        range: "x".into(),
    };
    for (notice, at_start) in [(sctp, false), (range, true)] {
        let event = ServiceEvent::of_notice(&notice, "the-uid");
        assert_eq!(event.is_news(true), at_start, "{notice}");
        assert!(event.is_news(false), "{notice}");
    }
}
