use super::*;
use crate::watch::testing::{service, slice};

fn svc(name: &str) -> Object {
    service(&format!(
        "metadata: {{name: {name}, namespace: ns}}\nspec: {{clusterIP: 10.0.0.1, ports: [{{port: 80}}]}}"
    ))
}

fn svc_on(name: &str, port: u16) -> Object {
    service(&format!(
        "metadata: {{name: {name}, namespace: ns}}\nspec: {{clusterIP: 10.0.0.1, ports: [{{port: {port}}}]}}"
    ))
}

fn slice_of(name: &str, service: &str, addr: &str) -> Object {
    slice(&format!(
        "metadata: {{name: {name}, namespace: ns, labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: \
         IPv4\nendpoints: [{{addresses: [{addr}]}}]\nports: [{{port: 80}}]"
    ))
}

fn name(name: &str) -> ServiceName {
    ServiceName {
        namespace: "ns".into(),
        name: name.into(),
    }
}

/// An index that has been told that there is nothing.
fn listed() -> Index {
    let mut index = Index::new();
    for kind in Kind::ALL {
        index.reset(kind, Vec::new());
    }
    index.take_touched();
    index
}

fn touched(index: &mut Index) -> Vec<String> {
    index
        .take_touched()
        .into_iter()
        .map(|name| name.name.to_string())
        .collect()
}

fn slices(index: &Index, service: &str) -> Vec<String> {
    index
        .slices(&name(service))
        .map(|slice| slice.name.name.to_string())
        .collect()
}

#[test]
fn nothing_is_touched_before_both_kinds_were_listed() {
    let mut index = Index::new();
    for event in [
        Event::Init(Kind::Service),
        Event::InitApply(svc("a")),
        Event::InitDone(Kind::Service),
    ] {
        index.handle(event);
        assert!(!index.is_listed());
        assert_eq!(touched(&mut index), [""; 0]);
    }
    index.handle(Event::Init(Kind::EndpointSlice));
    index.handle(Event::InitApply(slice_of("a-1", "a", "10.1.0.1")));
    assert!(!index.is_listed());
    index.handle(Event::InitDone(Kind::EndpointSlice));
    assert!(index.is_listed());
    assert_eq!(touched(&mut index), ["a"]);
}

#[test]
fn a_list_counts_only_when_it_is_complete_and_then_replaces_everything() {
    let mut index = listed();
    index.apply(svc("a"));
    index.apply(svc("b"));
    touched(&mut index);
    index.handle(Event::Init(Kind::Service));
    index.handle(Event::InitApply(svc("b")));
    index.handle(Event::InitApply(svc("c")));
    assert_eq!(
        touched(&mut index),
        [""; 0],
        "a list that is under way removes nothing"
    );
    assert!(index.service(&name("a")).is_some());
    // The source starts over, and this list is complete.
    index.handle(Event::Init(Kind::Service));
    index.handle(Event::InitApply(svc("b")));
    index.handle(Event::InitDone(Kind::Service));
    assert_eq!(
        touched(&mut index),
        ["a"],
        "b is as it was, and c was never part of a complete list"
    );
    assert!(index.service(&name("a")).is_none() && index.service(&name("c")).is_none());
}

fn list(index: &mut Index, names: &[&str]) {
    index.handle(Event::Init(Kind::Service));
    for name in names {
        index.handle(Event::InitApply(svc(name)));
    }
    index.handle(Event::InitDone(Kind::Service));
}

fn services(index: &Index) -> Vec<String> {
    index.names().map(|name| name.name.to_string()).collect()
}

#[test]
fn a_list_that_takes_away_half_is_believed_when_the_next_one_says_the_same() {
    let mut index = Index::doubting();
    for kind in Kind::ALL {
        index.reset(kind, Vec::new());
    }
    list(&mut index, &["a", "b", "c", "d", "x"]);
    assert_eq!(index.take_doubts(), [], "nothing was known");
    list(&mut index, &["a", "b", "c", "d"]);
    assert_eq!(services(&index), ["a", "b", "c", "d"]);
    assert_eq!(index.take_doubts(), [], "a little less is believed");
    list(&mut index, &["d", "e"]);
    assert_eq!(
        services(&index),
        ["a", "b", "c", "d", "e"],
        "what it adds counts at once"
    );
    assert_eq!(index.take_doubts(), [Kind::Service]);
    list(&mut index, &["d", "e"]);
    assert_eq!(
        services(&index).len(),
        5,
        "a list that was not asked for is no second opinion"
    );
    assert_eq!(index.take_doubts(), [], "told once");
    index.believe_next(Kind::Service);
    list(&mut index, &["d", "e"]);
    assert_eq!(
        (services(&index), index.take_doubts()),
        (vec!["d".into(), "e".into()], vec![])
    );
    list(&mut index, &[]);
    assert_eq!(index.take_doubts(), [Kind::Service]);
    list(&mut index, &["d", "e"]);
    assert_eq!(services(&index), ["d", "e"], "it was a mistake");
    index.believe_next(Kind::Service);
    list(&mut index, &[]);
    assert_eq!(
        services(&index),
        ["d", "e"],
        "and the next one is doubted as the first was"
    );
}

