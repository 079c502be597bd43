//! Objects as tests make, change and read them: through the same store as clients do, without a request.

use std::sync::Arc;

use serde_json::Value;

use super::{
    resources::{self, RESOURCES},
    server::ApiServer,
    state::State,
    status::{Outcome, Status},
    store::{Key, Object},
};
use crate::error::{Error, Result};

/// `namespace/name`, or the name of an object of the cluster.
pub(crate) fn key(name: &str) -> Key {
    match name.split_once('/') {
        Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
        None => (String::new(), name.to_owned()),
    }
}

fn told<T>(verb: &str, object: &str, outcome: Outcome<T>) -> Result<T> {
    outcome.map_err(|status| Error::unexpected(&format!("{verb} {object}"), status.to_string()))
}

/// The resource of an object that a test made.
fn resource_of(object: &Value) -> Result<resources::Id> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    resources::of_kind(text("apiVersion"), text("kind")).ok_or_else(|| {
        Error::unexpected(
            &format!("{} {}", text("apiVersion"), text("kind")),
            "the test API server has no such kind",
        )
    })
}

/// How messages name it.
fn name_of(object: &Value) -> String {
    let meta = &object["metadata"];
    format!("{} {}", object["kind"], meta["name"])
}

/// Changes an object by a function.
pub(crate) fn edit(
    state: &mut State,
    resource: &str,
    name: &str,
    change: impl FnOnce(&mut Value),
) -> Result<Arc<Object>> {
    let id = resources::named(resource);
    let stored = state.store.get(id, &key(name)).cloned();
    let stored = stored.ok_or_else(|| Status::not_found(&RESOURCES[id], name));
    let changed = stored.and_then(|stored| {
        let mut object = stored.value.clone();
        change(&mut object);
        state.update(id, object)
    });
    told("change", name, changed)
}

impl ApiServer {
    /// Stores a new object, its status included, and returns it as it is stored. `apiVersion` and `kind` say what it is.
    ///
    /// # Errors
    ///
    /// If there is one of that name, or the server does not know its kind.
    pub fn create(&self, object: Value) -> Result<Value> {
        let id = resource_of(&object)?;
        let name = name_of(&object);
        let stored = self.shared.change(|state| state.create(id, object));
        told("create", &name, stored).map(|object| object.whole(&RESOURCES[id]))
    }

    /// Replaces an object, its status included, whatever version it was, unless `object` names a version.
    ///
    /// # Errors
    ///
    /// If there is none of that name, or it has another version.
    pub fn update(&self, object: Value) -> Result<Value> {
        let id = resource_of(&object)?;
        let name = name_of(&object);
        let stored = self.shared.change(|state| state.update(id, object));
        told("update", &name, stored).map(|object| object.whole(&RESOURCES[id]))
    }

    /// Changes an object by a merge patch (RFC 7396), its status included. `name` is `namespace/name`, or the name of an
    /// object of the cluster.
    ///
    /// # Errors
    ///
    /// If there is none of that name.
    ///
    /// # Panics
    ///
    /// If the server has no such resource.
    pub fn patch(&self, resource: &str, name: &str, change: &Value) -> Result<Value> {
        self.edit(resource, name, |object| json_patch::merge(object, change))
    }

    /// As [`Self::patch`], by a function.
    ///
    /// # Errors
    ///
    /// If there is none of that name.
    ///
    /// # Panics
    ///
    /// If the server has no such resource.
    pub fn edit(&self, resource: &str, name: &str, change: impl FnOnce(&mut Value)) -> Result<Value> {
        self.shared
            .change(|state| edit(state, resource, name, change))
            .map(|object| object.whole(&RESOURCES[resources::named(resource)]))
    }

    /// Removes an object and returns it as it was.
    ///
    /// # Errors
    ///
    /// If there is none of that name.
    ///
    /// # Panics
    ///
    /// If the server has no such resource.
    pub fn delete(&self, resource: &str, name: &str) -> Result<Value> {
        let id = resources::named(resource);
        let stored = self.shared.change(|state| state.delete(id, &key(name)));
        told("delete", name, stored).map(|object| object.whole(&RESOURCES[id]))
    }

    /// An object, if there is one.
    ///
    /// # Panics
    ///
    /// If the server has no such resource.
    pub fn get(&self, resource: &str, name: &str) -> Option<Value> {
        let id = resources::named(resource);
        self.shared.look(|state| {
            let object = state.store.get(id, &key(name))?;
            Some(object.whole(&RESOURCES[id]))
        })
    }

    /// All objects of a resource, by namespace and name.
    ///
    /// # Panics
    ///
    /// If the server has no such resource.
    pub fn list(&self, resource: &str) -> Vec<Value> {
        let id = resources::named(resource);
        self.shared.look(|state| {
            let objects = state.store.objects(id).values();
            objects.map(|object| object.whole(&RESOURCES[id])).collect()
        })
    }

    /// The version of the newest change.
    pub fn version(&self) -> u64 {
        self.shared.look(|state| state.store.version())
    }
}
