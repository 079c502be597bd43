//! What is told about Services that are served otherwise than they ask for, and how many lack local endpoints.

use super::*;

fn notices(update: &Update) -> Vec<String> {
    update.notices.iter().map(ToString::to_string).collect()
}

#[test]
fn a_source_range_that_is_none_is_told_once_for_as_long_as_it_is_there() {
    let mut node = Node::new();
    let bad = ", type: LoadBalancer, loadBalancerSourceRanges: [' 192.0.2.0/24', '192.0.2/24']";
    let told = notices(&node.update([web(bad)]));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("ns/web") && told[0].contains("\"192.0.2/24\""),
        "{told:?}"
    );
    let again = node.update([web_slice("{addresses: [10.1.0.1]}")]);
    assert!(
        notices(&again).is_empty(),
        "the Service was touched, and says what it said"
    );
    assert!(notices(&node.update([web("")])).is_empty());
    assert_eq!(notices(&node.update([web(bad)])), told);
}

#[test]
fn it_is_told_of_sctp_that_processes_of_the_node_do_not_reach_it() {
    let mut node = Node::new();
    let service = service(
        "metadata: {name: web, namespace: ns}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 80, protocol: SCTP}]}",
    );
    let told = notices(&node.update([service]));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("SCTP"), "{told:?}");
}

#[test]
fn service_ports_without_local_endpoints_are_counted_by_policy() {
    let mut node = Node::new();
    let counts = |node: &Node| {
        let [v4, v6] = node.desired.tally().by_family;
        assert_eq!(v6, Default::default());
        (v4.internal, v4.external)
    };
    let policy = ", type: NodePort, internalTrafficPolicy: Local, externalTrafficPolicy: Local";
    node.update([web(policy)]);
    assert_eq!(counts(&node), (0, 0), "no endpoint anywhere is another matter");
    node.update([web_slice("{addresses: [10.1.0.1], nodeName: n2}")]);
    assert_eq!(counts(&node), (1, 1));
    node.update([web(", internalTrafficPolicy: Local")]);
    assert_eq!(counts(&node), (1, 0));
    node.update([web_slice("{addresses: [10.1.0.1], nodeName: n1}")]);
    assert_eq!(counts(&node), (0, 0));
    node.update([web(policy), web_slice("{addresses: [10.1.0.1], nodeName: n2}")]);
    node.delete(&web(""));
    assert_eq!(counts(&node), (0, 0));
}
