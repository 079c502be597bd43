//! Watches: a stream of lines, each an event.

use std::{sync::Arc, time::Duration};

use hyper::body::Bytes;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::{
    body::{Answer, Gone, Pen},
    faults::Plan,
    request::{Query, Target},
    resources::Resource,
    selectors::Selector,
    state::{End, OpenWatch, Shared, State},
    status::{Outcome, Status},
    store::{Change, Object, What, with_version},
};

/// How long a watch lasts whose client does not say.
const LASTS: Duration = Duration::from_secs(1800);
/// Events that are taken from the history at once.
const AT_ONCE: usize = 256;
/// What marks the bookmark behind the initial events.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// A watch that was asked for.
#[derive(Debug)]
struct Watch {
    shared: Arc<Shared>,
    id: u64,
    target: Target,
    selector: Selector,
    bookmarks: bool,
    plan: Plan,
    deadline: Instant,
    next_bookmark: Instant,
}

/// What a watch does next.
enum Step {
    /// Nothing to tell, or nothing may be told until something changes.
    Wait {
        silent: bool,
    },
    Lines(Vec<Bytes>, u64),
    Bookmark(u64),
    End(End),
}

/// Begins a watch.
///
/// # Errors
///
/// 400 and 422 for what makes no sense.
pub(crate) fn watch(shared: &Arc<Shared>, target: Target, query: &Query, plan: Plan) -> Outcome<Answer> {
    let (labels, fields) = (query.text("labelSelector"), query.text("fieldSelector"));
    let selector = Selector::parse(labels, fields, target.resource())?;
    let version = query.number("resourceVersion")?.unwrap_or(0);
    let streaming = query.flag("sendInitialEvents");
    let bookmarks = query.flag("allowWatchBookmarks");
    let matching = query.text("resourceVersionMatch");
    if streaming && (matching != "NotOlderThan" || !bookmarks) || !streaming && !matching.is_empty() {
        return Err(Status::new(
            422,
            "Invalid",
            "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents goes with resourceVersionMatch NotOlderThan \
             and allowWatchBookmarks, and resourceVersionMatch with sendInitialEvents alone",
        ));
    }
    let lasts = query
        .number("timeoutSeconds")?
        .filter(|seconds| *seconds > 0)
        .map_or(LASTS, Duration::from_secs);
    let wants_all = streaming || version == 0;
    let (id, initial, every) = shared.change(|state| {
        let initial = wants_all.then(|| initial_lines(state, &target, &selector, streaming, &plan));
        let stale = !wants_all && version < state.fresh_since[target.id];
        state.watches_so_far += 1;
        let id = state.watches_so_far;
        state.watches.insert(
            id,
            OpenWatch {
                resource: target.id,
                position: if wants_all { state.store.version() } else { version },
                mute: !plan.mute.is_empty(),
                end: (plan.expired || stale).then_some(End::Expired),
                bookmark: false,
            },
        );
        (id, initial.unwrap_or_default(), state.bookmarks)
    });
    let (pen, body) = Pen::new(plan.slow);
    let now = Instant::now();
    let watch = Watch {
        shared: shared.clone(),
        id,
        target,
        selector,
        bookmarks,
        plan,
        deadline: now + lasts,
        next_bookmark: now + every,
    };
    tokio::spawn(watch.run(pen, initial));
    Ok(body)
}

/// The objects there are, as events; behind them the bookmark that ends them, if it is wanted.
fn initial_lines(
    state: &State,
    target: &Target,
    selector: &Selector,
    bookmark: bool,
    plan: &Plan,
) -> Vec<Bytes> {
    let resource = target.resource();
    let objects = state.store.objects(target.id).iter();
    let mut lines: Vec<Bytes> = objects
        .filter(|((namespace, _), object)| is_meant(target, selector, namespace, object))
        .take(plan.short.unwrap_or(usize::MAX))
        .map(|(_, object)| line("ADDED", resource, object))
        .collect();
    if bookmark {
        lines.push(bookmark_line(resource, state.store.version(), true));
    }
    lines
}

impl Watch {
    async fn run(mut self, pen: Pen, initial: Vec<Bytes>) {
        tokio::select! {
            _ = self.drive(&pen, initial) => {}
            () = pen.gone() => {}
        }
    }

    async fn drive(&mut self, pen: &Pen, initial: Vec<Bytes>) -> Result<(), Gone> {
        let mut changes = self.shared.changes();
        let mut initial = Some(initial).filter(|lines| !lines.is_empty());
        loop {
            // Before the look, so that no change between the two is missed.
            changes.mark_unchanged();
            let step = self.shared.look(|state| match initial.take() {
                Some(lines) if !self.is_silent(state) => Step::Lines(lines, state.watches[&self.id].position),
                Some(lines) => {
                    initial = Some(lines);
                    Step::Wait { silent: true }
                }
                None => self.step(state),
            });
            match step {
                Step::Wait { silent } => {
                    let until = if silent {
                        Instant::now() + LASTS
                    } else if self.bookmarks {
                        self.deadline.min(self.next_bookmark)
                    } else {
                        self.deadline
                    };
                    tokio::select! {
                        _ = changes.changed() => {}
                        () = sleep_until(until) => {}
                    }
                }
                Step::Lines(lines, position) => self.tell(pen, lines, position).await?,
                Step::Bookmark(version) => {
                    self.next_bookmark = Instant::now() + self.shared.look(|state| state.bookmarks);
                    pen.write(bookmark_line(self.target.resource(), version, false))
                        .await?;
                }
                Step::End(end) => return self.end(pen, end).await,
            }
        }
    }

