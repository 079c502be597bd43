use super::*;
use crate::watch::{
    Event, Kind, Object,
    testing::{service, slice},
};

/// Index and desired state of a node "n1" with the addresses 192.0.2.1 and 2001:db8::1.
struct Node {
    index: Index,
    desired: Desired,
}

fn facts() -> NodeFacts {
    NodeFacts {
        name: "n1".into(),
        addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        own: ["192.0.2.1", "192.0.2.99", "2001:db8::1"]
            .map(|addr| addr.parse().unwrap())
            .into(),
    }
}

impl Node {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let mut index = Index::new();
        for kind in Kind::ALL {
            index.reset(kind, Vec::new());
        }
        let mut node = Self {
            index,
            desired: Desired::new(options, facts()),
        };
        assert_eq!(
            node.desired.update(&mut node.index),
            Some(Update::default()),
            "the first update always comes"
        );
        node
    }

    fn update(&mut self, objects: impl IntoIterator<Item = Object>) -> Update {
        objects.into_iter().for_each(|object| self.index.apply(object));
        self.desired.update(&mut self.index).unwrap_or_default()
    }

    /// The changes that objects lead to, as text.
    fn apply(&mut self, objects: impl IntoIterator<Item = Object>) -> Vec<String> {
        self.update(objects).changes.iter().map(describe).collect()
    }

    fn delete(&mut self, object: &Object) -> Vec<String> {
        self.index.delete(object);
        self.update([]).changes.iter().map(describe).collect()
    }
}

fn describe(change: &Change) -> String {
    match change {
        Change::Delete(key) => format!("- {key}"),
        Change::Apply(key, port) => {
            let frontends: Vec<_> = port.frontends.keys().map(ToString::to_string).collect();
            let endpoints: Vec<_> = port
                .endpoints
                .iter()
                .map(|(addr, e)| format!("{addr}{}", if e.local { "*" } else { "" }))
                .collect();
            format!("{key}: {} -> {}", frontends.join(" "), endpoints.join(" "))
        }
    }
}

/// A Service of namespace ns with one port 80.
fn web(spec: &str) -> Object {
    service(&format!(
        "metadata: {{name: web, namespace: ns}}\nspec: {{clusterIP: 10.0.0.1, ports: [{{port: 80}}]{spec}}}"
    ))
}

fn web_slice(endpoints: &str) -> Object {
    slice(&format!(
        "metadata: {{name: web-1, namespace: ns, labels: {{kubernetes.io/service-name: web}}}}\naddressType: \
         IPv4\nendpoints: [{endpoints}]\nports: [{{port: 8080}}]"
    ))
}

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

