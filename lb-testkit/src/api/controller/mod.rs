//! What the API server itself and the controllers of a cluster do about Services: addresses and ports are allocated,
//! defaults filled in, and EndpointSlices kept for the pods that a selector names.
//!
//! Everything is done before the write that causes it is answered, so a test that has created a pod finds its slices.

mod admit;
mod allocate;
mod endpoint;
mod slices;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;

use self::allocate::Allocator;
use super::{
    resources::{self, PODS, SERVICES, SLICES},
    state::State,
    status::Outcome,
    store::{Key, Object, key_of},
};

/// What is remembered between writes.
#[derive(Debug, Default)]
pub(crate) struct Controllers {
    allocator: Allocator,
    /// The Services that have a selector.
    selecting: BTreeSet<Key>,
    /// For each Service its pods and when each of them turned ready or unready: by it the time of a change is known.
    seen: BTreeMap<Key, BTreeMap<String, String>>,
}

impl Controllers {
    /// The families of cluster IPs, the first being the default.
    pub(crate) fn set_families(&mut self, families: &[&'static str]) {
        self.allocator.families = families.to_vec();
    }
}

/// Completes a new object before it is stored, or a changed one.
///
/// # Errors
///
/// 422, if an address or a port cannot be had.
pub(crate) fn admit(
    state: &mut State,
    resource: resources::Id,
    before: Option<&Value>,
    value: &mut Value,
) -> Outcome<()> {
    if resource != SERVICES {
        return Ok(());
    }
    let key = key_of(value);
    let allocator = &mut state.controllers.allocator;
    let held = allocator.release(&key);
    let admitted = admit::service(allocator, &key, before, value);
    if admitted.is_err() {
        allocator.restore(&key, held);
    }
    admitted
}

/// Deals with what a write has changed.
pub(crate) fn settle(
    state: &mut State,
    resource: resources::Id,
    before: Option<&Arc<Object>>,
    after: Option<&Arc<Object>>,
) {
    let both = || before.into_iter().chain(after).map(|object| &object.value);
    match resource {
        SERVICES => {
            if let (Some(before), None) = (before, after) {
                let key = key_of(&before.value);
                state.controllers.allocator.release(&key);
                state.controllers.seen.remove(&key);
                state.controllers.selecting.remove(&key);
                slices::collect(state, &key);
            } else if let Some(after) = after {
                let key = key_of(&after.value);
                if after.value["spec"]["selector"].is_object() {
                    state.controllers.selecting.insert(key.clone());
                } else {
                    state.controllers.selecting.remove(&key);
                }
                slices::reconcile(state, &key);
            }
        }
        PODS => {
            for key in services_of(state, &both().collect::<Vec<_>>()) {
                slices::reconcile(state, &key);
            }
        }
        SLICES => {
            // Somebody has changed a slice that is the controller's.
            let mut keys: Vec<Key> = both().filter_map(slices::service_of).collect();
            keys.dedup();
            for key in keys {
                slices::reconcile(state, &key);
            }
        }
        _ => {}
    }
}

/// The Services whose selector one of these states of a pod matches.
fn services_of(state: &State, pods: &[&Value]) -> Vec<Key> {
    let Some(namespace) = pods.first().map(|pod| key_of(pod).0) else {
        return Vec::new();
    };
    let selecting = state
        .controllers
        .selecting
        .range((namespace.clone(), String::new())..);
    let selects = |key: &&Key| {
        let service = state.store.get(SERVICES, key);
        service.is_some_and(|service| pods.iter().any(|pod| slices::selects(&service.value, pod)))
    };
    selecting
        .take_while(|(of, _)| *of == namespace)
        .filter(selects)
        .cloned()
        .collect()
}
