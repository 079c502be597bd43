//! Source ranges of load balancers.

use super::*;

/// The sources that a load balancer with these addresses and ranges allows, by family.
fn sources(balancer: &str, ranges: &str) -> Vec<String> {
    let mut node = Node::new();
    let svc = service(&format!(
        "metadata: {{name: web, namespace: ns}}\nspec: {{clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1'], type: \
         LoadBalancer, ports: [{{port: 80}}], externalIPs: [203.0.113.9], loadBalancerSourceRanges: [{ranges}]}}\nstatus: {{loadBalancer: {{ingress: \
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
    assert_eq!(
        sources("{ip: 203.0.113.9}", "10.0.0.0/8"),
        ["IPv4: 10.0.0.0/8", "IPv6: all"],
        "an address that is an external IP of the Service too is guarded"
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