fn with_frontends(spec: &str) -> Vec<String> {
    let mut node = Node::new();
    let update = node.update([service(&format!(
        "metadata: {{name: web, namespace: ns}}\n{spec}"
    ))]);
    let mut found = Vec::new();
    for change in &update.changes {
        let Change::Apply(_, port) = change else {
            panic!("{change:?}")
        };
        found.extend(
            port.frontends
                .iter()
                .map(|(frontend, kind)| format!("{frontend} {kind:?}")),
        );
    }
    found
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
fn headless_external_name_and_address_less_services_have_no_frontends() {
    for spec in [
        "{clusterIP: None, ports: [{port: 80}]}",
        "{ports: [{port: 80, nodePort: 30080}], type: NodePort}",
        "{clusterIP: '', ports: [{port: 80}]}",
        "{clusterIP: 10.0.0.1, type: ExternalName, externalName: a.b, ports: [{port: 80}]}",
    ] {
        assert_eq!(with_frontends(&format!("spec: {spec}")), [""; 0], "{spec}");
    }
}

#[test]
fn each_family_has_its_own_service_port() {
    let spec = "spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], ports: [{port: 80}], externalIPs: [198.51.100.1, '2001:db8::9']}";
    assert_eq!(
        with_frontends(spec),
        [
            "10.0.0.1:80/TCP ClusterIp",
            "198.51.100.1:80/TCP ExternalIp",
            "[2001:db8::9]:80/TCP ExternalIp",
            "[fd00::1]:80/TCP ClusterIp"
        ]
    );
    let only_v6 = spec.replace("10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1']", "'fd00::1'");
    assert_eq!(
        with_frontends(&only_v6),
        ["[2001:db8::9]:80/TCP ExternalIp", "[fd00::1]:80/TCP ClusterIp"]
    );
}

#[test]
fn node_ports_are_served_on_the_nodes_addresses_and_on_loopback() {
    let spec = "spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], type: NodePort, ports: [{port: 80, nodePort: 30080}]}";
    assert_eq!(
        with_frontends(spec),
        [
            "10.0.0.1:80/TCP ClusterIp",
            "127.0.0.1:30080/TCP Localhost",
            "192.0.2.1:30080/TCP NodePort",
            "[::1]:30080/TCP Localhost",
            "[2001:db8::1]:30080/TCP NodePort",
            "[fd00::1]:80/TCP ClusterIp"
        ]
    );
}

#[test]
fn load_balancer_addresses_count_with_mode_vip_or_none() {
    let status = "status: {loadBalancer: {ingress: [{ip: 203.0.113.1}, {ip: 203.0.113.2, ipMode: VIP}, {ip: 203.0.113.3, ipMode: Proxy}, {hostname: lb.example.org}]}}";
    let spec = "spec: {clusterIP: 10.0.0.1, type: LoadBalancer, ports: [{port: 80}]}";
    assert_eq!(
        with_frontends(&format!("{spec}\n{status}")),
        [
            "10.0.0.1:80/TCP ClusterIp",
            "203.0.113.1:80/TCP LoadBalancer",
            "203.0.113.2:80/TCP LoadBalancer"
        ]
    );
}

#[test]
fn external_ips_can_be_turned_off() {
    let mut node = Node::with(Options { external_ips: false });
    assert_eq!(
        node.apply([web(", externalIPs: [198.51.100.1]")]),
        ["ns/web (TCP, IPv4): 10.0.0.1:80/TCP -> "]
    );
}

#[test]
fn ports_are_told_apart_by_name_and_protocol() {
    let mut node = Node::new();
    let dns = "metadata: {name: dns, namespace: ns}\nspec: {clusterIP: 10.0.0.10, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}]}";
    let slice = slice(
        "metadata: {name: dns-1, namespace: ns, labels: {kubernetes.io/service-name: dns}}\naddressType: IPv4\nendpoints: \
         [{addresses: [10.1.0.1]}]\nports: [{name: dns, port: 5353, protocol: UDP}, {name: dns-tcp, port: 5354}]",
    );
    assert_eq!(
        node.apply([service(dns), slice]),
        [
            "ns/dns:dns (UDP, IPv4): 10.0.0.10:53/UDP -> 10.1.0.1:5353",
            "ns/dns:dns-tcp (TCP, IPv4): 10.0.0.10:53/TCP -> 10.1.0.1:5354"
        ]
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

/// The endpoints of the local set, given the spec and the slice of Service web.
fn local_set(spec: &str, endpoints: &str) -> (Policies, Vec<String>) {
    let mut node = Node::new();
    let update = node.update([web(spec), web_slice(endpoints)]);
    let [Change::Apply(_, port)] = &update.changes[..] else {
        panic!("{update:?}")
    };
    (
        port.policies,
        port.local.iter().map(ToString::to_string).collect(),
    )
}

const HERE: &str = "{addresses: [10.1.0.1], nodeName: n1}, {addresses: [10.1.0.2], nodeName: n2}";

#[test]
fn policy_local_counts_the_endpoints_on_this_node() {
    let (policies, local) = local_set(", internalTrafficPolicy: Local", HERE);
    assert!(policies.internal_local && !policies.external_local);
    assert_eq!(local, ["10.1.0.1:8080"]);
    let (policies, local) = local_set(", externalTrafficPolicy: Local", HERE);
    assert!(policies.external_local && !policies.internal_local);
    assert_eq!(local, ["10.1.0.1:8080"]);
}

#[test]
fn without_policy_local_there_is_no_local_set() {
    let spec = ", internalTrafficPolicy: Cluster, externalTrafficPolicy: Cluster";
    assert_eq!(local_set(spec, HERE), (Policies::default(), vec![]));
}

#[test]
fn terminating_endpoints_of_this_node_stand_in_for_policy_local_when_none_here_is_ready() {
    let leaving = "conditions: {ready: false, serving: true, terminating: true}";
    let elsewhere = "{addresses: [10.1.0.2], nodeName: n2}";
    let (_, local) = local_set(
        ", externalTrafficPolicy: Local",
        &format!("{{addresses: [10.1.0.1], nodeName: n1, {leaving}}}, {elsewhere}"),
    );
    assert_eq!(local, ["10.1.0.1:8080"]);
    let ready = "{addresses: [10.1.0.3], nodeName: n1}";
    let (_, local) = local_set(
        ", externalTrafficPolicy: Local",
        &format!("{{addresses: [10.1.0.1], nodeName: n1, {leaving}}}, {ready}"),
    );
    assert_eq!(local, ["10.1.0.3:8080"], "a ready one goes before");
}

#[test]
fn affinity_has_kubernetes_default_timeout_and_the_one_that_is_given() {
    let affinity = |spec: &str| local_set(spec, HERE).0.affinity;
    assert_eq!(affinity(""), 0);
    assert_eq!(affinity(", sessionAffinity: None"), 0);
    assert_eq!(affinity(", sessionAffinity: ClientIP"), 10_800);
    let given = ", sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 7}}";
    assert_eq!(affinity(given), 7);
}

#[test]
fn a_change_of_the_policy_alone_is_told() {
    let mut node = Node::new();
    node.apply([web(""), web_slice(HERE)]);
    assert_eq!(node.apply([web(", internalTrafficPolicy: Local")]).len(), 1);
    assert_eq!(node.apply([web(", internalTrafficPolicy: Local")]).len(), 0);
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
        addresses: vec!["192.0.2.7".parse().unwrap()],
        own: BTreeSet::new(),
    });
    assert_eq!(
        node.apply([]),
        ["ns/web (TCP, IPv4): 10.0.0.1:80/TCP 127.0.0.1:30080/TCP 192.0.2.7:30080/TCP -> 10.1.0.1:8080*"]
    );
}

#[test]
fn addresses_of_services_are_those_that_the_node_does_not_have_itself() {
    let mut node = Node::new();
    let svc = service(
        "metadata: {name: web, namespace: ns}\nspec: {clusterIP: 10.0.0.1, type: LoadBalancer, externalIPs: [192.0.2.99, \
         198.51.100.1], ports: [{port: 80, nodePort: 30080}, {name: b, port: 81}]}\nstatus: {loadBalancer: {ingress: [{ip: \
         192.0.2.1}, {ip: 203.0.113.1}]}}",
    );
    let addresses = |update: &Update| -> Vec<String> {
        let of = |change: &Change| match change {
            Change::Apply(_, port) => port
                .addresses
                .iter()
                .map(|(addr, kind)| format!("{addr} {kind:?}"))
                .collect::<Vec<_>>()
                .join(", "),
            Change::Delete(_) => panic!("{change:?}"),
        };
        update.changes.iter().map(of).collect()
    };
    let without_own = "10.0.0.1 ClusterIp, 198.51.100.1 ExternalIp, 203.0.113.1 LoadBalancer";
    assert_eq!(addresses(&node.update([svc])), [without_own; 2]);
    // The node gets rid of an address.
    let mut own = facts();
    own.own.remove(&"192.0.2.99".parse().unwrap());
    node.desired.set_node(own);
    let all = "10.0.0.1 ClusterIp, 192.0.2.99 ExternalIp, 198.51.100.1 ExternalIp, 203.0.113.1 LoadBalancer";
    assert_eq!(addresses(&node.update([])), [all; 2]);
}

/// A Service with an external IP that others want as well.
fn claimant(name: &str, created: &str) -> Object {
    let ip = name.bytes().last().unwrap_or(0);
    service(&format!(
        "metadata: {{name: {name}, namespace: ns{created}}}\nspec: {{clusterIP: 10.0.0.{ip}, ports: [{{port: 80}}], \
         externalIPs: [198.51.100.1]}}"
    ))
}

fn owner(changes: &[String]) -> Vec<String> {
    let of = |change: &String| change.split(' ').next().unwrap_or_default().to_owned();
    changes
        .iter()
        .filter(|change| change.contains("198.51.100.1"))
        .map(of)
        .collect()
}

#[test]
fn of_two_that_want_one_frontend_the_oldest_has_it_and_the_other_is_told() {
    let mut node = Node::new();
    let young = claimant("a", ", creationTimestamp: '2026-02-01T00:00:00Z'");
    let old = claimant("b", ", creationTimestamp: '2026-01-01T00:00:00Z'");
    let update = node.update([young.clone(), old.clone()]);
    let changes: Vec<String> = update.changes.iter().map(describe).collect();
    assert_eq!(owner(&changes), ["ns/b"]);
    assert_eq!(changes.len(), 2, "the other one keeps its cluster IP");
    assert_eq!(
        update.notices.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "Service ns/a (TCP, IPv4): 198.51.100.1:80/TCP belongs to ns/b (TCP, IPv4), which is older; change one of the two \
          Services"
        ]
    );
    assert_eq!(
        owner(&node.delete(&old)),
        ["ns/a"],
        "it takes over when the first goes"
    );
    assert_eq!(owner(&node.apply([old])), ["ns/b"]);
}

