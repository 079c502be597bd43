//! Which endpoints are near enough. The node is n1, in zone a.

use super::*;

/// The last numbers of the addresses of the endpoints that serve, given the conditions and hints of 10.1.0.1, 10.1.0.2 …
fn serving(endpoints: &[&str]) -> Vec<u8> {
    serving_in(Some("a"), "", endpoints)
}

fn serving_in(zone: Option<&str>, spec: &str, endpoints: &[&str]) -> Vec<u8> {
    let mut node = Node::new();
    node.desired.set_node(NodeFacts {
        zone: zone.map(Into::into),
        ..facts()
    });
    let endpoints: Vec<String> = (1..)
        .zip(endpoints)
        .map(|(n, more)| format!("{{addresses: [10.1.0.{n}], {more}}}"))
        .collect();
    let update = node.update([web(spec), web_slice(&endpoints.join(", "))]);
    let [Change::Apply(_, port)] = &update.changes[..] else {
        panic!("{update:?}")
    };
    let mut last: Vec<u8> = port
        .backends()
        .keys()
        .map(|endpoint| match endpoint.addr {
            IpAddr::V4(addr) => addr.octets()[3],
            IpAddr::V6(_) => panic!("not asked for"),
        })
        .collect();
    last.sort_unstable();
    last
}

const NODE1: &str = "hints: {forNodes: [{name: n1}], forZones: [{name: a}]}";
const NODE2: &str = "hints: {forNodes: [{name: n2}], forZones: [{name: a}]}";
const NODE3: &str = "hints: {forNodes: [{name: n3}], forZones: [{name: b}]}";
const ZONE_A: &str = "hints: {forZones: [{name: a}]}";
const ZONE_AB: &str = "hints: {forZones: [{name: b}, {name: a}]}";
const ZONE_B: &str = "hints: {forZones: [{name: b}]}";
const NO_HINTS: &str = "hints: {}";

#[test]
fn endpoints_meant_for_the_node_go_before_those_of_its_zone() {
    assert_eq!(serving(&[NODE1, NODE2, NODE3]), [1]);
    assert_eq!(
        serving(&[NODE3, NODE2, NODE3]),
        [2],
        "nobody on the node: its zone"
    );
    assert_eq!(serving(&[NODE3, NODE3]), [1, 2], "nobody in the zone: everybody");
}

#[test]
fn endpoints_meant_for_the_zone_serve() {
    assert_eq!(serving(&[ZONE_A, ZONE_B, ZONE_AB]), [1, 3]);
    assert_eq!(serving(&[ZONE_B, ZONE_B]), [1, 2]);
}

#[test]
fn one_ready_endpoint_without_hints_is_enough_to_ignore_them_all() {
    assert_eq!(serving(&[ZONE_A, ZONE_B, NO_HINTS]), [1, 2, 3]);
    assert_eq!(
        serving(&[NODE1, NODE2, ZONE_A]),
        [1, 2, 3],
        "node hints that not all have are ignored, zone hints hold"
    );
    assert_eq!(serving(&[NODE1, NODE3, ZONE_A]), [1, 3]);
}

#[test]
fn endpoints_that_are_not_ready_have_no_say() {
    let unready = "conditions: {ready: false}";
    assert_eq!(serving(&[ZONE_A, ZONE_B, unready]), [1]);
    let unready_here = "conditions: {ready: false}, hints: {forZones: [{name: a}]}";
    assert_eq!(
        serving(&[ZONE_B, ZONE_B, unready_here]),
        [1, 2],
        "failover to other zones"
    );
}

#[test]
fn a_node_without_a_zone_goes_by_no_zone_hints() {
    assert_eq!(serving_in(None, "", &[ZONE_A, ZONE_B]), [1, 2]);
    assert_eq!(serving_in(None, "", &[NODE1, NODE2]), [1], "its name it has");
}

#[test]
fn terminating_endpoints_stand_in_without_regard_to_hints() {
    let terminating =
        "conditions: {ready: false, serving: true, terminating: true}, hints: {forZones: [{name: b}]}";
    assert_eq!(
        serving(&[
            terminating,
            "conditions: {ready: false, serving: false, terminating: true}"
        ]),
        [1]
    );
}

#[test]
fn topology_never_applies_to_the_local_set() {
    let here = "nodeName: n1, hints: {forZones: [{name: b}]}";
    let there = "nodeName: n2, hints: {forZones: [{name: a}]}";
    assert_eq!(serving_in(Some("a"), "", &[here, there]), [2]);
    assert_eq!(
        serving_in(Some("a"), ", internalTrafficPolicy: Local", &[here, there]),
        [1, 2],
        "by the policy the one on the node, for others the near one"
    );
}

#[test]
fn an_endpoint_that_is_not_near_keeps_its_flows() {
    let mut node = Node::new();
    node.desired.set_node(NodeFacts {
        zone: Some("a".into()),
        ..facts()
    });
    let endpoints = format!("{{addresses: [10.1.0.1], {ZONE_A}}}, {{addresses: [10.1.0.2], {ZONE_B}}}");
    let update = node.update([web(""), web_slice(&endpoints)]);
    let [Change::Apply(_, port)] = &update.changes[..] else {
        panic!("{update:?}")
    };
    let kept: Vec<String> = port.kept.keys().map(ToString::to_string).collect();
    assert_eq!(kept, ["10.1.0.2:8080"]);
}

#[test]
fn a_node_that_changes_its_zone_is_followed() {
    let mut node = Node::new();
    let endpoints = format!("{{addresses: [10.1.0.1], {ZONE_A}}}, {{addresses: [10.1.0.2], {ZONE_B}}}");
    node.apply([web(""), web_slice(&endpoints)]);
    for (zone, last) in [("a", 1), ("b", 2)] {
        node.desired.set_node(NodeFacts {
            zone: Some(zone.into()),
            ..facts()
        });
        assert_eq!(
            node.apply([]),
            [format!(
                "ns/web (TCP, IPv4): 10.0.0.1:80/TCP -> 10.1.0.{last}:8080"
            )]
        );
    }
}
