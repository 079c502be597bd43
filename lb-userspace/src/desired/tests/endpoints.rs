//! Who serves a service port.

use super::*;

/// The endpoints that serve Service web, given those of its slice.
fn serving(endpoints: &str) -> Vec<String> {
    let mut node = Node::new();
    let update = node.update([web(""), web_slice(endpoints)]);
    let [Change::Apply(_, port)] = &update.changes[..] else {
        panic!("{update:?}")
    };
    port.endpoints
        .iter()
        .map(|(addr, e)| format!("{addr}{}", if e.local { "*" } else { "" }))
        .collect()
}

#[test]
fn a_service_port_has_its_frontend_and_endpoints() {
    let mut node = Node::new();
    let endpoints = "{addresses: [10.1.0.1], nodeName: n1}, {addresses: [10.1.0.2], nodeName: n2}, {addresses: [10.1.0.3]}";
    assert_eq!(
        node.apply([web(""), web_slice(endpoints)]),
        ["ns/web (TCP, IPv4): 10.0.0.1:80/TCP -> 10.1.0.1:8080* 10.1.0.2:8080 10.1.0.3:8080"]
    );
}

#[test]
fn each_slice_gives_its_own_number_to_a_named_port() {
    let slice = |n: u32, ports: &str| {
        slice(&format!(
            "metadata: {{name: s-{n}, namespace: ns, labels: {{kubernetes.io/service-name: s}}}}\naddressType: \
             IPv4\nendpoints: [{{addresses: [10.1.0.{n}]}}]\nports: {ports}"
        ))
    };
    let svc = service(
        "metadata: {name: s, namespace: ns}\nspec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}",
    );
    let slices = [
        slice(1, "[{name: http, port: 8080}]"),
        slice(
            2,
            "[{name: admin, port: 9}, {name: http, port: 8081}, {name: http, port: 8082}]",
        ),
        slice(3, "[{name: other, port: 8083}]"),
        slice(4, "[{name: http}]"),
        slice(5, "[{name: http, port: 8085, protocol: UDP}]"),
    ];
    assert_eq!(
        Node::new().apply(slices.into_iter().chain([svc])),
        ["ns/s:http (TCP, IPv4): 10.0.0.1:80/TCP -> 10.1.0.1:8080 10.1.0.2:8081"],
        "the first port with the name; slices without the port, or without a number for it, do not count"
    );
}

#[test]
fn the_address_type_decides_the_family() {
    let slice = |n: u32, kind: &str, addr: &str| {
        slice(&format!(
            "metadata: {{name: s-{n}, namespace: ns, labels: {{kubernetes.io/service-name: s}}}}\naddressType: \
             {kind}\nendpoints: [{{addresses: ['{addr}']}}]\nports: [{{port: 80}}]"
        ))
    };
    let svc = service(
        "metadata: {name: s, namespace: ns}\nspec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], ports: [{port: 80}]}",
    );
    let slices = [
        slice(1, "IPv4", "10.1.0.1"),
        slice(2, "IPv6", "fd01::1"),
        slice(3, "FQDN", "10.1.0.3"),
    ];
    assert_eq!(
        Node::new().apply(slices.into_iter().chain([svc])),
        [
            "ns/s (TCP, IPv4): 10.0.0.1:80/TCP -> 10.1.0.1:80",
            "ns/s (TCP, IPv6): [fd00::1]:80/TCP -> [fd01::1]:80"
        ]
    );
}

#[test]
fn only_the_first_address_of_an_endpoint_counts() {
    assert_eq!(serving("{addresses: [10.1.0.1, 10.1.0.2]}"), ["10.1.0.1:8080"]);
}

#[test]
fn absent_conditions_mean_ready() {
    assert_eq!(
        serving("{addresses: [10.1.0.1]}, {addresses: [10.1.0.2], conditions: {}}").len(),
        2
    );
}

#[test]
fn only_ready_endpoints_serve_while_there_are_any() {
    let endpoints = "{addresses: [10.1.0.1], conditions: {ready: true}}, {addresses: [10.1.0.2], conditions: {ready: false}}, \
                     {addresses: [10.1.0.3], conditions: {ready: false, serving: true, terminating: true}}";
    assert_eq!(serving(endpoints), ["10.1.0.1:8080"]);
}

#[test]
fn terminating_endpoints_that_serve_stand_in_when_none_is_ready() {
    let endpoints = "{addresses: [10.1.0.1], conditions: {ready: false, serving: true, terminating: true}}, \
                     {addresses: [10.1.0.2], conditions: {ready: false, serving: false, terminating: true}}, \
                     {addresses: [10.1.0.3], conditions: {ready: false, serving: true, terminating: false}}";
    assert_eq!(serving(endpoints), ["10.1.0.1:8080"]);
}

