//! Tests of the configuration: what settings and environment make of it.

use clap::Parser as _;

use super::*;
use crate::{
    cli::args::{Cli, Command},
    devices::Pattern,
};

fn config(more: &[&str]) -> Result<Config, String> {
    let words = [
        "fairlead",
        "run",
        "--manifests",
        "/m",
        "--cgroup",
        "/c",
        "--hostname-override",
        "n",
    ];
    let cli = Cli::try_parse_from(words.iter().chain(more)).map_err(|error| error.to_string())?;
    let Command::Run(args) = cli.command else {
        panic!("not run")
    };
    Config::new(&args.config.settings, &Environment::default()).map_err(|error| error.to_string())
}

#[test]
fn defaults_are_sound() {
    let config = config(&[]).unwrap();
    assert_eq!(config.min_sync_period, Duration::from_millis(10));
    assert_eq!(config.audit_period, Duration::from_secs(300));
    assert_eq!(config.sizes, Sizes::default());
    assert!(config.nodeport_addresses.is_empty() && config.drop_unallocated);
    assert_eq!(config.bpf_log, 0);
    assert_eq!(config.socket_lb, SocketLb::Host);
}

#[test]
fn no_cgroup_is_needed_where_no_sockets_are_served() {
    assert_eq!(config(&[]).unwrap().cgroup, Some("/c".into()));
    assert_eq!(config(&["--socket-lb=off"]).unwrap().cgroup, None);
}

#[test]
fn errors_name_the_flag_and_the_value() {
    for (arguments, words) in [
        (
            &["--min-sync-period", "soon"][..],
            ["--min-sync-period soon", "10ms"],
        ),
        (&["--min-sync-period", "2m"], ["--min-sync-period 2m", "too long"]),
        (&["--audit-period", "often"], ["--audit-period often", "5m"]),
        (&["--audit-period", "1ms"], ["--audit-period 1ms", "0 is never"]),
        (
            &["--nodeport-addresses", "192.0.2.1"],
            ["--nodeport-addresses 192.0.2.1", "CIDR"],
        ),
        (
            &["--service-cidr", "10.96.0.0"],
            ["--service-cidr 10.96.0.0", "CIDR"],
        ),
        (
            &["--service-cidr", "::/0"],
            ["--service-cidr ::/0", "every address"],
        ),
        (
            &[
                "--service-cidr",
                "10.1.0.0/16,10.2.0.0/16,10.3.0.0/16,10.4.0.0/16,10.5.0.0/16",
            ],
            ["more than 4", "IPv4"],
        ),
        (
            &["--nodeport-addresses", "primary,192.0.2.0/24"],
            ["primary,192.0.2.0/24", "alone"],
        ),
        (&["--max-flows", "0"], ["--max-flows 0", "from 1"]),
        (&["--maglev-slots", "7"], ["--maglev-slots 7", "even"]),
        (&["--snat-ports", "9-8"], ["--snat-ports 9-8", "30000-32767"]),
        (
            &["--snat-ports", "20000-30000"],
            ["--snat-ports 20000-30000", "NodePorts"],
        ),
        (
            &["--node-port-range", "0-9"],
            ["--node-port-range 0-9", "range of ports"],
        ),
        (&["--udp-timeout", "1s"], ["--udp-timeout 1s", "2s to"]),
        (&["--tcp-syn-timeout", "long"], ["--tcp-syn-timeout long", "24h"]),
        (&["--xdp", "fast"], ["--xdp fast", "native"]),
        (&["--xdp", "off,eth0=never"], ["--xdp eth0=never", "PATTERN"]),
        (&["--uplink", "a/b"], ["--uplink a/b", "slash"]),
        (&["--uplink", ""], ["--uplink", "not empty"]),
        (
            &["--healthz-bind-address", "localhost:1"],
            ["--healthz-bind-address localhost:1", "[::]:10256"],
        ),
        (
            &["--metrics-bind-address", "10249"],
            ["--metrics-bind-address 10249", "empty"],
        ),
        (&["--bpf-log", "loud"], ["loud", "debug"]),
        (&["--socket-lb", "pods"], ["pods", "host, all, off"]),
    ] {
        let error = config(arguments).unwrap_err();
        for word in words {
            assert!(error.contains(word), "{arguments:?}: {error}");
        }
    }
}

