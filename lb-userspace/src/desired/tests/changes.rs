//! What updates tell.

use super::*;

#[test]
fn nothing_is_desired_before_services_and_slices_were_listed() {
    let mut index = Index::new();
    let mut desired = Desired::new(Options::default(), facts());
    index.reset(Kind::Service, vec![web("")]);
    assert_eq!(desired.update(&mut index), None);
    index.handle(Event::Init(Kind::EndpointSlice));
    assert_eq!(desired.update(&mut index), None);
    index.handle(Event::InitDone(Kind::EndpointSlice));
    assert_eq!(
        desired.update(&mut index).map(|update| update.changes.len()),
        Some(1)
    );
    assert_eq!(desired.update(&mut index), None);
}

#[test]
fn an_update_tells_only_what_has_changed() {
    let mut node = Node::new();
    node.apply([web(""), web_slice("{addresses: [10.1.0.1]}")]);
    assert_eq!(
        node.apply([web(", selector: {app: web}")]),
        [""; 0],
        "a selector is nothing to a proxy"
    );
    assert_eq!(
        node.apply([web_slice("{addresses: [10.1.0.1], hostname: a}")]),
        [""; 0]
    );
    assert_eq!(
        node.apply([web_slice("{addresses: [10.1.0.2]}")]),
        ["ns/web (TCP, IPv4): 10.0.0.1:80/TCP -> 10.1.0.2:8080"]
    );
    assert_eq!(node.delete(&web("")), ["- ns/web (TCP, IPv4)"]);
    assert_eq!(
        node.apply([web("")]),
        ["ns/web (TCP, IPv4): 10.0.0.1:80/TCP -> 10.1.0.2:8080"]
    );
}

#[test]
fn ports_that_are_added_and_deleted_are_followed() {
    let ports = |ports: &str| {
        service(&format!(
            "metadata: {{name: s, namespace: ns}}\nspec: {{clusterIP: 10.0.0.1, ports: {ports}}}"
        ))
    };
    let mut node = Node::new();
    node.apply([ports("[{name: a, port: 80}]")]);
    assert_eq!(
        node.apply([ports("[{name: a, port: 80}, {name: b, port: 81}]")]),
        ["ns/s:b (TCP, IPv4): 10.0.0.1:81/TCP -> "]
    );
    assert_eq!(
        node.apply([ports("[{name: b, port: 81}]")]),
        ["- ns/s:a (TCP, IPv4)"]
    );
    assert_eq!(
        node.apply([ports("[{name: b, port: 81, protocol: UDP}]")]),
        ["- ns/s:b (TCP, IPv4)", "ns/s:b (UDP, IPv4): 10.0.0.1:81/UDP -> "]
    );
}

#[test]
fn a_service_that_becomes_an_external_name_and_back_is_followed() {
    let mut node = Node::new();
    node.apply([web("")]);
    let external =
        service("metadata: {name: web, namespace: ns}\nspec: {type: ExternalName, externalName: a.b}");
    assert_eq!(node.apply([external]), ["- ns/web (TCP, IPv4)"]);
    assert_eq!(node.apply([web("")]).len(), 1);
}

#[test]
fn a_change_of_the_node_is_followed() {
    let mut node = Node::new();
    let svc = service(
        "metadata: {name: web, namespace: ns}\nspec: {clusterIP: 10.0.0.1, type: NodePort, ports: [{port: 80, nodePort: 30080}]}",
    );
    node.apply([svc, web_slice("{addresses: [10.1.0.1], nodeName: n2}")]);
    node.desired.set_node(facts());
    assert_eq!(node.apply([]), [""; 0]);
    node.desired.set_node(NodeFacts {
        name: "n2".into(),
        zone: None,
        addresses: vec!["192.0.2.7".parse().unwrap()],
        own: BTreeSet::new(),
    });
    assert_eq!(
        node.apply([]),
        ["ns/web (TCP, IPv4): 10.0.0.1:80/TCP 127.0.0.1:30080/TCP 192.0.2.7:30080/TCP -> 10.1.0.1:8080*"]
    );
}

#[test]
fn objects_with_nonsense_in_them_are_survived() {
    let svc = service(
        "metadata: {name: web, namespace: ns}\nspec: {clusterIP: x, clusterIPs: [10.0.0.1, y], ports: [{port: -1}, {name: a, port: 99999999}, {name: b, port: 80, protocol: X}, {name: c, port: 80}], externalIPs: [z]}",
    );
    let slice = slice(
        "metadata: {name: web-1, namespace: ns, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: [{addresses: []}, {addresses: [q]}, {addresses: ['::1']}]\nports: [{name: c, port: 70000}]",
    );
    let changes = Node::new().apply([svc, slice]);
    assert_eq!(changes, ["ns/web:c (TCP, IPv4): 10.0.0.1:80/TCP -> "]);
}