    fn is_silent(&self, state: &State) -> bool {
        state.faults.silent(self.target.id, self.plan.door) || state.faults.any(&self.plan.mute)
    }

    /// What is to be done now.
    fn step(&self, state: &mut State) -> Step {
        let silent = self.is_silent(state);
        let version = state.store.version();
        let twice = self.plan.twice || state.faults.twice(self.target.id, self.plan.door);
        let Some(own) = state.watches.get_mut(&self.id) else {
            return Step::End(End::Close);
        };
        own.mute = silent;
        if let Some(end) = own.end.filter(|end| !silent || *end == End::Torn) {
            return Step::End(end);
        }
        if silent {
            return Step::Wait { silent };
        }
        if own.position < version {
            let Ok(changes) = state.store.since(own.position) else {
                return Step::End(End::Expired);
            };
            let mut position = version;
            let mut lines = Vec::new();
            for (count, change) in changes.enumerate() {
                if count == AT_ONCE {
                    position = change.version - 1;
                    break;
                }
                if let Some(line) = self.line(change) {
                    if twice {
                        lines.push(line.clone());
                    }
                    lines.push(line);
                }
            }
            if !lines.is_empty() || position < version {
                return Step::Lines(lines, position);
            }
            own.position = position;
        }
        let now = Instant::now();
        // The last bookmark comes when the time is over, so that the next watch begins where this one ended.
        if self.bookmarks
            && (std::mem::take(&mut own.bookmark) || now >= self.next_bookmark.min(self.deadline))
        {
            if now >= self.deadline {
                own.end = Some(End::Close);
            }
            return Step::Bookmark(own.position);
        }
        if now >= self.deadline {
            return Step::End(End::Close);
        }
        Step::Wait { silent }
    }

    async fn tell(&self, pen: &Pen, lines: Vec<Bytes>, position: u64) -> Result<(), Gone> {
        if self.plan.torn
            && let Some(line) = lines.first()
        {
            pen.tear(line.clone()).await;
            return Err(Gone);
        }
        if !lines.is_empty() {
            pen.write(lines.concat().into()).await?;
        }
        self.shared.change(|state| {
            if let Some(own) = state.watches.get_mut(&self.id) {
                own.position = position;
            }
        });
        Ok(())
    }

    async fn end(&self, pen: &Pen, end: End) -> Result<(), Gone> {
        let (position, compacted) = self.shared.look(|state| {
            let position = state.watches.get(&self.id).map_or(0, |own| own.position);
            (position, state.store.compacted())
        });
        match end {
            End::Close => Ok(()),
            End::Expired => {
                let status = Status::too_old(position, compacted).body();
                let event = json!({"type": "ERROR", "object": status});
                pen.write(format!("{event}\n").into()).await
            }
            End::Torn => {
                pen.tear(bookmark_line(self.target.resource(), position, false))
                    .await;
                Ok(())
            }
        }
    }

    /// A change as this watch shows it: what comes to match is new to it, what no longer matches is gone.
    fn line(&self, change: &Change) -> Option<Bytes> {
        if change.resource != self.target.id {
            return None;
        }
        let resource = self.target.resource();
        let meant = |object: &Arc<Object>| {
            let namespace = object.value["metadata"]["namespace"].as_str().unwrap_or_default();
            is_meant(&self.target, &self.selector, namespace, object)
        };
        match &change.what {
            What::MadeUp { kind, object } => meant(object).then(|| line(kind, resource, object)),
            What::Stored { before, after, seen } => {
                let was = before.as_ref().is_some_and(meant);
                let is = after.as_ref().is_some_and(meant);
                match (was, is) {
                    (false, false) => None,
                    (false, true) => Some(line("ADDED", resource, seen)),
                    (true, true) => Some(line("MODIFIED", resource, seen)),
                    (true, false) if after.is_none() => Some(line("DELETED", resource, seen)),
                    // The object as it last matched, with the version of the change.
                    (true, false) => {
                        let gone = with_version(&before.as_ref()?.value, change.version);
                        Some(line("DELETED", resource, &gone))
                    }
                }
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.change(|state| state.watches.remove(&self.id));
    }
}

fn is_meant(target: &Target, selector: &Selector, namespace: &str, object: &Object) -> bool {
    target.namespace.as_ref().is_none_or(|one| one == namespace) && selector.matches(&object.value)
}

/// An event.
fn line(kind: &str, resource: &Resource, object: &Object) -> Bytes {
    let mut line = format!(
        "{{\"type\":\"{kind}\",\"object\":{{\"kind\":\"{}\",\"apiVersion\":\"{}\",",
        resource.kind,
        resource.api_version()
    )
    .into_bytes();
    // The object's text begins with a brace, and is never empty: it has metadata.
    line.extend_from_slice(&object.text()[1..]);
    line.extend_from_slice(b"}\n");
    line.into()
}

fn bookmark_line(resource: &Resource, version: u64, initial: bool) -> Bytes {
    let mut meta = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
    if initial {
        meta["annotations"] = json!({INITIAL_END: "true"});
    }
    let object = json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": meta});
    let event = json!({"type": "BOOKMARK", "object": object});
    format!("{event}\n").into()
}
