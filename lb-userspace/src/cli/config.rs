//! What the user typed, checked: the configuration of `fairlead run`.

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use ipnet::IpNet;
use lb_common::{datapath::Ports, flow::Timeouts, limits};
use thiserror::Error;

use super::{
    args::{BpfLog, RunArgs, SocketLb},
    bind::Bind,
    timeouts::timeouts,
};
use crate::{
    cgroup::{self, CgroupError},
    devices::{Overrides, Pattern, XdpRules},
    load::Sizes,
    plan::Family,
    snat_ports::{self, SnatPortsError},
};

/// What is wrong with an argument.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A value that cannot be.
    #[error("--{flag} {value}: {problem}")]
    Value {
        /// The flag, without dashes.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Nothing tells where Services come from.
    #[error(
        "nothing tells where Services come from: give --kubeconfig FILE or --master URL for the API server, --manifests \
         DIR for a folder, or run in a pod, whose environment names the API server (KUBERNETES_SERVICE_HOST)"
    )]
    NoSource,
    /// The host has no usable name.
    #[error("the host's name is not text; name the node with --hostname-override")]
    HostName,
    /// No cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// No source ports.
    #[error(transparent)]
    SnatPorts(#[from] SnatPortsError),
}

/// Where Services and EndpointSlices come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// The API server.
    Kubernetes(ApiServer),
}

/// How the API server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiServer {
    /// The file that tells; none for the service account of the pod that the agent runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Its addresses (URLs), tried in turn; none for that of the file, or of the pod's environment.
    pub masters: Vec<String>,
    /// How long it may take to answer, or to go on with a list.
    pub timeout: Duration,
}

/// The configuration of `fairlead run`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where Services and EndpointSlices come from.
    pub source: Source,
    /// Pin folder.
    pub bpffs: PathBuf,
    /// Whose sockets are sent to endpoints.
    pub socket_lb: SocketLb,
    /// cgroup to attach to; none if nobody's sockets are.
    pub cgroup: Option<PathBuf>,
    /// Name of this node.
    pub node_name: String,
    /// Which addresses of the node serve NodePorts; all if empty.
    pub nodeport_addresses: Vec<IpNet>,
    /// Networks of cluster IPs; at most [`limits::SERVICE_CIDRS`] of each family.
    pub service_cidrs: Vec<IpNet>,
    /// Source ports for flows that cannot keep their own.
    pub snat_ports: Ports,
    /// How long flows are remembered.
    pub timeouts: Timeouts,
    /// Roles of devices by name.
    pub overrides: Overrides,
    /// XDP modes of uplinks.
    pub xdp: XdpRules,
    /// Where `/healthz` and `/livez` are answered; nowhere if none.
    pub healthz_bind_address: Option<Bind>,
    /// Where `/metrics`, `/proxyMode` and `/configz` are answered; nowhere if none.
    pub metrics_bind_address: Option<Bind>,
    /// How long changes are collected.
    pub min_sync_period: Duration,
    /// Level of the kernel side's log, as aya-log numbers it; 0 is off.
    pub bpf_log: u8,
    /// Use clsact filters even where there are tcx links.
    pub no_tcx: bool,
    /// Sizes of the maps.
    pub sizes: Sizes,
}

