use super::*;
use crate::watch::parse::parse;

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n---\n"
    )
}

fn apply(store: &mut Store, file: &str, text: &str) -> (Vec<String>, Vec<String>) {
    told(&store.apply(file, parse(text)))
}

fn told(outcome: &Outcome) -> (Vec<String>, Vec<String>) {
    let events = outcome.events.iter().map(|event| match event {
        Event::Apply(object) => format!("apply {} {}", object.key(), ip(object)),
        Event::Delete(object) => format!("delete {}", object.key()),
        other => panic!("{other:?}"),
    });
    (
        events.collect(),
        outcome.reports.iter().map(ToString::to_string).collect(),
    )
}

fn ip(object: &Object) -> String {
    let Object::Service(service) = object else {
        return String::new();
    };
    service.cluster_ips[0].to_string()
}

#[test]
fn only_objects_that_changed_are_told() {
    let mut store = Store::default();
    let both = service("a", "10.0.0.1") + &service("b", "10.0.0.2");
    assert_eq!(
        apply(&mut store, "x.yaml", &both).0,
        [
            "apply Service default/a 10.0.0.1",
            "apply Service default/b 10.0.0.2"
        ]
    );
    assert_eq!(apply(&mut store, "x.yaml", &both), (vec![], vec![]));
    let other = service("b", "10.0.0.3") + &service("c", "10.0.0.4");
    assert_eq!(
        apply(&mut store, "x.yaml", &other).0,
        [
            "delete Service default/a",
            "apply Service default/b 10.0.0.3",
            "apply Service default/c 10.0.0.4"
        ]
    );
    assert_eq!(
        told(&store.delete("x.yaml")).0,
        ["delete Service default/b", "delete Service default/c"]
    );
    assert_eq!(store.objects().count() + store.files().count(), 0);
}

#[test]
fn the_last_good_version_of_a_broken_file_stays_in_force() {
    let mut store = Store::default();
    apply(&mut store, "svc.yaml", &service("a", "10.0.0.1"));
    let broken = service("b", "10.0.0.2") + &service("a", "10.0.0.300");
    let (events, reports) = apply(&mut store, "svc.yaml", &broken);
    assert_eq!(events, [""; 0]);
    assert_eq!(
        reports,
        [
            "svc.yaml, document 2, spec.clusterIP: \"10.0.0.300\" is no IP address; write one like 10.96.0.10 or fd00::10; \
          fix the file: the last good version of it stays in force"
        ]
    );
    assert_eq!(
        apply(&mut store, "svc.yaml", &service("a", "10.0.0.5")).0,
        ["apply Service default/a 10.0.0.5"]
    );
}

#[test]
fn of_a_file_that_was_never_good_the_valid_objects_are_used() {
    let mut store = Store::default();
    let broken = service("a", "10.0.0.1") + &service("b", "nonsense");
    let (events, reports) = apply(&mut store, "svc.yaml", &broken);
    assert_eq!(events, ["apply Service default/a 10.0.0.1"]);
    assert!(
        reports[0].ends_with("fix the file: until then only its valid objects are in force"),
        "{}",
        reports[0]
    );
    let other = service("a", "10.0.0.2") + &service("b", "nonsense");
    assert_eq!(
        apply(&mut store, "svc.yaml", &other).0,
        ["apply Service default/a 10.0.0.2"]
    );
}

#[test]
fn an_object_in_two_files_is_reported_with_both_and_taken_from_the_first() {
    let mut store = Store::default();
    apply(&mut store, "b.yaml", &service("a", "10.0.0.2"));
    let (events, reports) = apply(&mut store, "a.yaml", &service("a", "10.0.0.1"));
    assert_eq!(events, ["apply Service default/a 10.0.0.1"]);
    assert_eq!(
        reports,
        [
            "b.yaml, document 1: Service default/a stands in a.yaml, document 1 as well, and that one is in force; remove \
          one of them"
        ]
    );
    let (events, reports) = apply(&mut store, "c.yaml", &service("a", "10.0.0.3"));
    assert_eq!((events.len(), reports.len()), (0, 1));
    assert_eq!(
        told(&store.delete("a.yaml")).0,
        ["apply Service default/a 10.0.0.2"]
    );
    assert_eq!(told(&store.delete("c.yaml")).0, [""; 0]);
    assert_eq!(told(&store.delete("b.yaml")).0, ["delete Service default/a"]);
}

#[test]
fn an_object_that_stands_twice_in_a_file_is_reported() {
    let mut store = Store::default();
    let (events, reports) = apply(
        &mut store,
        "a.yaml",
        &(service("a", "10.0.0.1") + &service("a", "10.0.0.2")),
    );
    assert_eq!(events, ["apply Service default/a 10.0.0.1"]);
    assert!(reports[0].starts_with("a.yaml, document 2: Service default/a stands in a.yaml, document 1"));
}

#[test]
fn an_object_that_moves_to_another_file_is_not_deleted() {
    let mut store = Store::default();
    apply(&mut store, "a.yaml", &service("a", "10.0.0.1"));
    apply(&mut store, "b.yaml", &service("a", "10.0.0.1"));
    assert_eq!(apply(&mut store, "a.yaml", "").0, [""; 0]);
}
