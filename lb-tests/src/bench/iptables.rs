//! The rules of kube-proxy's iptables mode.
//!
//! Their shape is that of Kubernetes 1.36 (`pkg/proxy/iptables/proxier.go`), restated: one rule in KUBE-SERVICES for each
//! service port, one chain for each service port and one for each endpoint.

use std::fmt::Write as _;

use super::{
    nftables::hash,
    services::{CLUSTER_CIDR, Port, Service},
};

/// From so many endpoints on, kube-proxy leaves the comments of rules for single services out.
const LARGE_CLUSTER: usize = 1000;

const FILTER: &str = r#"*filter
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"#;

const NAT_CHAINS: &str = "*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
";

const NAT: &str = r#"-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
"#;

const LAST: &str = r#"-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
"#;

/// The rules, as `iptables-restore` reads them.
pub(crate) fn rules(services: &[Service]) -> String {
    let endpoints: usize = services
        .iter()
        .map(|service| service.endpoints.len() * service.ports.len())
        .sum();
    let comments = endpoints <= LARGE_CLUSTER;
    let (mut chains, mut rules) = (String::new(), String::new());
    for service in services {
        for port in &service.ports {
            add_port(&mut chains, &mut rules, service, port, comments);
        }
    }
    format!("{FILTER}{NAT_CHAINS}{chains}{NAT}{rules}{LAST}")
}

fn add_port(chains: &mut String, rules: &mut String, service: &Service, port: &Port, comments: bool) {
    let name = format!("default/{}:{}", service.name, port.name);
    let comment = |text: String| {
        if comments {
            format!("-m comment --comment \"{text}\" ")
        } else {
            String::new()
        }
    };
    let protocol = port.protocol;
    let id = format!("{}{}", hash(&name), hash(protocol));
    let (cluster_ip, number) = (service.cluster_ip, port.port);
    let _ = writeln!(chains, ":KUBE-SVC-{id} - [0:0]");
    let _ = writeln!(
        rules,
        "-A KUBE-SERVICES {}-m {protocol} -p {protocol} -d {cluster_ip} --dport {number} -j KUBE-SVC-{id}",
        comment(format!("{name} cluster IP"))
    );
    let _ = writeln!(
        rules,
        "-A KUBE-SVC-{id} {}-m {protocol} -p {protocol} -d {cluster_ip} --dport {number} ! -s {CLUSTER_CIDR} -j \
         KUBE-MARK-MASQ",
        comment(format!("{name} cluster IP"))
    );
    if let Some(node_port) = port.node_port {
        let _ = writeln!(chains, ":KUBE-EXT-{id} - [0:0]");
        let _ = writeln!(
            rules,
            "-A KUBE-NODEPORTS {}-m {protocol} -p {protocol} --dport {node_port} -j KUBE-EXT-{id}\n-A KUBE-EXT-{id} {}-j \
             KUBE-MARK-MASQ\n-A KUBE-EXT-{id} -j KUBE-SVC-{id}",
            comment(name.clone()),
            comment(format!("masquerade traffic for {name} external destinations"))
        );
    }
    for (nth, (addr, _)) in service.endpoints.iter().enumerate() {
        let endpoint = format!("{addr}:{}", port.target);
        let sep = format!("{}{}", hash(&name), hash(&endpoint));
        let left = service.endpoints.len() - nth;
        let chance = if left == 1 {
            String::new()
        } else {
            format!(
                "-m statistic --mode random --probability {:.10} ",
                1.0 / left as f64
            )
        };
        let _ = writeln!(chains, ":KUBE-SEP-{sep} - [0:0]");
        let _ = writeln!(
            rules,
            "-A KUBE-SVC-{id} {}{chance}-j KUBE-SEP-{sep}\n-A KUBE-SEP-{sep} {}-s {addr} -j KUBE-MARK-MASQ\n\
             -A KUBE-SEP-{sep} {}-m {protocol} -p {protocol} -j DNAT --to-destination {endpoint}",
            comment(format!("{name} -> {endpoint}")),
            comment(name.clone()),
            comment(name.clone())
        );
    }
}
