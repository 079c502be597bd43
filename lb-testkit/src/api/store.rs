//! The objects, and what became of them: one increasing version over all, and a history that can be cut off.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, OnceLock},
};

use hyper::body::Bytes;
use serde_json::{Value, json};

use super::{
    resources::{self, RESOURCES, Resource},
    status::{Outcome, Status},
};

/// Changes that are remembered, unless a test says otherwise. The real server keeps five minutes of them.
const HISTORY: usize = 20_000;

/// Namespace (empty for objects of the cluster) and name.
pub(crate) type Key = (String, String);

/// An object as it was stored, without `apiVersion` and `kind`, which its resource tells.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) value: Value,
    text: OnceLock<Bytes>,
}

impl Object {
    fn new(value: Value) -> Arc<Self> {
        Arc::new(Self {
            value,
            text: OnceLock::new(),
        })
    }

    /// As JSON.
    pub(crate) fn text(&self) -> &Bytes {
        self.text.get_or_init(|| self.value.to_string().into())
    }

    /// With `apiVersion` and `kind`.
    pub(crate) fn whole(&self, resource: &Resource) -> Value {
        let mut value = self.value.clone();
        value["apiVersion"] = resource.api_version().into();
        value["kind"] = resource.kind.into();
        value
    }

    fn key(&self) -> Key {
        key_of(&self.value)
    }
}

/// Namespace and name of an object.
pub(crate) fn key_of(value: &Value) -> Key {
    let part = |name| value["metadata"][name].as_str().unwrap_or_default().to_owned();
    (part("namespace"), part("name"))
}

/// What happened to an object.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// It was stored, changed or deleted.
    Stored {
        before: Option<Arc<Object>>,
        after: Option<Arc<Object>>,
        /// The object as a watcher sees it: `after`, or `before` with the version of its end.
        seen: Arc<Object>,
    },
    /// An event that a test made up; nothing was stored.
    MadeUp { kind: &'static str, object: Arc<Object> },
}

/// A change.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) resource: resources::Id,
    pub(crate) what: What,
}

