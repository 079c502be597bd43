//! Traffic policies and session affinity.

use super::*;

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
