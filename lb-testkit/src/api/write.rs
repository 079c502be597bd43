//! Requests about one object: get, create, update, patch, delete.

use hyper::body::Bytes;
use serde_json::{Value, json};

use super::{
    request::{Target, Verb},
    resources,
    state::{Shared, State},
    status::{Outcome, Status},
    store::Object,
};

/// Answers a request about one object: with the HTTP status and the body.
///
/// # Errors
///
/// What the store says, 400 for a body that is no such object, 415 for a patch of another kind.
pub(crate) fn one(
    shared: &Shared,
    verb: Verb,
    target: &Target,
    content: &str,
    body: &[u8],
) -> Outcome<(u16, Bytes)> {
    let resource = target.resource();
    let whole = |object: &Object| Bytes::from(object.whole(resource).to_string());
    match verb {
        Verb::Get => shared.look(|state| {
            let object = state.store.get(target.id, &target.key());
            let object = object.ok_or_else(|| Status::not_found(resource, &target.key().1))?;
            Ok((200, whole(object)))
        }),
        Verb::Create => {
            let mut value = parse(target, body)?;
            if resource.status
                && let Some(fields) = value.as_object_mut()
            {
                fields.remove("status");
            }
            let object = shared.change(|state| state.create(target.id, value))?;
            Ok((201, whole(&object)))
        }
        Verb::Update => {
            let value = parse(target, body)?;
            let object = shared.change(|state| update(state, target, value))?;
            Ok((200, whole(&object)))
        }
        Verb::Patch => {
            let object = shared.change(|state| patch(state, target, content, body))?;
            Ok((200, whole(&object)))
        }
        Verb::Delete => {
            let object = shared.change(|state| state.delete(target.id, &target.key()))?;
            let meta = &object.value["metadata"];
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {"name": meta["name"], "group": resource.group, "kind": resource.plural, "uid": meta["uid"]},
            });
            Ok((200, status.to_string().into()))
        }
        Verb::List | Verb::Watch => Err(Status::method_not_allowed()),
    }
}

/// The object of a body, with the namespace of the path.
fn parse(target: &Target, body: &[u8]) -> Outcome<Value> {
    let mut value: Value = serde_json::from_slice(body)
        .map_err(|error| Status::bad_request(format!("the object provided is unrecognized: {error}")))?;
    let text = |field| value[field].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    // A body without its kind is of the kind that the path names.
    let known = (api_version.is_empty() && kind.is_empty())
        || resources::of_kind(api_version, kind) == Some(target.id);
    if !known || !value["metadata"].is_object() {
        return Err(Status::bad_request(format!(
            "{kind} in version {api_version:?} cannot be handled as a {}",
            target.resource().kind
        )));
    }
    let meta = &mut value["metadata"];
    for (field, of_path) in [("namespace", &target.namespace), ("name", &target.name)] {
        let Some(of_path) = of_path else { continue };
        match meta[field].as_str() {
            None | Some("") => meta[field] = of_path.clone().into(),
            Some(own) if own != of_path => {
                return Err(Status::bad_request(format!(
                    "the {field} of the provided object does not match the {field} sent on the request"
                )));
            }
            Some(_) => {}
        }
    }
    Ok(value)
}

/// Stores a new state of an object, or of its status alone; a write to the object leaves the status as it is.
fn update(state: &mut State, target: &Target, value: Value) -> Outcome<std::sync::Arc<Object>> {
    if !target.resource().status {
        return state.update(target.id, value);
    }
    let key = target.key();
    let stored = state.store.get(target.id, &key);
    let stored = &stored
        .ok_or_else(|| Status::not_found(target.resource(), &key.1))?
        .value;
    let (mut new, other) = if target.subresource.is_some() {
        (stored.clone(), &value)
    } else {
        (value.clone(), stored)
    };
    match (other.get("status"), new.as_object_mut()) {
        (Some(status), Some(fields)) => {
            fields.insert("status".to_owned(), status.clone());
        }
        (None, Some(fields)) => {
            fields.remove("status");
        }
        (_, None) => {}
    }
    new["metadata"]["resourceVersion"] = value["metadata"]["resourceVersion"].clone();
    state.update(target.id, new)
}

fn patch(state: &mut State, target: &Target, content: &str, body: &[u8]) -> Outcome<std::sync::Arc<Object>> {
    let key = target.key();
    let stored = state.store.get(target.id, &key);
    let mut value = stored
        .ok_or_else(|| Status::not_found(target.resource(), &key.1))?
        .value
        .clone();
    let unreadable =
        |error: &dyn std::fmt::Display| Status::bad_request(format!("error decoding patch: {error}"));
    // The version is compared only if the patch names one.
    let kind = content.split(';').next().unwrap_or_default().trim();
    match kind {
        "application/merge-patch+json" => {
            let change: Value = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
            json_patch::merge(&mut value, &change);
        }
        "application/json-patch+json" => {
            let change: json_patch::Patch =
                serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
            json_patch::patch(&mut value, &change)
                .map_err(|error| Status::invalid(target.resource(), &key.1, &error.to_string()))?;
        }
        other => {
            return Err(Status::new(
                415,
                "UnsupportedMediaType",
                format!("the test API server takes merge and JSON patches, not {other:?}"),
            ));
        }
    }
    if super::store::key_of(&value) != key {
        return Err(Status::bad_request(
            "a patch must not change the name of an object",
        ));
    }
    update(state, target, value)
}