#[test]
fn a_service_without_usable_endpoints_keeps_its_frontends_to_reject() {
    assert_eq!(
        serving("{addresses: [10.1.0.1], conditions: {ready: false}}"),
        [""; 0]
    );
    assert_eq!(
        Node::new().apply([web("")]),
        ["ns/web (TCP, IPv4): 10.0.0.1:80/TCP -> "]
    );
}

#[test]
fn unready_endpoints_that_are_published_arrive_as_ready_and_serve() {
    assert_eq!(
        serving("{addresses: [10.1.0.1], conditions: {ready: true, serving: false, terminating: true}}"),
        ["10.1.0.1:8080"]
    );
}

#[test]
fn of_duplicates_the_one_that_is_not_terminating_wins() {
    let running = "{addresses: [10.1.0.1], conditions: {ready: true}, nodeName: n1}";
    let leaving =
        "{addresses: [10.1.0.1], conditions: {ready: false, serving: true, terminating: true}, nodeName: n2}";
    for endpoints in [format!("{running}, {leaving}"), format!("{leaving}, {running}")] {
        assert_eq!(serving(&endpoints), ["10.1.0.1:8080*"]);
    }
    let unready = "{addresses: [10.1.0.1], conditions: {ready: false, serving: false}}";
    for endpoints in [format!("{unready}, {leaving}"), format!("{leaving}, {unready}")] {
        assert_eq!(
            serving(&endpoints),
            [""; 0],
            "it is taken although it is not ready"
        );
    }
}

#[test]
fn an_endpoint_in_several_slices_is_one_endpoint() {
    let other = slice(
        "metadata: {name: web-2, namespace: ns, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: \
         [{addresses: [10.1.0.1]}, {addresses: [10.1.0.2]}]\nports: [{port: 8080}]",
    );
    assert_eq!(
        Node::new().apply([web(""), web_slice("{addresses: [10.1.0.1]}"), other]),
        ["ns/web (TCP, IPv4): 10.0.0.1:80/TCP -> 10.1.0.1:8080 10.1.0.2:8080"]
    );
}

/// The endpoints of Service web that are kept, given the rest of its spec and the endpoints of its slice.
fn kept(spec: &str, endpoints: &str) -> Vec<String> {
    let mut node = Node::new();
    let update = node.update([web(spec), web_slice(endpoints)]);
    let [Change::Apply(_, port)] = &update.changes[..] else {
        panic!("{update:?}")
    };
    port.kept
        .iter()
        .map(|(addr, e)| format!("{addr}{}", if e.local { "*" } else { "" }))
        .collect()
}

const LEAVES: &str = "conditions: {ready: false, serving: true, terminating: true}";

#[test]
fn endpoints_that_serve_and_get_no_new_flows_are_kept() {
    let others = format!(
        "{{addresses: [10.1.0.2], {LEAVES}}}, {{addresses: [10.1.0.3], nodeName: n1, {LEAVES}}}, {{addresses: [10.1.0.4], \
         conditions: {{ready: false, serving: true}}}}, {{addresses: [10.1.0.5], conditions: {{ready: false, serving: \
         false}}}}, {{addresses: [10.1.0.6], conditions: {{ready: false, serving: false, terminating: true}}}}"
    );
    assert_eq!(
        kept("", &format!("{{addresses: [10.1.0.1]}}, {others}")),
        ["10.1.0.2:8080", "10.1.0.3:8080*", "10.1.0.4:8080"]
    );
    assert_eq!(
        kept("", &others),
        ["10.1.0.4:8080"],
        "those that stand in get new flows"
    );
}

#[test]
fn endpoints_that_stand_in_for_policy_local_are_not_kept() {
    let endpoints = format!("{{addresses: [10.1.0.1]}}, {{addresses: [10.1.0.2], nodeName: n1, {LEAVES}}}");
    assert_eq!(kept("", &endpoints), ["10.1.0.2:8080*"]);
    assert_eq!(kept(", externalTrafficPolicy: Local", &endpoints), [""; 0]);
}

#[test]
fn an_endpoint_that_ends_to_serve_is_told() {
    let mut node = Node::new();
    let slice = |serving| {
        web_slice(&format!(
            "{{addresses: [10.1.0.1]}}, {{addresses: [10.1.0.2], conditions: {{ready: false, serving: {serving}, \
             terminating: true}}}}"
        ))
    };
    node.apply([web(""), slice(true)]);
    assert_eq!(node.apply([slice(true)]).len(), 0);
    assert_eq!(node.apply([slice(false)]).len(), 1);
}
