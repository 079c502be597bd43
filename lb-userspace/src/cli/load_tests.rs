//! Tests of flags, file and defaults together, and of what `fairlead config` prints.

use std::{fs, time::Duration};

use clap::{CommandFactory as _, Parser as _};
use proptest::{
    option,
    prelude::*,
    sample::{select, subsequence},
};
use serde_json::{Map, Value, json};

use super::*;
use crate::cli::args::{BpfLog, Cli, Command, LogFormat, SocketLb};

/// The arguments of `fairlead run` with these flags.
fn args(flags: &[&str]) -> ConfigArgs {
    let cli = Cli::try_parse_from(["fairlead", "run"].iter().chain(flags)).unwrap();
    let Command::Run(args) = cli.command else {
        panic!("not run")
    };
    args.config
}

/// The configuration of these flags with a file that holds `fields`.
fn with_file(fields: &str, flags: &[&str]) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    let head = "apiVersion: fairlead.dev/v1alpha1\nkind: FairleadConfiguration\nsocketLb: off\n";
    fs::write(&path, format!("{head}{fields}\n")).unwrap();
    let mut args = args(flags);
    args.config = Some(path);
    load(&args, &Environment::default())
        .map(|loaded| loaded.config)
        .map_err(|error| error.to_string())
}

/// Every field with a value that is not its default, in two variants.
fn every_field(variant: u32) -> Map<String, Value> {
    let (n, text) = (1_000 + 2 * variant, ["a", "b"][variant as usize]);
    let time = format!("{}m", 7 + variant);
    let fields = json!({
        "manifests": format!("/{text}"), "kubeconfig": format!("/k{text}"), "master": [format!("https://{text}")],
        "apiTimeout": time,
        "bpffs": format!("/{text}"), "cgroup": format!("/{text}"), "socketLb": (["all", "off"][variant as usize]),
        "hostnameOverride": text, "nodeportAddresses": [format!("192.0.2.{variant}/32")],
        "nodePortRange": format!("{n}-40000"), "serviceCidr": [format!("10.{variant}.0.0/16")],
        "dropUnallocated": variant == 0, "externalIps": variant == 0,
        "snatPorts": format!("{}-60000", 50_000 + n), "uplink": [text],
        "workload": [text], "xdp": [format!("{text}=off")], "healthzBindAddress": format!("127.0.0.1:{n}"),
        "metricsBindAddress": format!("127.0.0.2:{n}"), "minSyncPeriod": format!("{n}ms"), "auditPeriod": format!("{n}m"),
        "serviceStats": variant == 0, "metricsMaxServices": n,
        "bpfLog": (["info", "warn"][variant as usize]), "noTcx": variant == 0, "tcpEstablishedTimeout": time,
        "tcpSynTimeout": time, "tcpCloseWaitTimeout": time, "tcpFinTimeout": time, "udpTimeout": time,
        "udpStreamTimeout": time, "maxFlows": n, "maxFrontends": n, "maxServices": n, "maxBackends": n,
        "maglevSlots": n, "logFormat": (["json", "text"][variant as usize]), "logLevel": text,
    });
    let Value::Object(fields) = fields else {
        unreachable!("written as an object")
    };
    fields
}

fn settings(fields: Map<String, Value>) -> Settings {
    serde_json::from_value(Value::Object(fields)).unwrap()
}

#[test]
fn each_field_goes_before_the_same_one_below_and_leaves_the_others() {
    let (high, low) = (every_field(0), every_field(1));
    let known = serde_json::to_value(Settings::default()).unwrap();
    let names: Vec<&String> = known.as_object().unwrap().keys().collect();
    assert_eq!(
        high.keys().collect::<Vec<_>>(),
        names,
        "the test knows every field"
    );
    for (name, value) in &high {
        assert_ne!(value, &low[name], "{name}");
        let one: Map<String, Value> = [(name.clone(), value.clone())].into_iter().collect();
        let merged = serde_json::to_value(settings(one).over(settings(low.clone()))).unwrap();
        for (other, found) in merged.as_object().unwrap() {
            let expected = match (name.as_str(), other.as_str()) {
                _ if other == name => value,
                ("manifests", "kubeconfig" | "master") | ("kubeconfig" | "master", "manifests") => {
                    &Value::Null
                }
                _ => &low[other],
            };
            assert_eq!(found, expected, "{other} where {name} is given");
        }
    }
}