impl Config {
    /// Checks what the user typed.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the flag and the remedy.
    pub fn new(args: &RunArgs) -> Result<Self, ConfigError> {
        let cgroup = match &args.cgroup {
            _ if args.socket_lb == SocketLb::Off => None,
            Some(cgroup) => Some(cgroup.clone()),
            None => Some(cgroup::find()?),
        };
        let node_name = match &args.hostname_override {
            // As kube-proxy does: node names are lower case.
            Some(name) if !name.trim().is_empty() => name.trim().to_lowercase(),
            Some(name) => {
                let problem = "a node's name is not empty (the flag's default is the variable NODE_NAME)";
                return Err(value("hostname-override", format!("{name:?}"), problem));
            }
            None => rustix::system::uname()
                .nodename()
                .to_str()
                .map_err(|_| ConfigError::HostName)?
                .trim()
                .to_lowercase(),
        };
        Ok(Self {
            source: source(args, std::env::var_os(IN_POD).is_some())?,
            bpffs: args.pins.bpffs.clone(),
            socket_lb: args.socket_lb,
            cgroup,
            node_name,
            nodeport_addresses: nodeport_addresses(&args.nodeport_addresses)?,
            service_cidrs: service_cidrs(&args.service_cidr)?,
            snat_ports: snat_ports(args)?,
            timeouts: timeouts(args)?,
            overrides: Overrides {
                uplink: patterns("uplink", &args.uplink)?,
                workload: patterns("workload", &args.workload)?,
            },
            xdp: XdpRules::parse(&args.xdp).map_err(|text| {
                let problem = "is no mode: auto, native, generic or off, or PATTERN=MODE such as eth*=native";
                value("xdp", text, problem)
            })?,
            healthz_bind_address: bind("healthz-bind-address", &args.healthz_bind_address, 10256)?,
            metrics_bind_address: bind("metrics-bind-address", &args.metrics_bind_address, 10249)?,
            min_sync_period: duration("min-sync-period", &args.min_sync_period)?,
            bpf_log: match args.bpf_log {
                BpfLog::Off => 0,
                BpfLog::Error => 1,
                BpfLog::Warn => 2,
                BpfLog::Info => 3,
                BpfLog::Debug => 4,
                BpfLog::Trace => 5,
            },
            no_tcx: args.no_tcx,
            sizes: sizes(args)?,
        })
    }

    /// Whether NodePorts are served on that address of the node.
    pub fn serves_node_ports(&self, addr: &IpAddr) -> bool {
        self.nodeport_addresses.is_empty() || self.nodeport_addresses.iter().any(|net| net.contains(addr))
    }
}

pub(super) fn value(
    flag: &'static str,
    value: impl std::fmt::Display,
    problem: impl Into<String>,
) -> ConfigError {
    ConfigError::Value {
        flag,
        value: value.to_string(),
        problem: problem.into(),
    }
}

/// The variable by which a pod is told the API server's address.
const IN_POD: &str = "KUBERNETES_SERVICE_HOST";

fn source(args: &RunArgs, in_pod: bool) -> Result<Source, ConfigError> {
    if let Some(folder) = &args.manifests {
        return Ok(Source::Manifests(folder.clone()));
    }
    if args.kubeconfig.is_none() && args.master.is_empty() && !in_pod {
        return Err(ConfigError::NoSource);
    }
    Ok(Source::Kubernetes(ApiServer {
        kubeconfig: args.kubeconfig.clone(),
        masters: args.master.clone(),
        timeout: match duration("api-timeout", &args.api_timeout)? {
            timeout if timeout < Duration::from_secs(1) => {
                return Err(value(
                    "api-timeout",
                    &args.api_timeout,
                    "is too short; a second is the least",
                ));
            }
            timeout => timeout,
        },
    }))
}

/// Where to listen; none if `text` is empty.
fn bind(flag: &'static str, text: &str, default_port: u16) -> Result<Option<Bind>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    match Bind::parse(text, default_port) {
        Some(bind) => Ok(Some(bind)),
        None => Err(value(
            flag,
            text,
            "is no address and port such as 0.0.0.0:10256 or [::]:10256; empty listens nowhere",
        )),
    }
}

fn patterns(flag: &'static str, texts: &[String]) -> Result<Vec<Pattern>, ConfigError> {
    texts
        .iter()
        .map(|text| match text.as_str() {
            "" => Err(value(
                flag,
                "\"\"",
                "a pattern is not empty; `*` stands for any name",
            )),
            text if text.contains('/') => Err(value(flag, text, "device names hold no slash")),
            text => Ok(Pattern::new(text)),
        })
        .collect()
}

fn snat_ports(args: &RunArgs) -> Result<Ports, ConfigError> {
    let node_ports = port_range("node-port-range", &args.node_port_range)?;
    let Some(text) = &args.snat_ports else {
        return Ok(snat_ports::find(&node_ports)?);
    };
    let range = port_range("snat-ports", text)?;
    if range.start() <= node_ports.end() && node_ports.start() <= range.end() {
        let problem = format!("meets the NodePorts {}", args.node_port_range);
        return Err(value("snat-ports", text, problem));
    }
    Ok(snat_ports::ports(&range))
}

/// Two ports, the first not above the last.
fn port_range(flag: &'static str, text: &str) -> Result<RangeInclusive<u16>, ConfigError> {
    let ends = text
        .split_once('-')
        .map(|(first, last)| (first.trim().parse(), last.trim().parse()));
    match ends {
        Some((Ok(first), Ok(last))) if 0 < first && first <= last => Ok(first..=last),
        _ => Err(value(flag, text, "is not a range of ports such as 30000-32767")),
    }
}

