//! What is exported is what docs/metrics.md lists.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use lb_common::{
    abi::{Meter, Traffic},
    flow::State,
    verdict::Reason,
};
use serde_json::Value;

use super::{kube_proxy::Probe, *};
use crate::{
    desired::ServicePortKey,
    events::Outcome,
    flows::Found,
    health::Serving,
    index::{Changes, ServiceName},
    telemetry::{SyncReport, Telemetry},
};

/// Type and labels, by name.
type Listed = BTreeMap<String, (String, BTreeSet<String>)>;

/// The tables of docs/metrics.md.
fn documented() -> Listed {
    let rows = include_str!("../../../docs/metrics.md").lines();
    rows.filter_map(|row| {
        let mut cells = row.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.trim_end_matches('`').to_owned();
        let kind = cells.next()?.to_owned();
        let labels = cells.next()?;
        let labels = labels.split(", ").filter(|label| !label.is_empty());
        Some((name, (kind, labels.map(str::to_owned).collect())))
    })
    .collect()
}

/// What a text in Prometheus' format holds. The labels are those of the samples.
fn exported(text: &str) -> Listed {
    let mut listed = Listed::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            listed.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .filter(|family| listed.contains_key(*family))
                .unwrap_or(name);
            let (_, known) = listed
                .get_mut(family)
                .unwrap_or_else(|| panic!("{line} is announced"));
            let names = labels.trim_end_matches('}').split("\",");
            let names = names
                .filter_map(|label| label.split_once('='))
                .map(|(name, _)| name);
            known.extend(names.filter(|name| *name != "le").map(str::to_owned));
        }
    }
    listed
}

/// A handle to which everything was told once.
fn told() -> Telemetry {
    let telemetry = Telemetry::new("n1", Value::Null);
    telemetry.queued(Changes {
        services: 1,
        slices: 1,
        triggers: vec![(plan::Family::V4, Timestamp::now())],
    });
    telemetry.serving(Serving::Current);
    telemetry.api(crate::health::Reach::Reached);
    let kube_proxy = &telemetry.metrics().kube_proxy;
    kube_proxy.answered(Probe::Healthz, 200);
    kube_proxy.answered(Probe::Livez, 503);
    telemetry.sync_end(&SyncReport {
        families: plan::Family::ALL.into(),
        operations: 3,
        ..SyncReport::default()
    });
    telemetry.sync_end(&SyncReport {
        families: plan::Family::ALL.into(),
        full: true,
        ..SyncReport::default()
    });
    telemetry.check_ports(1, 0);
    telemetry.metrics().own.count_event(Outcome::Sent);
    let found = Found {
        name: "FLOWS4",
        entries: 2,
        capacity: 10,
        states: vec![(State::Established, 1)],
        ..Found::default()
    };
    telemetry.flows(&[found.clone(), found]);
    let own = &telemetry.metrics().own;
    own.set_snat_ports(100);
    let counted = |packets, bytes| Traffic { packets, bytes };
    own.set_packets(&[
        (Reason::NewFlow, counted(7, 4_200)),
        (Reason::NoEndpoints, counted(1, 74)),
        (Reason::SocketRewritten, counted(3, 0)),
    ]);
    own.set_map("FRONTENDS4", 1, 8);
    let port = |family| ServicePortKey {
        service: ServiceName {
            namespace: "shop".into(),
            name: "web".into(),
        },
        port: "http".into(),
        protocol: plan::Protocol::Tcp,
        family,
    };
    let meters = [(3, port(plan::Family::V4)), (7, port(plan::Family::V6))];
    telemetry.meters(&meters.into(), 5);
    let read = telemetry.metrics().services.read(|number| {
        let traffic = |packets| Traffic {
            packets,
            bytes: 100 * packets,
        };
        Ok::<_, ()>(Meter {
            connections: 1,
            sockets: number.into(),
            requests: traffic(2),
            replies: traffic(number.into()),
        })
    });
    assert!(read.is_ok());
    telemetry
}

#[test]
fn the_documentation_lists_what_is_exported_and_nothing_else() {
    let text = told().metrics().text(Format::Prometheus);
    let (documented, exported) = (documented(), exported(&text));
    assert!(documented.len() > 30, "the tables were read");
    for (name, exported) in &exported {
        assert_eq!(documented.get(name), Some(exported), "{name}");
    }
    let missing: Vec<_> = documented
        .keys()
        .filter(|name| !exported.contains_key(*name))
        .collect();
    assert!(missing.is_empty(), "documented and not exported: {missing:?}");
}

