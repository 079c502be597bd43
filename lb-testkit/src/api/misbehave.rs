//! Misbehaviour as tests order it.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    faults::{Order, OrderId},
    objects::{edit, key},
    resources,
    server::ApiServer,
    state::End,
    store::{Object, What, with_version},
};
use crate::error::{Error, Result};

/// Changes of a burst that are made at once.
const AT_ONCE: u64 = 200;
/// Changes that watches may be behind before a burst waits for them.
const BEHIND: u64 = 2_000;
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(1);
/// How long watches may take for what a burst waits for.
const PATIENCE: Duration = Duration::from_secs(60);

type Seen = Arc<Object>;

impl ApiServer {
    /// Orders a fault, for requests from now on.
    pub fn order(&self, order: Order) -> OrderId {
        self.shared.change(|state| state.faults.add(order))
    }

    /// Lifts an order; what it held back goes on. It does nothing if the order was lifted before.
    pub fn lift(&self, id: OrderId) {
        self.shared.change(|state| state.lift(id));
    }

    /// Lifts all orders.
    pub fn lift_all(&self) {
        self.shared.change(|state| {
            for id in state.faults.ids() {
                state.lift(id);
            }
        });
    }

    /// Forgets all changes so far: watches and pages of lists that begin at an older version get 410. Open watches that
    /// have seen all changes go on.
    pub fn compact(&self) {
        self.shared.change(|state| state.store.compact());
    }

    /// Remembers this many changes, 20,000 at first; watches that are behind by more get 410.
    pub fn keep_history(&self, changes: usize) {
        self.shared.change(|state| state.store.keep(changes));
    }

    /// Ends the open watches of a resource, or all, as when their time is over.
    ///
    /// # Panics
    ///
    /// If the server has no such resource.
    pub fn end_watches(&self, resource: Option<&str>) {
        self.end(resource, End::Close);
    }

    /// Ends the open watches of a resource, or all, with the error that their version is too old (410).
    ///
    /// # Panics
    ///
    /// If the server has no such resource.
    pub fn expire_watches(&self, resource: Option<&str>) {
        self.end(resource, End::Expired);
    }

    /// Ends the open watches of a resource, or all, in the middle of a line, with their connections.
    ///
    /// # Panics
    ///
    /// If the server has no such resource.
    pub fn tear_watches(&self, resource: Option<&str>) {
        self.end(resource, End::Torn);
    }

    fn end(&self, resource: Option<&str>, end: End) {
        let id = resource.map(resources::named);
        self.shared.change(|state| state.end_watches(id, end));
    }

    /// Has all open watches that want bookmarks send one, and later ones each time nothing was to tell for this long.
    pub fn bookmarks_every(&self, time: Duration) {
        self.shared.change(|state| {
            state.bookmarks = time;
            for watch in state.watches.values_mut() {
                watch.bookmark = true;
            }
        });
    }

    /// Shows the last change of an object to watches once more: an event that comes twice.
    ///
    /// # Errors
    ///
    /// If the history has no change of it.
    ///
    /// # Panics
    ///
    /// If the server has no such resource.
    pub fn repeat(&self, resource: &str, name: &str) -> Result<()> {
        self.replay(resource, name, |before, after, seen| match (before, after) {
            (_, None) => Some(("DELETED", seen)),
            (None, Some(after)) => Some(("ADDED", after)),
            (Some(_), Some(after)) => Some(("MODIFIED", after)),
        })
    }

    /// Shows an object to watches as it was before its last change: an event out of order, of an older version.
    ///
    /// # Errors
    ///
    /// If the history has no change of it, or it was not there before.
    ///
    /// # Panics
    ///
    /// If the server has no such resource.
    pub fn show_older(&self, resource: &str, name: &str) -> Result<()> {
        self.replay(resource, name, |before, _, _| Some(("MODIFIED", before?)))
    }

    /// Makes up an event (`ADDED`, `MODIFIED`, `DELETED`) of an object of some version, which is stored nowhere.
    ///
    /// # Panics
    ///
    /// If the server has no such resource.
    pub fn make_up(&self, resource: &str, kind: &'static str, version: u64, object: &Value) {
        let id = resources::named(resource);
        self.shared
            .change(|state| state.store.make_up(id, kind, with_version(object, version)));
    }

    fn replay(
        &self,
        resource: &str,
        name: &str,
        choose: impl Fn(Option<Seen>, Option<Seen>, Seen) -> Option<(&'static str, Seen)>,
    ) -> Result<()> {
        let id = resources::named(resource);
        let wanted = key(name);
        self.shared.change(|state| {
            let change = state.store.last_change(id, &wanted);
            let chosen = change.and_then(|what| match what {
                What::Stored { before, after, seen } => choose(before.clone(), after.clone(), seen.clone()),
                What::MadeUp { .. } => None,
            });
            let (kind, object) = chosen.ok_or_else(|| {
                Error::unexpected(
                    &format!("{resource} {name}"),
                    "there is no change of it to show again",
                )
            })?;
            state.store.make_up(id, kind, object);
            Ok(())
        })
    }

    /// Makes `events` changes of objects that are there, as fast as watches take them: none comes to be behind by much
    /// more than two thousand changes. `change` makes the change of a number: resource, name, and what becomes of the object.
    ///
    /// # Errors
    ///
    /// If an object is not there, or watches take nothing for a minute.
    ///
    /// # Panics
    ///
    /// If the server has no such resource.
    pub fn burst(
        &self,
        events: u64,
        mut change: impl FnMut(u64) -> (&'static str, String, Value),
    ) -> Result<()> {
        let mut number = 0;
        while number < events {
            let end = (number + AT_ONCE).min(events);
            self.shared.change(|state| {
                for number in number..end {
                    let (resource, name, patch) = change(number);
                    edit(state, resource, &name, |object| json_patch::merge(object, &patch))?;
                }
                Ok::<_, Error>(())
            })?;
            number = end;
            self.wait_for_watches(BEHIND)?;
        }
        self.wait_for_watches(0)
    }

    /// Waits until all open watches that may show something are behind by this many changes at most.
    fn wait_for_watches(&self, behind: u64) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let slowest = self.shared.look(|state| {
                let taking = state.watches.values().filter(|watch| !watch.mute);
                let slowest = taking.map(|watch| watch.position).min();
                slowest.map_or(0, |position| state.store.version().saturating_sub(position))
            });
            if slowest <= behind {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(Error::unexpected(
                    "a watch of the test API server",
                    format!("it is behind by {slowest} changes and does not take them"),
                ));
            }
            thread::sleep(POLL);
        }
    }
}