#[test]
fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
    let file = "minSyncPeriod: 20ms\nmaxFlows: 5000";
    let config = with_file(file, &["--max-flows=6000"]).unwrap();
    assert_eq!(config.sizes.flows, 6_000, "flag");
    assert_eq!(config.min_sync_period, Duration::from_millis(20), "file");
    assert_eq!(config.sizes.backends, lb_common::limits::BACKENDS, "default");
}

#[test]
fn a_file_goes_before_the_environment() {
    let settings = Settings {
        socket_lb: Some(SocketLb::Off),
        hostname_override: Some("file".to_owned()),
        ..Settings::default()
    };
    let environment = Environment {
        node_name: Some("environment".to_owned()),
        ..Environment::default()
    };
    assert_eq!(Config::new(&settings, &environment).unwrap().node_name, "file");
}

#[test]
fn a_wrong_value_is_told_where_it_was_given() {
    let error = with_file("minSyncPeriod: soon", &[]).unwrap_err();
    assert!(error.contains("config.yaml: minSyncPeriod: soon"), "{error}");
    let error = with_file("minSyncPeriod: 1s", &["--min-sync-period=soon"]).unwrap_err();
    assert!(error.contains("--min-sync-period soon"), "{error}");
}

#[test]
fn a_flag_for_one_source_rules_out_the_other_kind_in_the_file() {
    let config = with_file("kubeconfig: /k\nmaster: [https://a]", &["--manifests=/m"]).unwrap();
    assert_eq!(config.source, crate::cli::config::Source::Manifests("/m".into()));
    let error = with_file("kubeconfig: /k\nmanifests: /m", &[]).unwrap_err();
    assert!(error.contains("one of them"), "{error}");
}

#[test]
fn every_flag_is_a_field() {
    let mut command = Cli::command();
    command.build();
    let run = command.find_subcommand("run").unwrap();
    let known = serde_json::to_value(Settings::default()).unwrap();
    let own = ["help", "version", "config", "cleanup", "init-only"];
    for flag in run.get_arguments().filter(|arg| !arg.is_hide_set()) {
        let name = flag.get_long().unwrap();
        assert!(
            own.contains(&name) || known.get(settings::field(name)).is_some(),
            "--{name}"
        );
    }
}

/// What is between `[default: ` and `]` in the help of a flag.
fn told_default(help: &str) -> Option<&str> {
    let (_, rest) = help.split_once("[default: ")?;
    Some(rest.split_once(']')?.0)
}

#[test]
fn help_tells_the_defaults_that_hold() {
    let bare = Settings {
        cgroup: Some("/c".into()),
        ..Settings::default()
    };
    let config = Config::new(&bare, &Environment::default()).unwrap();
    let fields = serde_json::to_value(config.settings()).unwrap();
    let mut command = Cli::command();
    command.build();
    let run = command.find_subcommand("run").unwrap();
    let mut compared = 0;
    for flag in run.get_arguments().filter(|arg| !arg.is_hide_set()) {
        let help = flag.get_long_help().or(flag.get_help()).unwrap().to_string();
        let Some(told) = told_default(&help) else { continue };
        // What is found out is told in words.
        if told.contains(' ') {
            continue;
        }
        let name = flag.get_long().unwrap();
        let holds = match &fields[settings::field(name)] {
            Value::String(text) => text.clone(),
            Value::Array(list) if list.is_empty() => "auto".to_owned(),
            Value::Array(list) => list[0].as_str().unwrap().to_owned(),
            other => other.to_string(),
        };
        assert_eq!(told, holds, "--{name}");
        compared += 1;
    }
    assert!(compared > 20, "{compared} defaults were compared");
}

prop_compose! {
    fn a_time()(seconds in 2u64..=2_592_000, unit in select(vec!["s", "000ms"])) -> String {
        format!("{seconds}{unit}")
    }
}

fn words(from: &'static [&'static str]) -> impl Strategy<Value = Option<Vec<String>>> {
    option::of(
        subsequence(from, 0..=from.len()).prop_map(|list| list.into_iter().map(str::to_owned).collect()),
    )
}