#[test]
fn slices_are_joined_by_label_and_namespace() {
    let mut index = listed();
    index.apply(slice_of("a-1", "a", "10.1.0.1"));
    index.apply(slice_of("a-2", "a", "10.1.0.2"));
    index.apply(slice_of("b-1", "b", "10.1.0.3"));
    index.apply(slice("metadata: {name: a-3, namespace: other, labels: {kubernetes.io/service-name: a}}\naddressType: IPv4\nendpoints: []"));
    index.apply(slice(
        "metadata: {name: nobody, namespace: ns}\naddressType: IPv4\nendpoints: []",
    ));
    assert_eq!(slices(&index, "a"), ["a-1", "a-2"]);
    touched(&mut index);
    index.apply(slice_of("a-2", "b", "10.1.0.2"));
    assert_eq!(
        touched(&mut index),
        ["a", "b"],
        "a slice that changes its Service touches both"
    );
    assert_eq!(
        (slices(&index, "a"), slices(&index, "b")),
        (vec!["a-1".into()], vec!["a-2".into(), "b-1".into()])
    );
    index.delete(&slice_of("a-1", "a", "10.1.0.1"));
    assert_eq!(touched(&mut index), ["a"]);
    assert_eq!(slices(&index, "a"), [""; 0]);
}

#[test]
fn what_is_the_same_touches_nothing() {
    let mut index = listed();
    index.apply(svc("a"));
    index.apply(slice_of("a-1", "a", "10.1.0.1"));
    touched(&mut index);
    index.apply(svc("a"));
    index.apply(slice_of("a-1", "a", "10.1.0.1"));
    index.delete(&svc("unknown"));
    index.reset(Kind::Service, vec![svc("a")]);
    assert_eq!(touched(&mut index), [""; 0]);
    index.apply(svc_on("a", 81));
    assert_eq!(touched(&mut index), ["a"]);
}

#[test]
fn a_service_of_another_proxy_is_absent_and_toggling_its_label_is_followed() {
    let other = "metadata: {name: a, namespace: ns, labels: {service.kubernetes.io/service-proxy-name: ''}}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}";
    let mut index = listed();
    index.apply(service(other));
    assert!(index.service(&name("a")).is_none());
    index.apply(svc("a"));
    assert!(index.service(&name("a")).is_some());
    touched(&mut index);
    index.apply(service(other));
    assert_eq!(touched(&mut index), ["a"]);
    assert!(index.service(&name("a")).is_none());
    index.apply(svc("a"));
    index.reset(Kind::Service, vec![service(other)]);
    assert!(index.service(&name("a")).is_none(), "in a list as well");
}

#[test]
fn a_headless_service_is_absent() {
    let mut index = listed();
    index.apply(svc("a"));
    index.apply(service(
        "metadata: {name: a, namespace: ns}\nspec: {clusterIP: None}",
    ));
    assert!(index.service(&name("a")).is_none());
}

#[test]
fn a_headless_slice_is_absent_and_toggling_its_label_is_followed() {
    let headless = "metadata: {name: a-1, namespace: ns, labels: {kubernetes.io/service-name: a, service.kubernetes.io/headless: ''}}\naddressType: IPv4\nendpoints: []";
    let mut index = listed();
    index.apply(slice_of("a-1", "a", "10.1.0.1"));
    assert_eq!(slices(&index, "a"), ["a-1"]);
    touched(&mut index);
    index.apply(slice(headless));
    assert_eq!(
        (slices(&index, "a").len(), touched(&mut index)),
        (0, vec!["a".into()])
    );
    index.apply(slice_of("a-1", "a", "10.1.0.1"));
    assert_eq!(slices(&index, "a"), ["a-1"]);
}

#[test]
fn the_work_of_an_event_does_not_grow_with_the_cluster() {
    let mut index = listed();
    for i in 0..1_000 {
        index.apply(svc(&format!("s{i}")));
        index.apply(slice_of(&format!("s{i}-1"), &format!("s{i}"), "10.1.0.1"));
    }
    touched(&mut index);
    let before = index.work();
    index.apply(slice_of("s500-1", "s500", "10.1.0.2"));
    index.apply(svc_on("s7", 81));
    assert_eq!(index.work() - before, 2);
    assert_eq!(touched(&mut index), ["s500", "s7"]);
}