#[test]
fn of_equal_age_the_first_by_name_has_the_frontend_and_undated_ones_come_last() {
    let mut node = Node::new();
    assert_eq!(owner(&node.apply([claimant("b", "")])), ["ns/b"]);
    assert_eq!(owner(&node.apply([claimant("a", "")])), ["ns/a"]);
    assert_eq!(
        owner(&node.apply([claimant("c", ", creationTimestamp: '2026-01-01T00:00:00Z'")])),
        ["ns/c"]
    );
    assert_eq!(owner(&node.delete(&claimant("c", ""))), ["ns/a"]);
}

#[test]
fn a_service_port_that_lost_all_its_frontends_is_not_desired() {
    let mut node = Node::new();
    let twin = |name: &str| {
        service(&format!(
            "metadata: {{name: {name}, namespace: ns}}\nspec: {{clusterIP: 10.0.0.1, ports: [{{port: 80}}]}}"
        ))
    };
    assert_eq!(
        node.apply([twin("a"), twin("b")]),
        ["ns/a (TCP, IPv4): 10.0.0.1:80/TCP -> "]
    );
    assert_eq!(
        node.delete(&twin("a")),
        ["- ns/a (TCP, IPv4)", "ns/b (TCP, IPv4): 10.0.0.1:80/TCP -> "]
    );
}

