//! Lists: selectors, pages of one consistent state, versions.

use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Duration};

use hyper::body::Bytes;
use serde_json::{Value, json};

use super::{
    faults::Plan,
    request::{Query, Target},
    selectors::Selector,
    state::{Shared, State},
    status::{Outcome, Status},
    store::{Key, Object},
};

/// How long a list waits for a version that is not there yet, as the real server does
/// (`blockTimeout` in `apiserver/pkg/storage/cacher/watch_cache.go`).
const PATIENCE: Duration = Duration::from_secs(3);

/// The state that a list shows.
#[derive(Debug, PartialEq)]
enum At {
    Now,
    /// At least so new.
    NotBefore(u64),
    Exactly(u64),
}

/// A list that was asked for.
#[derive(Debug)]
struct Asked {
    at: At,
    /// The last key of the page before.
    after: Option<Key>,
    /// Objects of a page; 0 for all.
    limit: usize,
    selector: Selector,
    has_selector: bool,
}

impl Asked {
    fn parse(target: &Target, query: &Query) -> Outcome<Self> {
        let (labels, fields) = (query.text("labelSelector"), query.text("fieldSelector"));
        let selector = Selector::parse(labels, fields, target.resource())?;
        let mut limit = usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX);
        let version = query.number("resourceVersion")?;
        let has_version = !query.text("resourceVersion").is_empty();
        let token = query.text("continue");
        if !token.is_empty() {
            if version.is_some_and(|version| version != 0) {
                return Err(Status::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let (version, after) = read_token(token)?;
            return Ok(Self {
                at: At::Exactly(version),
                after: Some(after),
                limit,
                selector,
                has_selector: !labels.is_empty() || !fields.is_empty(),
            });
        }
        let at = match (query.text("resourceVersionMatch"), version) {
            ("", None) => At::Now,
            ("" | "NotOlderThan", Some(version)) => At::NotBefore(version),
            ("Exact", Some(version)) if version > 0 => At::Exactly(version),
            (how, _) => {
                let problem = if has_version {
                    format!("resourceVersionMatch: Forbidden: {how:?} does not go with this resourceVersion")
                } else {
                    "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is \
                     provided"
                        .to_owned()
                };
                return Err(Status::new(
                    422,
                    "Invalid",
                    format!("ListOptions.meta.k8s.io \"\" is invalid: {problem}"),
                ));
            }
        };
        if at == At::NotBefore(0) {
            // The real server answers such lists from its memory, whole.
            limit = 0;
        }
        Ok(Self {
            at,
            after: None,
            limit,
            selector,
            has_selector: !labels.is_empty() || !fields.is_empty(),
        })
    }
}

/// Answers a list.
///
/// # Errors
///
/// 400 and 422 for what makes no sense, 410 for a state that is forgotten, 504 for a version that does not come.
pub(crate) async fn list(shared: &Shared, target: &Target, query: &Query, plan: &Plan) -> Outcome<Bytes> {
    let asked = Asked::parse(target, query)?;
    if let At::NotBefore(version) = asked.at {
        let reached = shared.wait(|state| (state.store.version() >= version).then_some(()));
        if tokio::time::timeout(PATIENCE, reached).await.is_err() {
            let current = shared.look(|state| state.store.version());
            return Err(Status::too_large(version, current));
        }
    }
    let (objects, meta) = shared.look(|state| page(state, target, &asked, plan))?;
    let resource = target.resource();
    let mut text = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
        resource.kind,
        resource.api_version()
    )
    .into_bytes();
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        text.extend_from_slice(object.text());
    }
    text.extend_from_slice(b"]}\n");
    Ok(text.into())
}

/// The objects of a page, and the list's metadata.
fn page(state: &State, target: &Target, asked: &Asked, plan: &Plan) -> Outcome<(Vec<Arc<Object>>, Value)> {
    let past: BTreeMap<Key, Arc<Object>>;
    let (version, objects) = match asked.at {
        At::Exactly(version) if version != state.store.version() => {
            past = state.store.at(target.id, version)?;
            (version, &past)
        }
        _ => (state.store.version(), state.store.objects(target.id)),
    };
    let start = asked.after.clone().map_or(Bound::Unbounded, Bound::Excluded);
    let mut chosen = objects
        .range((start, Bound::Unbounded))
        .filter(|((namespace, _), object)| {
            target.namespace.as_ref().is_none_or(|one| one == namespace)
                && asked.selector.matches(&object.value)
        })
        .take(plan.short.unwrap_or(usize::MAX));
    let mut items = Vec::new();
    let mut last = None;
    while asked.limit == 0 || items.len() < asked.limit {
        let Some((key, object)) = chosen.next() else {
            last = None;
            break;
        };
        last = Some(key);
        items.push(object.clone());
    }
    let mut meta = json!({"resourceVersion": version.to_string()});
    let rest = chosen.count();
    if let (Some(last), true) = (last, rest > 0) {
        meta["continue"] = token(version, last).into();
        if !asked.has_selector {
            meta["remainingItemCount"] = rest.into();
        }
    }
    Ok((items, meta))
}

/// Names the state of a list and the last object of a page.
fn token(version: u64, (namespace, name): &Key) -> String {
    format!("{version}:{namespace}/{name}")
}

fn read_token(text: &str) -> Outcome<(u64, Key)> {
    let parse = || {
        let (version, key) = text.split_once(':')?;
        let (namespace, name) = key.split_once('/')?;
        Some((version.parse().ok()?, (namespace.to_owned(), name.to_owned())))
    };
    parse().ok_or_else(|| Status::bad_request(format!("continue key is not valid: {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_version_that_does_not_come_is_too_large() {
        let shared = Shared::new();
        let target = Target::parse("/api/v1/services").unwrap();
        let query = Query::parse("resourceVersion=7");
        let error = list(&shared, &target, &query, &Plan::default())
            .await
            .unwrap_err();
        assert_eq!((error.code, error.retry_after), (504, Some(1)));
        assert_eq!(
            error.message,
            "Timeout: Too large resource version: 7, current: 1"
        );
        assert_eq!(
            error.body()["details"]["causes"][0]["reason"],
            "ResourceVersionTooLarge"
        );
    }

    #[test]
    fn options_that_do_not_go_together_are_refused() {
        let target = Target::parse("/api/v1/services").unwrap();
        for (query, code) in [
            ("resourceVersionMatch=Exact", 422),
            ("resourceVersion=0&resourceVersionMatch=Exact", 422),
            ("resourceVersion=3&continue=2:a/b", 400),
            ("continue=nonsense", 400),
            ("resourceVersion=x", 400),
        ] {
            let error = Asked::parse(&target, &Query::parse(query)).unwrap_err();
            assert_eq!(error.code, code, "{query}");
        }
    }
}