/// All objects.
#[derive(Debug)]
pub(crate) struct Store {
    version: u64,
    objects: Vec<BTreeMap<Key, Arc<Object>>>,
    history: VecDeque<Change>,
    kept: usize,
    /// The newest version that watches can no longer start before.
    compacted: u64,
    /// Objects made so far, for their UIDs.
    made: u64,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            version: 1,
            objects: RESOURCES.iter().map(|_| BTreeMap::new()).collect(),
            history: VecDeque::new(),
            kept: HISTORY,
            compacted: 1,
            made: 0,
        }
    }

    /// The version of the newest change.
    pub(crate) const fn version(&self) -> u64 {
        self.version
    }

    /// The version before which nothing is remembered.
    pub(crate) const fn compacted(&self) -> u64 {
        self.compacted
    }

    pub(crate) fn objects(&self, resource: resources::Id) -> &BTreeMap<Key, Arc<Object>> {
        &self.objects[resource]
    }

    pub(crate) fn get(&self, resource: resources::Id, key: &Key) -> Option<&Arc<Object>> {
        self.objects[resource].get(key)
    }

    /// The objects as they were at `version`.
    ///
    /// # Errors
    ///
    /// 410, if the history does not reach back so far.
    pub(crate) fn at(&self, resource: resources::Id, version: u64) -> Outcome<BTreeMap<Key, Arc<Object>>> {
        if version < self.compacted {
            return Err(Status::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a \
                 new list without the continue parameter, or use the continue token in this response to retrieve \
                 the remainder of the results.",
            ));
        }
        let mut objects = self.objects[resource].clone();
        for change in self.history.iter().rev().take_while(|one| one.version > version) {
            if let (true, What::Stored { before, seen, .. }) = (change.resource == resource, &change.what) {
                match before {
                    Some(before) => objects.insert(before.key(), before.clone()),
                    None => objects.remove(&seen.key()),
                };
            }
        }
        Ok(objects)
    }

    /// The changes after `version`, oldest first.
    ///
    /// # Errors
    ///
    /// 410, if some of them are forgotten.
    pub(crate) fn since(&self, version: u64) -> Outcome<impl Iterator<Item = &Change>> {
        if version < self.compacted {
            return Err(Status::too_old(version, self.compacted));
        }
        let start = self.history.partition_point(|one| one.version <= version);
        Ok(self.history.range(start..))
    }

    /// The last thing that happened to an object: what was before, and what a watcher saw.
    pub(crate) fn last_change(&self, resource: resources::Id, key: &Key) -> Option<&What> {
        let newest_first = self.history.iter().rev().filter(|one| one.resource == resource);
        newest_first
            .map(|change| &change.what)
            .find(|what| matches!(what, What::Stored { seen, .. } if seen.key() == *key))
    }

    /// Goes to the next version without a change.
    pub(crate) fn advance(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// Forgets the history.
    pub(crate) fn compact(&mut self) {
        self.history.clear();
        self.compacted = self.version;
    }

    /// Remembers so many changes.
    pub(crate) fn keep(&mut self, changes: usize) {
        self.kept = changes;
        self.trim();
    }

    fn trim(&mut self) {
        while self.history.len() > self.kept {
            if let Some(gone) = self.history.pop_front() {
                self.compacted = gone.version;
            }
        }
    }

    fn note(&mut self, resource: resources::Id, what: What) {
        self.history.push_back(Change {
            version: self.version,
            resource,
            what,
        });
        self.trim();
    }

    /// Gives a new object a name, if it asks for one, a UID and the time.
    ///
    /// # Errors
    ///
    /// 409, if there is one of that name; 422, if it has no name.
    pub(crate) fn prepare(&mut self, resource: resources::Id, value: &mut Value) -> Outcome<()> {
        let kind = &RESOURCES[resource];
        self.made += 1;
        let meta = metadata(value)?;
        if let (None, Some(prefix)) = (meta.get("name"), meta.get("generateName").and_then(Value::as_str)) {
            let name = format!("{prefix}{}", suffix(self.made));
            meta.insert("name".to_owned(), name.into());
        }
        meta.insert("uid".to_owned(), uid(self.made).into());
        meta.entry("creationTimestamp")
            .or_insert_with(|| super::clock::now().into());
        let key = key_of(value);
        if key.1.is_empty() {
            return Err(Status::invalid(
                kind,
                "",
                "metadata.name: Required value: name or generateName is required",
            ));
        }
        if kind.namespaced == key.0.is_empty() {
            let problem = if kind.namespaced {
                "metadata.namespace: Required value"
            } else {
                "metadata.namespace: Forbidden: not allowed on this type"
            };
            return Err(Status::invalid(kind, &key.1, problem));
        }
        if self.objects[resource].contains_key(&key) {
            return Err(Status::already_exists(kind, &key.1));
        }
        without_type(value);
        Ok(())
    }

    /// Stores a new object that was prepared.
    pub(crate) fn insert(&mut self, resource: resources::Id, value: Value) -> Arc<Object> {
        self.put(resource, value, None)
    }

    /// Stores a new object as it is.
    ///
    /// # Errors
    ///
    /// Those of [`Self::prepare`].
    pub(crate) fn create(&mut self, resource: resources::Id, mut value: Value) -> Outcome<Arc<Object>> {
        self.prepare(resource, &mut value)?;
        Ok(self.insert(resource, value))
    }

    /// Whether an object may be replaced by `value`.
    ///
    /// # Errors
    ///
    /// 404, if there is none; 409, if `value` names another version or another UID than the stored one.
    pub(crate) fn may_update(&self, resource: resources::Id, value: &Value) -> Outcome<&Arc<Object>> {
        let kind = &RESOURCES[resource];
        let key = key_of(value);
        let Some(before) = self.get(resource, &key) else {
            return Err(Status::not_found(kind, &key.1));
        };
        for field in ["resourceVersion", "uid"] {
            let given = value["metadata"][field].as_str().unwrap_or_default();
            if !given.is_empty() && before.value["metadata"][field] != given {
                return Err(Status::conflict(kind, &key.1));
            }
        }
        Ok(before)
    }

    /// Replaces an object. Where nothing changes it stores nothing, as the real server does.
    ///
    /// # Errors
    ///
    /// Those of [`Self::may_update`].
    pub(crate) fn update(&mut self, resource: resources::Id, mut value: Value) -> Outcome<Arc<Object>> {
        let before = self.may_update(resource, &value)?.clone();
        let meta = metadata(&mut value)?;
        // What the server alone writes.
        for field in ["resourceVersion", "uid", "creationTimestamp"] {
            meta.insert(field.to_owned(), before.value["metadata"][field].clone());
        }
        without_type(&mut value);
        if value == before.value {
            return Ok(before);
        }
        Ok(self.put(resource, value, Some(before)))
    }

    /// Removes an object and returns it as it was.
    ///
    /// # Errors
    ///
    /// 404, if there is none.
    pub(crate) fn delete(&mut self, resource: resources::Id, key: &Key) -> Outcome<Arc<Object>> {
        let Some(before) = self.objects[resource].remove(key) else {
            return Err(Status::not_found(&RESOURCES[resource], &key.1));
        };
        self.version += 1;
        let seen = with_version(&before.value, self.version);
        self.note(
            resource,
            What::Stored {
                before: Some(before.clone()),
                after: None,
                seen,
            },
        );
        Ok(before)
    }

    /// An event that nothing was stored for.
    pub(crate) fn make_up(&mut self, resource: resources::Id, kind: &'static str, object: Arc<Object>) {
        self.version += 1;
        self.note(resource, What::MadeUp { kind, object });
    }

    fn put(&mut self, resource: resources::Id, mut value: Value, before: Option<Arc<Object>>) -> Arc<Object> {
        self.version += 1;
        value["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object = Object::new(value);
        self.objects[resource].insert(object.key(), object.clone());
        self.note(
            resource,
            What::Stored {
                before,
                after: Some(object.clone()),
                seen: object.clone(),
            },
        );
        object
    }
}

/// The object with another version.
pub(crate) fn with_version(value: &Value, version: u64) -> Arc<Object> {
    let mut value = value.clone();
    value["metadata"]["resourceVersion"] = version.to_string().into();
    Object::new(value)
}

/// `metadata`, which is made if it is missing.
fn metadata(value: &mut Value) -> Outcome<&mut serde_json::Map<String, Value>> {
    let problem = || Status::bad_request("the object provided is unrecognized: it has no metadata");
    let object = value.as_object_mut().ok_or_else(problem)?;
    object
        .entry("metadata")
        .or_insert_with(|| json!({}))
        .as_object_mut()
        .ok_or_else(problem)
}

/// Takes away what the resource tells.
fn without_type(value: &mut Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
}

fn uid(count: u64) -> String {
    format!("00000000-0000-4000-8000-{count:012x}")
}

/// Five characters as the real server draws them, here by counting.
fn suffix(count: u64) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rest = count;
    (0..5)
        .map(|_| {
            let letter = LETTERS[(rest % LETTERS.len() as u64) as usize];
            rest /= LETTERS.len() as u64;
            char::from(letter)
        })
        .collect()
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
