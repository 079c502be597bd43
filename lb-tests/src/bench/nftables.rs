//! The rules of kube-proxy's nftables mode.
//!
//! Their shape is that of Kubernetes 1.36 (`pkg/proxy/nftables/proxier.go`), which needs fewer rules for a packet than
//! earlier versions: hairpin connections in one set, endpoints in the map of each service's only rule. Facts are restated,
//! nothing is left out that a packet of the benchmark passes.

use std::{
    collections::hash_map::DefaultHasher,
    fmt::Write as _,
    hash::{Hash as _, Hasher as _},
};

use super::services::{CLUSTER_CIDR, Port, SERVICE_CIDR, Service, node_address};

/// What all services share.
fn base() -> String {
    let node = node_address();
    format!(
        r#"add table ip kube-proxy {{ comment "rules for kube-proxy" ; }}
add set ip kube-proxy cluster-ips {{ type ipv4_addr ; comment "Active ClusterIPs" ; }}
add set ip kube-proxy nodeport-ips {{ type ipv4_addr ; comment "IPs that accept NodePort traffic" ; }}
add set ip kube-proxy hairpin-connections {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service ; comment "service hairpin connections" ; }}
add map ip kube-proxy firewall-ips {{ type ipv4_addr . inet_proto . inet_service : verdict ; comment "destinations that are subject to LoadBalancerSourceRanges" ; }}
add map ip kube-proxy no-endpoint-nodeports {{ type inet_proto . inet_service : verdict ; comment "vmap to drop or reject packets to service nodeports with no endpoints" ; }}
add map ip kube-proxy no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict ; comment "vmap to drop or reject packets to services with no endpoints" ; }}
add map ip kube-proxy service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict ; comment "ClusterIP, ExternalIP and LoadBalancer IP traffic" ; }}
add map ip kube-proxy service-nodeports {{ type inet_proto . inet_service : verdict ; comment "NodePort traffic" ; }}
add chain ip kube-proxy filter-prerouting-pre-dnat {{ type filter hook prerouting priority -110 ; }}
add chain ip kube-proxy filter-output-pre-dnat {{ type filter hook output priority -110 ; }}
add chain ip kube-proxy filter-forward {{ type filter hook forward priority 0 ; }}
add chain ip kube-proxy filter-input {{ type filter hook input priority 0 ; }}
add chain ip kube-proxy filter-output {{ type filter hook output priority 0 ; }}
add chain ip kube-proxy nat-output {{ type nat hook output priority -100 ; }}
add chain ip kube-proxy nat-postrouting {{ type nat hook postrouting priority 100 ; }}
add chain ip kube-proxy nat-prerouting {{ type nat hook prerouting priority -100 ; }}
add chain ip kube-proxy cluster-ips-check
add chain ip kube-proxy firewall-check
add chain ip kube-proxy masquerading
add chain ip kube-proxy nodeport-endpoints-check
add chain ip kube-proxy reject-chain {{ comment "helper for @no-endpoint-services / @no-endpoint-nodeports" ; }}
add chain ip kube-proxy service-endpoints-check
add chain ip kube-proxy services
add rule ip kube-proxy reject-chain reject
add rule ip kube-proxy cluster-ips-check ip daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"
add rule ip kube-proxy cluster-ips-check ip daddr {{ {SERVICE_CIDR} }} drop comment "Drop traffic to unallocated ClusterIPs"
add rule ip kube-proxy firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips
add rule ip kube-proxy service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services
add rule ip kube-proxy nodeport-endpoints-check ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
add rule ip kube-proxy filter-prerouting-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-output-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-forward ct state new jump service-endpoints-check
add rule ip kube-proxy filter-forward ct state new jump cluster-ips-check
add rule ip kube-proxy filter-input ct state new jump nodeport-endpoints-check
add rule ip kube-proxy filter-input ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output ct state new jump cluster-ips-check
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy nat-output jump services
add rule ip kube-proxy nat-postrouting jump masquerading
add rule ip kube-proxy services ip daddr @cluster-ips ip saddr != {CLUSTER_CIDR} mark set mark or 0x4000 comment "masquerade clusterIP traffic from outside cluster"
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add rule ip kube-proxy services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
add rule ip kube-proxy masquerading mark and 0x4000 != 0 mark set mark xor 0x4000 masquerade fully-random
add rule ip kube-proxy masquerading ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
add element ip kube-proxy nodeport-ips {{ {node} }}
"#
    )
}

/// The rules, as `nft -f` reads them.
pub(crate) fn rules(services: &[Service]) -> String {
    let mut text = base();
    let mut hairpins = std::collections::BTreeSet::new();
    for service in services {
        let _ = writeln!(
            text,
            "add element ip kube-proxy cluster-ips {{ {} }}",
            service.cluster_ip
        );
        for port in &service.ports {
            add_port(&mut text, service, port);
            for (addr, _) in &service.endpoints {
                hairpins.insert(format!("{addr} . {addr} . {} . {}", port.protocol, port.target));
            }
        }
    }
    for hairpin in hairpins {
        let _ = writeln!(
            text,
            "add element ip kube-proxy hairpin-connections {{ {hairpin} }}"
        );
    }
    text
}

fn add_port(text: &mut String, service: &Service, port: &Port) {
    let (name, protocol) = (&service.name, port.protocol);
    let path = format!("default/{name}/{protocol}/{}", port.name);
    let base = format!("{}-{path}", hash(&path));
    let endpoints: Vec<String> = (0..)
        .zip(&service.endpoints)
        .map(|(nth, (addr, _))| format!("{nth} : {addr} . {}", port.target))
        .collect();
    let _ = writeln!(
        text,
        "add chain ip kube-proxy service-{base}\nadd rule ip kube-proxy service-{base} meta l4proto {protocol} dnat ip to \
         numgen random mod {} map {{ {} }}\nadd element ip kube-proxy service-ips {{ {} . {protocol} . {} : goto \
         service-{base} }}",
        endpoints.len(),
        endpoints.join(" , "),
        service.cluster_ip,
        port.port
    );
    if let Some(node_port) = port.node_port {
        let _ = writeln!(
            text,
            "add chain ip kube-proxy external-{base}\nadd rule ip kube-proxy external-{base} mark set mark or 0x4000\n\
             add rule ip kube-proxy external-{base} goto service-{base}\nadd element ip kube-proxy service-nodeports {{ \
             {protocol} . {node_port} : goto external-{base} }}"
        );
    }
}

/// Eight letters for a name, as kube-proxy puts them in front of it.
pub(crate) fn hash(name: &str) -> String {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let number = hasher.finish();
    (0..16)
        .map(|nth| char::from(b'A' + (number >> (4 * nth) & 15) as u8))
        .collect::<String>()[..8]
        .to_owned()
}