/// The sources that a load balancer with these addresses and ranges allows, by family.
fn sources(balancer: &str, ranges: &str) -> Vec<String> {
    let mut node = Node::new();
    let svc = service(&format!(
        "metadata: {{name: web, namespace: ns}}\nspec: {{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], type: \
         LoadBalancer, ports: [{{port: 80}}], loadBalancerSourceRanges: [{ranges}]}}\nstatus: {{loadBalancer: {{ingress: \
         [{balancer}]}}}}"
    ));
    let of = |change: &Change| match change {
        Change::Apply(key, port) => port.sources.as_ref().map_or_else(
            || format!("{}: all", key.family),
            |sources| {
                let ranges: Vec<String> = sources.ranges.iter().map(ToString::to_string).collect();
                let node = if sources.node { ", the node" } else { "" };
                format!("{}: {}{node}", key.family, ranges.join(", "))
            },
        ),
        Change::Delete(_) => panic!("{change:?}"),
    };
    node.update([svc]).changes.iter().map(of).collect()
}

#[test]
fn source_ranges_count_for_their_own_family() {
    let balancer = "{ip: 203.0.113.1}, {ip: '2001:db8:7::1'}";
    for (ranges, allowed) in [
        ("", ["IPv4: all", "IPv6: all"]),
        ("' 10.0.0.7/8 '", ["IPv4: 10.0.0.0/8", "IPv6: all"]),
        ("'fd00::/8'", ["IPv4: all", "IPv6: fd00::/8"]),
        (
            "10.0.0.0/8, 0.0.0.0/0, 'fd00::/8'",
            ["IPv4: all", "IPv6: fd00::/8"],
        ),
    ] {
        assert_eq!(sources(balancer, ranges), allowed, "{ranges}");
    }
    assert_eq!(
        sources("", "10.0.0.0/8"),
        ["IPv4: all", "IPv6: all"],
        "without a load balancer's address there is nothing to guard"
    );
}

#[test]
fn where_the_node_is_allowed_the_load_balancer_s_address_is_a_source_too() {
    assert_eq!(
        sources("{ip: 203.0.113.1}, {ip: 203.0.113.2}", "192.0.2.0/24"),
        [
            "IPv4: 192.0.2.0/24, 203.0.113.1/32, 203.0.113.2/32, the node",
            "IPv6: all"
        ]
    );
}

#[test]
fn only_the_load_balancer_s_addresses_go_by_source_ranges() {
    let port = |node| ServicePort {
        sources: Some(Sources {
            ranges: BTreeSet::new(),
            node,
        }),
        ..ServicePort::default()
    };
    let refused = FrontendFlags::RANGES | FrontendFlags::NODE_REFUSED;
    assert_eq!(port(false).flags(FrontendKind::LoadBalancer), refused);
    assert_eq!(
        port(true).flags(FrontendKind::LoadBalancer),
        FrontendFlags::RANGES
    );
    for kind in [
        FrontendKind::ClusterIp,
        FrontendKind::NodePort,
        FrontendKind::ExternalIp,
        FrontendKind::Localhost,
    ] {
        assert_eq!(port(false).flags(kind), 0);
    }
}

#[test]
fn sctp_ports_are_served() {
    let mut node = Node::new();
    let svc = service(
        "metadata: {name: web, namespace: ns}\nspec: {clusterIP: 10.0.0.1, ports: [{name: a, port: 80}, {name: b, port: 80, protocol: SCTP}]}",
    );
    let slice = slice(
        "metadata: {name: web-1, namespace: ns, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: [{addresses: [10.1.0.1]}]\nports: [{name: a, port: 8080}, {name: b, port: 38412, protocol: SCTP}]",
    );
    let changes = node.apply([svc, slice]);
    assert_eq!(
        changes,
        [
            "ns/web:a (TCP, IPv4): 10.0.0.1:80/TCP -> 10.1.0.1:8080",
            "ns/web:b (SCTP, IPv4): 10.0.0.1:80/SCTP -> 10.1.0.1:38412",
        ]
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
