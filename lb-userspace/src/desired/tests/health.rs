//! Which Services load balancers ask this node for, and how many endpoints count.

use super::*;

const BALANCED: &str = ", type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 31000";

fn checks(node: &Node) -> Vec<String> {
    let checks = node.desired.health_checks().iter();
    checks
        .map(|((service, family), check)| {
            format!("{service} {family}: {} at {}", check.endpoints, check.port)
        })
        .collect()
}

#[test]
fn a_balanced_service_of_policy_local_alone_has_a_health_check() {
    for (spec, expected) in [
        (BALANCED, &["ns/web IPv4: 0 at 31000"][..]),
        (", type: LoadBalancer, healthCheckNodePort: 31000", &[]),
        (", type: LoadBalancer, externalTrafficPolicy: Local", &[]),
        (
            ", type: NodePort, externalTrafficPolicy: Local, healthCheckNodePort: 31000",
            &[],
        ),
    ] {
        let mut node = Node::new();
        let update = node.update([web(spec)]);
        assert_eq!(checks(&node), expected, "{spec}");
        assert_eq!(update.health_checks, !expected.is_empty(), "{spec}");
    }
}

#[test]
fn ready_endpoints_of_this_node_count_once_for_an_address() {
    let mut node = Node::new();
    node.update([
        service(&format!(
            "metadata: {{name: web, namespace: ns}}\nspec: {{clusterIP: 10.0.0.1, ports: [{{name: a, port: 80}}, {{name: \
             b, port: 81}}]{BALANCED}}}"
        )),
        slice(
            "metadata: {name: web-1, namespace: ns, labels: {kubernetes.io/service-name: web}}\naddressType: \
             IPv4\nports: [{name: a, port: 8080}, {name: b, port: 8081}]\nendpoints:\n\
             - {addresses: [10.1.0.1], nodeName: n1}\n\
             - {addresses: [10.1.0.2], nodeName: n1}\n\
             - {addresses: [10.1.0.3], nodeName: n1, conditions: {ready: false}}\n\
             - {addresses: [10.1.0.4], nodeName: n1, conditions: {ready: false, serving: true, terminating: true}}\n\
             - {addresses: [10.1.0.5], nodeName: n2}",
        ),
    ]);
    assert_eq!(checks(&node), ["ns/web IPv4: 2 at 31000"]);
}

#[test]
fn a_health_check_goes_with_its_endpoints_and_its_service() {
    let mut node = Node::new();
    node.update([web(BALANCED), web_slice("{addresses: [10.1.0.1], nodeName: n1}")]);
    assert_eq!(checks(&node), ["ns/web IPv4: 1 at 31000"]);
    let update = node.update([web_slice("{addresses: [10.1.0.9], nodeName: n1}")]);
    assert!(!update.health_checks, "as many as before");
    let update = node.update([web_slice("{addresses: [10.1.0.1], nodeName: n2}")]);
    assert!(update.health_checks);
    assert_eq!(checks(&node), ["ns/web IPv4: 0 at 31000"]);
    let update = node.update([web(&BALANCED.replace("31000", "31001"))]);
    assert!(update.health_checks);
    assert_eq!(checks(&node), ["ns/web IPv4: 0 at 31001"]);
    node.index.delete(&web(""));
    let update = node.update([]);
    assert!(update.health_checks);
    assert!(checks(&node).is_empty());
}

#[test]
fn families_are_counted_apart() {
    let mut node = Node::new();
    node.update([
        service(&format!(
            "metadata: {{name: web, namespace: ns}}\nspec: {{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], ports: \
             [{{port: 80}}]{BALANCED}}}"
        )),
        web_slice("{addresses: [10.1.0.1], nodeName: n1}"),
    ]);
    assert_eq!(
        checks(&node),
        ["ns/web IPv4: 1 at 31000", "ns/web IPv6: 0 at 31000"]
    );
}
