//! Services that want one frontend.

use super::*;

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
