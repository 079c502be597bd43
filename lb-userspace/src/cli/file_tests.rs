//! Tests of files: Fairlead's own, kube-proxy's, and others.

use super::*;
use crate::cli::args::{LogFormat, SocketLb};

fn read_text(text: &str) -> Result<(Settings, Vec<String>), String> {
    parse(Path::new("/c.yaml"), text)
        .map(|(settings, notices)| (settings, notices.iter().map(ToString::to_string).collect()))
        .map_err(|error| error.to_string())
}

fn own(fields: &str) -> Result<Settings, String> {
    let text = format!("apiVersion: fairlead.dev/v1alpha1\nkind: FairleadConfiguration\n{fields}");
    read_text(&text).map(|(settings, _)| settings)
}

fn kube_proxy(fields: &str) -> Result<(Settings, Vec<String>), String> {
    read_text(&format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{fields}"
    ))
}

#[test]
fn fields_are_flags_in_camel_case() {
    let settings = own("socketLb: off\nmaster: [https://a]\nexternalIps: false\nmaxFlows: 7").unwrap();
    assert_eq!(settings.socket_lb, Some(SocketLb::Off));
    assert_eq!(settings.master, Some(vec!["https://a".to_owned()]));
    assert_eq!(settings.external_ips, Some(false));
    assert_eq!(settings.max_flows, Some(7));
}

#[test]
fn errors_name_the_file_and_the_field() {
    for (fields, words) in [
        (
            "maxFlow: 1",
            ["/c.yaml: maxFlow: unknown field", "fairlead config"],
        ),
        ("maxFlows: many", ["maxFlows: invalid type", "u32"]),
        ("maxFlows: -1", ["maxFlows: invalid value", "u32"]),
        ("uplink: [a, {b: c}]", ["uplink[1]: invalid type", "string"]),
        ("socketLb: some", ["socketLb: unknown variant", "host"]),
        ("maxFlows: 1\nmaxFlows: 2", ["/c.yaml", "duplicate"]),
        ("a: [", ["/c.yaml", "line"]),
    ] {
        let error = own(fields).unwrap_err();
        for word in words {
            assert!(error.contains(word), "{fields}: {error}");
        }
    }
}

#[test]
fn other_kinds_and_versions_are_refused_with_what_to_write() {
    for text in [
        "maxFlows: 1",
        "apiVersion: v1\nkind: ConfigMap",
        "apiVersion: fairlead.dev/v1\nkind: FairleadConfiguration",
        "apiVersion: kubeproxy.config.k8s.io/v1alpha2\nkind: KubeProxyConfiguration",
    ] {
        let error = read_text(text).unwrap_err();
        assert!(error.contains("apiVersion: fairlead.dev/v1alpha1"), "{error}");
        assert!(error.contains("KubeProxyConfiguration"), "{error}");
    }
    let error = read(Path::new("/nonexistent/c.yaml")).unwrap_err().to_string();
    assert!(
        error.contains("/nonexistent/c.yaml") && error.contains("--config"),
        "{error}"
    );
}

/// As kubeadm writes it into the ConfigMap `kube-proxy`: every field, most of them empty.
const KUBEADM: &str = r#"
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: 12h0m0s
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: 0.0.0.0:10249
mode: ipvs
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"#;

#[test]
fn a_file_of_kubeadm_is_translated_and_only_what_was_set_is_told() {
    let (settings, notices) = kube_proxy(KUBEADM).unwrap();
    let expected = Settings {
        kubeconfig: Some("/var/lib/kube-proxy/kubeconfig.conf".into()),
        tcp_established_timeout: Some("12h0m0s".to_owned()),
        metrics_bind_address: Some("0.0.0.0:10249".to_owned()),
        ..Settings::default()
    };
    assert_eq!(settings, expected);
    let told: Vec<&str> = notices.iter().filter_map(|text| text.split(' ').next()).collect();
    assert_eq!(told, ["bindAddress", "clusterCIDR", "mode"]);
}

#[test]
fn all_that_means_the_same_is_taken_over() {
    let (settings, notices) = kube_proxy(
        "clientConnection: {kubeconfig: /k}\nhostnameOverride: n\nhealthzBindAddress: 127.0.0.1:1\n\
         metricsBindAddress: 127.0.0.1:2\nnodePortAddresses: [primary]\nlogging: {format: json}\n\
         iptables: {syncPeriod: 1m}\n\
         conntrack: {tcpEstablishedTimeout: 1h, tcpCloseWaitTimeout: 2h, udpTimeout: 3s, udpStreamTimeout: 4s}",
    )
    .unwrap();
    let text = |text: &str| Some(text.to_owned());
    let expected = Settings {
        kubeconfig: Some("/k".into()),
        hostname_override: text("n"),
        healthz_bind_address: text("127.0.0.1:1"),
        metrics_bind_address: text("127.0.0.1:2"),
        nodeport_addresses: Some(vec!["primary".to_owned()]),
        log_format: Some(LogFormat::Json),
        audit_period: text("1m"),
        tcp_established_timeout: text("1h"),
        tcp_close_wait_timeout: text("2h"),
        udp_timeout: text("3s"),
        udp_stream_timeout: text("4s"),
        ..Settings::default()
    };
    assert_eq!(settings, expected);
    assert_eq!(notices, [""; 0]);
}

#[test]
fn the_sync_period_of_any_mode_is_how_often_maps_are_compared() {
    for mode in ["iptables", "ipvs", "nftables"] {
        let (settings, notices) = kube_proxy(&format!("{mode}: {{syncPeriod: 30s}}")).unwrap();
        assert_eq!(settings.audit_period.as_deref(), Some("30s"), "{mode}");
        assert_eq!(notices, [""; 0]);
    }
}

#[test]
fn fields_without_effect_are_told_one_by_one_and_unknown_ones_too() {
    let (_, notices) = kube_proxy(
        "ipvs: {scheduler: rr, strictARP: true}\nfeatureGates: {A: true, B: false}\nwinkernel: {enableDSR: true}\n\
         nftables: {masqueradeAll: true}\nfuture: {field: 1}",
    )
    .unwrap();
    for name in [
        "ipvs.scheduler",
        "ipvs.strictARP",
        "featureGates",
        "winkernel.enableDSR",
        "nftables.masqueradeAll",
        "future.field",
    ] {
        let count = notices
            .iter()
            .filter(|text| text.starts_with(&format!("{name} has no effect")))
            .count();
        assert_eq!(count, 1, "{name}: {notices:?}");
    }
    assert_eq!(notices.len(), 6, "{notices:?}");
}

#[test]
fn fields_are_refused_where_silence_would_mislead() {
    for (fields, name) in [
        (
            "iptables: {localhostNodePorts: false}",
            "iptables.localhostNodePorts=false",
        ),
        (
            "iptables: {snatNodeInternalIP: true}",
            "iptables.snatNodeInternalIP=true",
        ),
    ] {
        let error = kube_proxy(fields).unwrap_err();
        assert!(error.starts_with(&format!("/c.yaml: {name}: ")), "{error}");
    }
    let error = kube_proxy("nodePortAddresses: 7").unwrap_err();
    assert!(error.contains("nodeportAddresses: invalid type"), "{error}");
}