#[test]
fn health_and_metrics_have_the_ports_of_kube_proxy_and_can_be_turned_off() {
    let addrs = |more: &[&str]| {
        let config = config(more).unwrap();
        [config.healthz_bind_address, config.metrics_bind_address]
            .map(|bind| bind.map(|bind| bind.to_string()))
    };
    let default = ["0.0.0.0:10256", "127.0.0.1:10249"].map(|addr| Some(addr.to_owned()));
    assert_eq!(addrs(&[]), default);
    let off = ["--healthz-bind-address=", "--metrics-bind-address="];
    assert_eq!(addrs(&off), [None, None]);
}

#[test]
fn the_last_of_a_repeated_flag_counts_and_patterns_add_up() {
    let config = config(&[
        "--min-sync-period",
        "1s",
        "--uplink",
        "a",
        "--min-sync-period",
        "2s",
        "--uplink",
        "b,c",
    ])
    .unwrap();
    assert_eq!(config.min_sync_period, Duration::from_secs(2));
    assert_eq!(config.overrides.uplink, ["a", "b", "c"].map(Pattern::new));
}

#[test]
fn node_ports_can_be_limited_to_networks_of_both_families() {
    let config = config(&["--nodeport-addresses", "192.0.2.0/24,2001:db8::/64"]).unwrap();
    let serves = |addr: &str| config.names_for_node_ports(&addr.parse().unwrap());
    assert!(serves("192.0.2.7") && serves("2001:db8::7"));
    assert!(!serves("198.51.100.7") && !serves("2001:db9::7"));
}

#[test]
fn networks_of_services_are_of_both_families() {
    let config = config(&[
        "--service-cidr",
        "10.96.0.7/12",
        "--service-cidr",
        "fd00:10:96::/112",
    ])
    .unwrap();
    let nets: Vec<String> = config.service_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.96.0.0/12", "fd00:10:96::/112"]);
}

#[test]
fn the_time_to_collect_changes_is_read_as_kube_proxy_writes_it() {
    for (text, ms) in [("10ms", 10), ("0.5s", 500), ("1m", 60_000), ("0", 0), ("0s", 0)] {
        let config = config(&["--min-sync-period", text]).unwrap();
        assert_eq!(config.min_sync_period, Duration::from_millis(ms), "{text}");
    }
}

#[test]
fn how_often_maps_are_compared_is_what_kube_proxy_calls_the_sync_period() {
    for (flag, seconds) in [
        ("--audit-period=0", 0),
        ("--audit-period=1h", 3_600),
        ("--iptables-sync-period=1m30s", 90),
        ("--ipvs-sync-period=45s", 45),
    ] {
        let config = config(&[flag]).unwrap();
        assert_eq!(config.audit_period, Duration::from_secs(seconds), "{flag}");
    }
}

#[test]
fn external_ips_are_served_unless_turned_off() {
    for (arguments, served) in [
        (&[][..], true),
        (&["--external-ips"], true),
        (&["--external-ips=true"], true),
        (&["--external-ips=false"], false),
    ] {
        assert_eq!(config(arguments).unwrap().external_ips, served, "{arguments:?}");
    }
}

/// What a configuration is made of without any flag.
fn in_environment(environment: &Environment) -> Config {
    let settings = Settings {
        socket_lb: Some(SocketLb::Off),
        ..Settings::default()
    };
    Config::new(&settings, environment).unwrap()
}

#[test]
fn the_environment_names_node_and_api_server() {
    let environment = Environment {
        node_name: Some("Node-7".to_owned()),
        kubeconfig: Some("/k".into()),
        in_pod: false,
    };
    let config = in_environment(&environment);
    assert_eq!(config.node_name, "node-7");
    let api = ApiServer {
        kubeconfig: Some("/k".into()),
        masters: Vec::new(),
        timeout: Duration::from_secs(30),
    };
    assert_eq!(config.source, Source::Kubernetes(api));
    assert!(config.check_source(&environment).is_ok());
}

#[test]
fn services_must_come_from_somewhere() {
    let nothing = Environment::default();
    let pod = Environment {
        in_pod: true,
        ..Environment::default()
    };
    let config = in_environment(&nothing);
    assert!(matches!(
        config.check_source(&nothing),
        Err(ConfigError::NoSource)
    ));
    assert!(
        config.check_source(&pod).is_ok(),
        "a pod is told where the API server is"
    );
}
