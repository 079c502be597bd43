//! A server that accepts everything and says nothing for five minutes: the real watch on the real client, with answers that
//! are made up behind it, and with tokio's clock, which leaps over the time in which nothing happens.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::body::Body;
use serde_json::json;
use tokio::time::Instant;

use super::{
    ApiState,
    testing::{Answer, Watched, endless, leaping, list, service, services, watched},
};
use crate::index::{Index, ServiceName};

/// How long the server says nothing.
const SILENCE: Duration = Duration::from_secs(300);
/// kube waits up to half a minute between two attempts, and an attempt may have begun in the silence.
const BACK: Duration = Duration::from_secs(60);

/// The other side.
#[derive(Debug, Default)]
struct Server {
    silent: AtomicBool,
    /// When it was asked for what.
    asked: Mutex<Vec<(Instant, String)>>,
}

impl Server {
    /// There are `mail`, `web` and `old` until the silence begins, and `new` in the place of `old` from then on.
    fn list(&self) -> Body {
        let (version, other) = if self.asked.lock().unwrap().len() > 1 {
            (9, service("new", 9))
        } else {
            (7, service("old", 6))
        };
        list(version, &[service("mail", 4), other, service("web", 5)])
    }

    /// What one that was at version 7 has missed, and then nothing more, without an end.
    fn watch(&self, query: &str) -> Body {
        let missed = [
            json!({"type": "DELETED", "object": service("old", 8)}),
            json!({"type": "ADDED", "object": service("new", 9)}),
        ];
        let is_first = self.asked.lock().unwrap().len() <= 2;
        let has_missed = !is_first && query.contains("resourceVersion=7");
        endless(if has_missed { &missed } else { &[] })
    }

    async fn answer(self: Arc<Self>, query: String) -> Answer {
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

/// Has the index follow until `end`; after each event `check` looks at its names.
async fn pump(index: &mut Index, watch: &mut Watched, end: Instant, check: impl Fn(&[&str])) {
    let take = |event| {
        index.handle(event);
        check(&names(index));
    };
    watch.told(end, take).await;
}

fn names(index: &Index) -> Vec<&str> {
    index.names().map(|name: &ServiceName| &*name.name).collect()
}

async fn five_minutes() {
    let server = Arc::new(Server::default());
    let mut watch = {
        let server = server.clone();
        watched(services(), move |query| server.clone().answer(query))
    };
    let state = watch.state.clone();
    let mut index = Index::doubting();
    let soon = Instant::now() + Duration::from_secs(1);
    pump(&mut index, &mut watch, soon, |_| {}).await;
    assert_eq!(names(&index), ["mail", "old", "web"]);
    assert_eq!(*state.borrow(), ApiState::Reached);

    server.silent.store(true, Ordering::Relaxed);
    let begin = Instant::now();
    let unchanged = |names: &[&str]| assert_eq!(names, ["mail", "old", "web"], "nothing goes for silence");
    pump(&mut index, &mut watch, begin + SILENCE, unchanged).await;
    assert!(watch.is_away(), "{state:?}");
    let asked: Vec<_> = server.asked.lock().unwrap()[2..].to_vec();
    // A watch ends after 2 to 3 minutes, and is waited for 5 s longer. From then on it is tried again, in moderation.
    let first = asked.first().expect("it asks again").0 - begin;
    assert!(
        Duration::from_secs(120) < first && first < Duration::from_secs(190),
        "{first:?}"
    );
    assert!((3..=20).contains(&asked.len()), "{asked:?}");

    server.silent.store(false, Ordering::Relaxed);
    pump(&mut index, &mut watch, Instant::now() + BACK, |names| {
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
}

#[test]
fn five_minutes_without_a_word_take_nothing_away_and_what_was_missed_comes_after_them() {
    // When a watch ends is left to chance; with it, how far the attempts have come when the server speaks again.
    for _ in 0..20 {
        leaping().block_on(five_minutes());
    }
}
