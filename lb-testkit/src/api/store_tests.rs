use super::*;
use crate::api::resources::{NODES, SERVICES};

fn service(name: &str, number: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "a", "name": name}, "spec": {"number": number}})
}

fn key(name: &str) -> Key {
    ("a".to_owned(), name.to_owned())
}

#[test]
fn versions_increase_over_all_resources() {
    let mut store = Store::new();
    let first = store.create(SERVICES, service("x", 1)).unwrap();
    let second = store.create(NODES, json!({"metadata": {"name": "n"}})).unwrap();
    assert_eq!(first.value["metadata"]["resourceVersion"], "2");
    assert_eq!(second.value["metadata"]["resourceVersion"], "3");
    store.delete(SERVICES, &key("x")).unwrap();
    assert_eq!(store.version(), 4);
}

#[test]
fn an_update_of_another_version_is_a_conflict() {
    let mut store = Store::new();
    let old = store.create(SERVICES, service("x", 1)).unwrap().value.clone();
    let mut new = old.clone();
    new["spec"]["number"] = 2.into();
    let stored = store.update(SERVICES, new).unwrap();
    assert_eq!(stored.value["metadata"]["uid"], old["metadata"]["uid"]);
    let mut late = old;
    late["spec"]["number"] = 3.into();
    let error = store.update(SERVICES, late).unwrap_err();
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    assert_eq!(
        error.message,
        "Operation cannot be fulfilled on services \"x\": the object has been modified; please apply your changes \
         to the latest version and try again"
    );
}

#[test]
fn an_update_without_a_change_stores_nothing() {
    let mut store = Store::new();
    store.create(SERVICES, service("x", 1)).unwrap();
    let version = store.version();
    store.update(SERVICES, service("x", 1)).unwrap();
    assert_eq!(store.version(), version);
}

#[test]
fn the_past_is_as_it_was_until_it_is_compacted() {
    let mut store = Store::new();
    store.create(SERVICES, service("x", 1)).unwrap();
    store.create(SERVICES, service("y", 1)).unwrap();
    let then = store.version();
    let past: Vec<_> = store.objects(SERVICES).values().cloned().collect();
    store.update(SERVICES, service("x", 2)).unwrap();
    store.delete(SERVICES, &key("y")).unwrap();
    store.create(SERVICES, service("z", 1)).unwrap();
    store.create(NODES, json!({"metadata": {"name": "n"}})).unwrap();
    let seen: Vec<_> = store.at(SERVICES, then).unwrap().into_values().collect();
    assert_eq!(
        seen.iter().map(|one| &one.value).collect::<Vec<_>>(),
        past.iter().map(|one| &one.value).collect::<Vec<_>>()
    );
    assert_eq!(store.since(then).unwrap().count(), 4);
    store.compact();
    assert_eq!(store.at(SERVICES, then).unwrap_err().code, 410);
    assert_eq!(
        store.since(then).map(Iterator::count).unwrap_err().reason,
        "Expired"
    );
    assert_eq!(store.since(store.version()).unwrap().count(), 0);
}

#[test]
fn the_history_keeps_the_newest() {
    let mut store = Store::new();
    store.keep(2);
    for name in ["a", "b", "c"] {
        store.create(SERVICES, service(name, 1)).unwrap();
    }
    assert_eq!(store.since(2).unwrap().count(), 2);
    assert!(store.since(1).is_err());
}

#[test]
fn names_are_made_where_a_prefix_is_given() {
    let mut store = Store::new();
    let mut nameless = service("", 1);
    nameless["metadata"] = json!({"namespace": "a", "generateName": "web-"});
    let one = store.create(SERVICES, nameless.clone()).unwrap().key().1;
    let two = store.create(SERVICES, nameless).unwrap().key().1;
    assert!(
        one.starts_with("web-") && one.len() == 9 && one != two,
        "{one} {two}"
    );
    assert_eq!(store.create(SERVICES, service("", 1)).unwrap_err().code, 422);
}
