//! What requests and tests share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::{sync::watch, task::AbortHandle};

use super::{
    access::Users,
    asked::Book,
    controller::{self, Controllers},
    faults::{Faults, OrderId, Plan},
    request::Verb,
    resources::{self, RESOURCES},
    status::Outcome,
    store::{Key, Object, Store, key_of},
};

/// How often a watch that has nothing to tell tells its version, unless a test says otherwise; about what the real
/// server does.
const BOOKMARKS: Duration = Duration::from_secs(60);

/// A watch that is open.
#[derive(Debug)]
pub(crate) struct OpenWatch {
    pub(crate) resource: resources::Id,
    /// All changes up to this version were sent, or concern others.
    pub(crate) position: u64,
    /// It shows nothing, by order.
    pub(crate) mute: bool,
    /// How it is to end, once it is to.
    pub(crate) end: Option<End>,
    /// A bookmark is asked for.
    pub(crate) bookmark: bool,
}

/// How an open watch ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As when its time is over.
    Close,
    /// With the error that its version is too old.
    Expired,
    /// In the middle of a line, with the connection.
    Torn,
}

/// All that the server knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) controllers: Controllers,
    pub(crate) users: Users,
    pub(crate) faults: Faults,
    /// Requests so far.
    pub(crate) requests: BTreeMap<(Verb, resources::Id), u64>,
    /// What each user asked for.
    pub(crate) asked: Book,
    /// Connections that are open: the door that they came by, and their tasks.
    pub(crate) connections: BTreeMap<u64, (usize, AbortHandle)>,
    pub(crate) connections_so_far: u64,
    pub(crate) watches: BTreeMap<u64, OpenWatch>,
    pub(crate) watches_so_far: u64,
    pub(crate) bookmarks: Duration,
    /// For each resource the version before which lists were wrong, so that no watch may go on from one.
    pub(crate) fresh_since: [u64; RESOURCES.len()],
}

impl State {
    fn new() -> Self {
        Self {
            store: Store::new(),
            controllers: Controllers::default(),
            users: Users::default(),
            faults: Faults::default(),
            requests: BTreeMap::new(),
            asked: Book::default(),
            connections: BTreeMap::new(),
            connections_so_far: 0,
            watches: BTreeMap::new(),
            watches_so_far: 0,
            bookmarks: BOOKMARKS,
            fresh_since: [0; RESOURCES.len()],
        }
    }

    /// Stores a new object, completed, and what controllers make of it.
    pub(crate) fn create(&mut self, resource: resources::Id, mut value: Value) -> Outcome<Arc<Object>> {
        self.store.prepare(resource, &mut value)?;
        controller::admit(self, resource, None, &mut value)?;
        let stored = self.store.insert(resource, value);
        controller::settle(self, resource, None, Some(&stored));
        Ok(stored)
    }

    /// Replaces an object, completed, and what controllers make of it.
    pub(crate) fn update(&mut self, resource: resources::Id, mut value: Value) -> Outcome<Arc<Object>> {
        let before = self.store.get(resource, &key_of(&value)).cloned();
        // Before anything is allocated for a change that will not be stored.
        self.store.may_update(resource, &value)?;
        controller::admit(
            self,
            resource,
            before.as_ref().map(|object| &object.value),
            &mut value,
        )?;
        let stored = self.store.update(resource, value)?;
        if before.as_ref().is_none_or(|before| !Arc::ptr_eq(before, &stored)) {
            controller::settle(self, resource, before.as_ref(), Some(&stored));
        }
        Ok(stored)
    }

    /// Removes an object, and what controllers made of it.
    pub(crate) fn delete(&mut self, resource: resources::Id, key: &Key) -> Outcome<Arc<Object>> {
        let gone = self.store.delete(resource, key)?;
        controller::settle(self, resource, Some(&gone), None);
        Ok(gone)
    }

    /// Ends open watches of a resource, or all.
    pub(crate) fn end_watches(&mut self, resource: Option<resources::Id>, end: End) {
        for watch in self.watches.values_mut() {
            if resource.is_none_or(|one| one == watch.resource) {
                watch.end = Some(end);
            }
        }
    }

    /// Lifts an order.
    pub(crate) fn lift(&mut self, id: OrderId) {
        if let Some(resource) = self.faults.lift(id) {
            let version = self.store.advance();
            for (id, fresh) in self.fresh_since.iter_mut().enumerate() {
                if resource.is_none_or(|one| one == id) {
                    *fresh = version;
                }
            }
            self.end_watches(resource, End::Expired);
        }
    }
}

/// The state, and word of its changes.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

impl Shared {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new()),
            changed: watch::Sender::new(()),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked while it changed something has failed already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads, or changes what nobody waits for.
    pub(crate) fn look<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.lock())
    }

    /// Changes, and wakes everybody who waits.
    pub(crate) fn change<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let result = work(&mut self.lock());
        self.changed.send_replace(());
        result
    }

    /// Word of changes from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Waits until `done` says something.
    pub(crate) async fn wait<T>(&self, mut done: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut changes = self.changes();
        loop {
            if let Some(result) = self.look(&mut done) {
                return result;
            }
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }

    /// Counts a request that came by a door, and returns what it meets, once no order holds it back.
    pub(crate) async fn admit(&self, verb: Verb, resource: Option<resources::Id>, door: usize) -> Plan {
        let plan = self.change(|state| {
            if let Some(resource) = resource {
                *state.requests.entry((verb, resource)).or_default() += 1;
            }
            state.faults.plan(verb, resource, door)
        });
        if !plan.held.is_empty() {
            self.wait(|state| (!state.faults.any(&plan.held)).then_some(()))
                .await;
        }
        plan
    }
}
