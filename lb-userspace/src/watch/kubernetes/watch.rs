//! Follows one kind of objects, for ever.
//!
//! kube's watcher lists, watches, and goes on after most errors. What it leaves to us:
//!
//! - A watch that cannot be started is tried again from the same version for ever; that version may be one that the server
//!   cannot serve any more without saying so. After [`MOST_FAILURES`] failures in a row a new watcher lists anew.
//! - A watch that goes on from a version and has nothing to tell looks like one that is not there. One that has begun, and has
//!   not failed for a while, works: trouble is over, and later failures are not in a row with earlier ones.
//! - A list that stops in the middle is waited for without end; after the patience given it is begun anew.
//! - Events of a version that was seen already (repeated, or out of order behind a broken proxy) are left out: a watch tells
//!   versions in rising order, and they can be compared (KEP-5504).

use std::{
    fmt::Debug,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, pin_mut};
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

use super::{
    begun::Begun,
    status::Status,
    trouble::{Trouble, may_lack},
};
use crate::{
    objects::Reader,
    watch::{Event, Kind, Object},
};

/// So many failures in a row, and the objects are listed anew.
const MOST_FAILURES: u32 = 5;

/// The longest pause between two watchers.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The server ends a watch after this time (s), and up to half as much again: not all nodes come back at once. A watch that
/// is silent for longer is taken for dead.
const WATCH_SECONDS: u32 = 120;

/// How one kind is watched.
pub(super) struct Watch<K> {
    /// The kind.
    pub(super) kind: Kind,
    /// Which objects of it.
    pub(super) labels: Option<&'static str>,
    /// Which objects of it, by their fields.
    pub(super) fields: Option<String>,
    /// Turns an object into one of ours.
    pub(super) read: fn(&mut Reader, &K) -> Object,
}

/// What all kinds share.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) client: Client,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) status: Arc<Status>,
    /// How long a list may take to go on.
    pub(super) patience: Duration,
}

/// Why a watcher is left for a new one.
enum Left {
    /// The agent does not listen any more.
    Closed,
    /// Somebody wants the objects listed anew.
    Asked,
    /// It does not get anywhere.
    Stuck,
    /// The server has no such kind, and need not have it.
    Lacking,
}

/// What outlives a watcher.
#[derive(Default)]
struct Course {
    reader: Reader,
    /// The last pause between two watchers.
    pause: Duration,
}