#[test]
fn figures_arrive_under_their_labels() {
    let text = told().metrics().text(Format::Prometheus);
    for line in [
        r#"fairlead_packets_total{reason="new_flow",action="forward"} 7"#,
        r#"fairlead_packets_total{reason="no_endpoints",action="reject"} 1"#,
        r#"fairlead_packets_total{reason="socket_rewritten",action="forward"} 3"#,
        r#"fairlead_bytes_total{reason="new_flow",action="forward"} 4200"#,
        r#"fairlead_bytes_total{reason="no_endpoints",action="reject"} 74"#,
        r#"fairlead_flows{ip_family="IPv6",state="tcp_established"} 1"#,
        r#"fairlead_serving{state="current"} 1"#,
        r#"fairlead_serving{state="pinned"} 0"#,
        r#"fairlead_map_capacity{map="FRONTENDS4"} 8"#,
        r#"fairlead_map_operations_total{result="done"} 3"#,
        r#"fairlead_service_packets_total{namespace="shop",service="web",port="http",direction="request"} 4"#,
        r#"fairlead_service_packets_total{namespace="shop",service="web",port="http",direction="reply"} 10"#,
        r#"fairlead_service_bytes_total{namespace="shop",service="web",port="http",direction="reply"} 1000"#,
        r#"fairlead_service_connections_total{namespace="shop",service="web",port="http"} 12"#,
        "fairlead_service_ports_left_out 5",
        r#"kubeproxy_proxy_healthz_total{code="200"} 1"#,
        r#"kubeproxy_proxy_livez_total{code="503"} 1"#,
        "kubeproxy_sync_proxy_rules_endpoint_changes_total 1",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
        r#"kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"} 2"#,
        r#"kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 1"#,
        r#"kubeproxy_sync_proxy_rules_duration_seconds_bucket{le="0.001",ip_family="IPv4"} 2"#,
    ] {
        assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
    }
}

#[test]
fn series_go_with_their_service() {
    let telemetry = told();
    telemetry.meters(&BTreeMap::new(), 0);
    let text = telemetry.metrics().text(Format::Prometheus);
    assert!(!text.contains("shop"), "{text}");
    assert!(
        text.lines()
            .any(|line| line == "fairlead_service_ports_left_out 0")
    );
}

#[test]
fn a_family_that_a_change_is_nothing_to_does_not_lag_behind() {
    let lags = |telemetry: &Telemetry| {
        let text = telemetry.metrics().text(Format::Prometheus);
        let time = |name: &str, family| -> f64 {
            let series =
                format!("kubeproxy_sync_proxy_rules_{name}_timestamp_seconds{{ip_family=\"{family}\"}} ");
            let value = text.lines().find_map(|line| line.strip_prefix(&series));
            value.map_or(0.0, |value| value.parse().unwrap())
        };
        ["IPv4", "IPv6"].map(|family| time("last_queued", family) > time("last", family))
    };
    let queued = || {
        let telemetry = Telemetry::new("n1", Value::Null);
        telemetry.queued(Changes {
            slices: 1,
            ..Changes::default()
        });
        assert_eq!(lags(&telemetry), [true; 2]);
        telemetry
    };
    let of_v4 = SyncReport {
        families: [plan::Family::V4].into(),
        operations: 1,
        ..SyncReport::default()
    };
    let telemetry = queued();
    telemetry.sync_end(&of_v4);
    assert_eq!(lags(&telemetry), [false; 2], "a slice of IPv4");
    let telemetry = queued();
    telemetry.sync_end(&SyncReport::default());
    assert_eq!(lags(&telemetry), [false; 2], "a slice of no Service");
    let telemetry = queued();
    telemetry.sync_end(&SyncReport {
        failures: 1,
        failed: [Some(plan::Family::V4)].into(),
        ..of_v4
    });
    assert_eq!(lags(&telemetry), [true, false], "it failed");
    telemetry.sync_end(&SyncReport {
        operations: 1,
        ..SyncReport::default()
    });
    assert_eq!(lags(&telemetry), [false; 2], "and was done later");
}

#[test]
fn calls_of_processes_have_no_bytes() {
    let text = told().metrics().text(Format::Prometheus);
    let calls: Vec<_> = text.lines().filter(|line| line.contains("socket_")).collect();
    assert!(
        matches!(calls[..], [only] if only.starts_with("fairlead_packets_total")),
        "{calls:?}"
    );
}

#[test]
fn nothing_is_told_of_services_that_are_not_counted() {
    let text = Telemetry::new("n1", Value::Null)
        .metrics()
        .text(Format::Prometheus);
    assert!(!text.contains("fairlead_service_"), "{text}");
}
