//! Which frontends a Service has.

use super::*;

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