/// A server without a kind is asked again after this time: it may be upgraded.
const LACKING_PAUSE: Duration = Duration::from_secs(600);

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// Tells what there is and what changes, until nobody listens. `relist` asks for a new list, and ends any pause.
    pub(super) async fn follow(self, mut context: Context, relist: Arc<Notify>) {
        let (begun, mut course) = (Begun::default(), Course::default());
        context.client = begun.client(&context.client);
        loop {
            let pause = match self.watch(&context, &begun, &relist, &mut course).await {
                Left::Closed => return,
                Left::Asked => {
                    course.pause = Duration::ZERO;
                    continue;
                }
                Left::Stuck => {
                    course.pause = (2 * course.pause).clamp(Duration::from_secs(1), LONGEST_PAUSE);
                    course.pause
                }
                Left::Lacking => LACKING_PAUSE,
            };
            if timeout(pause, relist.notified()).await.is_ok() {
                course.pause = Duration::ZERO;
            }
        }
    }

    async fn watch(&self, context: &Context, begun: &Begun, relist: &Notify, course: &mut Course) -> Left {
        let api: Api<K> = Api::all(context.client.clone());
        let stream = watcher(api, self.config())
            .modify(|object| object.meta_mut().managed_fields = None)
            .default_backoff();
        pin_mut!(stream);
        begun.forget();
        let (mut failures, mut listed, mut seen) = (0, false, 0);
        loop {
            let next = async {
                if listed {
                    return Ok(stream.next().await);
                }
                timeout(context.patience, stream.next()).await
            };
            let next = tokio::select! {
                next = next => next,
                () = relist.notified() => return Left::Asked,
                () = begun.steady() => {
                    begun.forget();
                    (failures, course.pause) = (0, Duration::ZERO);
                    context.status.fine(self.kind);
                    continue;
                }
            };
            match next {
                Err(_) => {
                    context.status.trouble(self.kind, &Trouble::Silent);
                    return Left::Stuck;
                }
                Ok(None) => return Left::Stuck,
                Ok(Some(Ok(event))) => {
                    listed = !matches!(event, watcher::Event::Init | watcher::Event::InitApply(_));
                    // A list begins with each attempt, also where none succeeds.
                    if !matches!(event, watcher::Event::Init) {
                        failures = 0;
                    }
                    let Some(event) = self.event(event, &mut course.reader, &mut seen) else {
                        continue;
                    };
                    if !matches!(event, Event::Init(_)) {
                        context.status.fine(self.kind);
                    }
                    if context.events.send(event).await.is_err() {
                        return Left::Closed;
                    }
                }
                Ok(Some(Err(error))) => {
                    begun.forget();
                    if let Some(left) = self.failed(&error, &context.status, &mut failures) {
                        return left;
                    }
                }
            }
        }
    }

    /// The watcher has failed. It goes on, unless there is a reason to leave it; so many `failures` in a row are one.
    fn failed(&self, error: &watcher::Error, status: &Status, failures: &mut u32) -> Option<Left> {
        *failures += 1;
        if let Some(trouble) = Trouble::of(error) {
            status.trouble(self.kind, &trouble);
            if trouble == Trouble::Unknown && may_lack(self.kind) {
                return Some(Left::Lacking);
            }
        }
        (*failures >= MOST_FAILURES).then_some(Left::Stuck)
    }

    fn config(&self) -> watcher::Config {
        let jitter = RandomState::new().hash_one(self.kind) % u64::from(WATCH_SECONDS / 2);
        let mut config = watcher::Config::default().timeout(WATCH_SECONDS + jitter as u32);
        if let Some(labels) = self.labels {
            config = config.labels(labels);
        }
        if let Some(fields) = &self.fields {
            config = config.fields(fields);
        }
        config
    }

    /// Our event for one of kube's. None for one whose version was `seen` already; `seen` is brought up to date.
    fn event(&self, event: watcher::Event<K>, reader: &mut Reader, seen: &mut u64) -> Option<Event> {
        let mut is_new = |object: &K| {
            let version = object.meta().resource_version.as_deref();
            let Some(version) = version.and_then(|version| version.parse::<u64>().ok()) else {
                // Versions that are no numbers cannot be compared.
                return true;
            };
            let is_new = version > *seen;
            *seen = version.max(*seen);
            is_new
        };
        Some(match event {
            watcher::Event::Init => {
                *seen = 0;
                Event::Init(self.kind)
            }
            watcher::Event::InitApply(object) => {
                // A list is in the order of names.
                is_new(&object);
                Event::InitApply((self.read)(reader, &object))
            }
            watcher::Event::InitDone => Event::InitDone(self.kind),
            watcher::Event::Apply(object) => {
                is_new(&object).then(|| Event::Apply((self.read)(reader, &object)))?
            }
            watcher::Event::Delete(object) => {
                is_new(&object).then(|| Event::Delete((self.read)(reader, &object)))?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;

    use super::*;

    fn watch() -> Watch<Node> {
        Watch {
            kind: Kind::Node,
            labels: None,
            fields: Some("metadata.name=n1".into()),
            read: |reader, node| Object::Node(reader.node(node).into()),
        }
    }

    fn node(version: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some("n1".into());
        node.metadata.resource_version = Some(version.into());
        node
    }

    #[test]
    fn versions_that_were_seen_are_left_out_until_the_next_list() {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let (watch, mut reader, mut seen) = (watch(), Reader::default(), 0);
        let mut told = |event| watch.event(event, &mut reader, &mut seen).is_some();
        assert!(told(Init) && told(InitApply(node("7"))) && told(InitApply(node("5"))) && told(InitDone));
        assert!(told(Apply(node("9"))));
        assert!(!told(Apply(node("9"))), "repeated");
        assert!(!told(Apply(node("8"))), "out of order");
        assert!(told(Delete(node("10"))));
        assert!(!told(Apply(node("9"))), "older than the deletion");
        assert!(told(Apply(node("x"))), "what cannot be compared counts");
        assert!(
            told(Init) && told(InitApply(node("2"))) && told(InitDone),
            "a server may go back"
        );
        assert!(told(Apply(node("3"))));
    }

    #[test]
    fn a_watch_asks_for_its_objects_and_ends_in_time() {
        let config = watch().config();
        assert_eq!(config.field_selector.as_deref(), Some("metadata.name=n1"));
        let timeout = config.timeout.unwrap();
        assert!((WATCH_SECONDS..2 * WATCH_SECONDS).contains(&timeout), "{timeout}");
    }
}