fn text(from: &'static [&'static str]) -> impl Strategy<Value = Option<String>> {
    option::of(select(from).prop_map(str::to_owned))
}

/// Settings that are valid.
fn any_settings() -> impl Strategy<Value = Settings> {
    let source = (
        text(&["/m", "relative/m", "/with blank: and colon"]),
        text(&["/k"]),
        words(&["https://192.0.2.1:6443", "https://[2001:db8::1]:6443"]),
        text(&["1s", "1m"]),
    );
    let places = (
        text(&["/b", "/sys/fs/bpf/x"]),
        text(&["/c", "/yes"]),
        text(&["N1", "on", "1e3", "null"]),
        option::of(select(vec![SocketLb::Host, SocketLb::All, SocketLb::Off])),
    );
    let networks = (
        words(&["192.0.2.0/24", "2001:db8::7/64"]),
        text(&["20000-22767", "30000-30000"]),
        words(&["10.96.0.1/12", "fd00::/108"]),
        any::<Option<bool>>(),
        text(&["1-1000", "1024-9999"]),
    );
    let devices = (
        words(&["eth*", "a?", "*"]),
        words(&["veth*", "~"]),
        words(&["auto", "eth0=native", "off", "e*=generic"]),
        any::<Option<bool>>(),
    );
    let agent = (
        text(&["", "0.0.0.0", "[::]:1", "192.0.2.1:99"]),
        text(&["", "::1", "127.0.0.1:10249"]),
        text(&["0", "1.5ms", "1m", "250us"]),
        option::of(select(BpfLog::ALL.to_vec())),
        option::of(select(vec![LogFormat::Text, LogFormat::Json])),
        text(&["debug", "info,a=warn"]),
        any::<Option<bool>>(),
        option::of(1u32..=65_535),
        text(&["0", "1s", "1h30m"]),
        any::<Option<bool>>(),
    );
    let times = prop::array::uniform6(option::of(a_time()));
    let sizes = prop::array::uniform5(option::of((1u32..1 << 27).prop_map(|n| n * 2)));
    (source, places, networks, devices, agent, times, sizes).prop_map(
        |(source, places, networks, devices, agent, times, sizes)| {
            let [established, syn, close_wait, fin, udp, udp_stream] = times;
            let [flows, frontends, services, backends, slots] = sizes;
            let in_folder = source.0.is_some();
            Settings {
                manifests: source.0.map(Into::into),
                kubeconfig: source.1.filter(|_| !in_folder).map(Into::into),
                master: source.2.filter(|_| !in_folder),
                api_timeout: source.3,
                bpffs: places.0.map(Into::into),
                // Not every machine has a cgroup v2 to find.
                cgroup: places.1.or(Some("/c".to_owned())).map(Into::into),
                hostname_override: places.2,
                socket_lb: places.3,
                nodeport_addresses: networks.0,
                node_port_range: networks.1,
                service_cidr: networks.2,
                drop_unallocated: agent.9,
                external_ips: networks.3,
                snat_ports: networks.4,
                uplink: devices.0,
                workload: devices.1,
                xdp: devices.2,
                no_tcx: devices.3,
                healthz_bind_address: agent.0,
                metrics_bind_address: agent.1,
                min_sync_period: agent.2,
                audit_period: agent.8,
                service_stats: agent.6,
                metrics_max_services: agent.7,
                bpf_log: agent.3,
                log_format: agent.4,
                log_level: agent.5,
                tcp_established_timeout: established,
                tcp_syn_timeout: syn,
                tcp_close_wait_timeout: close_wait,
                tcp_fin_timeout: fin,
                udp_timeout: udp,
                udp_stream_timeout: udp_stream,
                max_flows: flows,
                max_frontends: frontends,
                max_services: services,
                max_backends: backends,
                maglev_slots: slots,
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_printed_and_read_again_gives_the_same(settings in any_settings()) {
        let environment = Environment::default();
        let config = Config::new(&settings, &environment).unwrap();
        let printed = file::write(&config.settings()).unwrap();
        let (read, notices) = file::parse(Path::new("f"), &printed).unwrap();
        prop_assert!(notices.is_empty());
        let again = Config::new(&read, &environment).unwrap();
        prop_assert_eq!(&again, &config, "{}", printed);
        prop_assert_eq!(file::write(&again.settings()).unwrap(), printed);
    }
}