/// The CIDRs, or none for all addresses.
fn nodeport_addresses(texts: &[String]) -> Result<Vec<IpNet>, ConfigError> {
    const FLAG: &str = "nodeport-addresses";
    if texts.iter().any(|text| text == "primary") {
        return match texts {
            [_] => Ok(Vec::new()),
            _ => Err(value(
                FLAG,
                texts.join(","),
                "`primary` stands alone; leave it out or leave the CIDRs out",
            )),
        };
    }
    texts
        .iter()
        .map(|text| {
            text.parse::<IpNet>().map_err(|_| {
                value(
                    FLAG,
                    text,
                    "is neither `primary` nor a CIDR such as 192.0.2.0/24 or 2001:db8::/64",
                )
            })
        })
        .collect()
}

/// The networks of cluster IPs.
fn service_cidrs(texts: &[String]) -> Result<Vec<IpNet>, ConfigError> {
    const FLAG: &str = "service-cidr";
    let mut nets = Vec::new();
    for text in texts {
        let problem = match text.parse::<IpNet>() {
            Ok(net) if net.prefix_len() == 0 => {
                "holds every address, and all traffic would be dropped; write the API server's \
                 --service-cluster-ip-range"
            }
            Ok(net) => {
                nets.push(net.trunc());
                continue;
            }
            Err(_) => "is no CIDR such as 10.96.0.0/12 or fd00:10:96::/112",
        };
        return Err(value(FLAG, text, problem));
    }
    for family in Family::ALL {
        let of_family = nets.iter().filter(|net| Family::of(net.addr()) == family);
        if of_family.count() > limits::SERVICE_CIDRS {
            let problem = format!(
                "has more than {} networks of {family}; write fewer, larger ones",
                limits::SERVICE_CIDRS
            );
            return Err(value(FLAG, texts.join(","), problem));
        }
    }
    Ok(nets)
}

/// A time in the notation of kube-proxy's flags (Go's `time.ParseDuration`): a number with ms, s or m.
fn duration(flag: &'static str, text: &str) -> Result<Duration, ConfigError> {
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ if text == "0" => 1.0,
        _ => return Err(value(flag, text, "is not a time such as 10ms, 1s or 0.5s")),
    };
    match number.parse::<f64>().map(|number| number * scale) {
        Ok(seconds) if seconds <= 60.0 => Ok(Duration::from_secs_f64(seconds)),
        Ok(_) => Err(value(
            flag,
            text,
            "is too long: changes would wait for it; a minute is the most",
        )),
        Err(_) => Err(value(flag, text, "is not a time such as 10ms, 1s or 0.5s")),
    }
}

fn sizes(args: &RunArgs) -> Result<Sizes, ConfigError> {
    /// Beyond this a map would take gigabytes; it is a typing mistake.
    const MOST: u32 = 1 << 28;
    for (flag, number) in [
        ("max-flows", args.max_flows),
        ("max-frontends", args.max_frontends),
        ("max-services", args.max_services),
        ("max-backends", args.max_backends),
        ("maglev-slots", args.maglev_slots),
    ] {
        if number == 0 || number > MOST {
            return Err(value(flag, number, format!("must be from 1 to {MOST}")));
        }
    }
    if !args.maglev_slots.is_multiple_of(2) {
        return Err(value("maglev-slots", args.maglev_slots, "must be even"));
    }
    Ok(Sizes {
        flows: args.max_flows,
        frontends: args.max_frontends,
        services: args.max_services,
        backends: args.max_backends,
        maglev_slots: args.maglev_slots,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Command};

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
        Config::new(&args).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_sound() {
        let config = config(&[]).unwrap();
        assert_eq!(config.min_sync_period, Duration::from_millis(10));
        assert_eq!(config.sizes, Sizes::default());
        assert!(config.serves_node_ports(&"192.0.2.1".parse().unwrap()));
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
        let serves = |addr: &str| config.serves_node_ports(&addr.parse().unwrap());
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
    fn times_are_read_as_kube_proxy_writes_them() {
        for (text, ms) in [
            ("10ms", 10),
            ("1s", 1_000),
            ("0.5s", 500),
            ("1m", 60_000),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(duration("x", text).unwrap(), Duration::from_millis(ms), "{text}");
        }
    }
}
