//! What was set, checked: the configuration of `fairlead run`.

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use ipnet::IpNet;
use lb_common::{datapath::Ports, flow::Timeouts};
use thiserror::Error;

use super::{
    args::{BpfLog, LogFormat, SocketLb},
    bind::Bind,
    environment::Environment,
    settings::Settings,
    timeouts::timeouts,
    values,
};
use crate::{
    cgroup::{self, CgroupError},
    devices::{Overrides, XdpRules},
    load::Sizes,
    logging,
    snat_ports::SnatPortsError,
};

/// Where an agent keeps what outlives it.
const BPFFS: &str = "/sys/fs/bpf/fairlead";

/// How often the maps are compared with what was put there.
const AUDIT_PERIOD: Duration = Duration::from_secs(300);

/// What is wrong with the configuration.
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
    /// The same in a file.
    #[error("{}: {field}: {value}: {problem}", file.display())]
    FileValue {
        /// The file.
        file: PathBuf,
        /// The field.
        field: String,
        /// What it holds.
        value: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// Services are to come from two places.
    #[error(
        "manifests and an API server (kubeconfig, master) are both given; Services come from one of them"
    )]
    TwoSources,
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
#[derive(Clone, Debug, PartialEq)]
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
    /// Which addresses of the node serve NodePorts; those of its uplinks if empty.
    pub nodeport_addresses: Vec<IpNet>,
    /// Ports that NodePorts are given from.
    pub node_port_range: RangeInclusive<u16>,
    /// Networks of cluster IPs; at most [`lb_common::limits::SERVICE_CIDRS`] of each family.
    pub service_cidrs: Vec<IpNet>,
    /// Whether packets to cluster IPs of no Service are dropped.
    pub drop_unallocated: bool,
    /// Whether `spec.externalIPs` are served.
    pub external_ips: bool,
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
    /// Whether service ports are counted.
    pub service_stats: bool,
    /// How long changes are collected.
    pub min_sync_period: Duration,
    /// How often the maps are compared with what was put there; never if zero.
    pub audit_period: Duration,
    /// Level of the kernel side's log, as aya-log numbers it; 0 is off.
    pub bpf_log: u8,
    /// Use clsact filters even where there are tcx links.
    pub no_tcx: bool,
    /// Sizes of the maps.
    pub sizes: Sizes,
    /// How logs are written.
    pub log_format: LogFormat,
    /// How much is logged.
    pub log_level: String,
}

impl Config {
    /// Checks what was set, and finds out what was not.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the flag and the remedy.
    pub fn new(settings: &Settings, environment: &Environment) -> Result<Self, ConfigError> {
        let list = |given: &Option<Vec<String>>| given.clone().unwrap_or_default();
        let socket_lb = settings.socket_lb.unwrap_or(SocketLb::Host);
        let node_port_range = match &settings.node_port_range {
            Some(text) => values::port_range("node-port-range", text)?,
            None => 30_000..=32_767,
        };
        let xdp = list(&settings.xdp);
        Ok(Self {
            source: source(settings, environment)?,
            bpffs: settings.bpffs.clone().unwrap_or_else(|| BPFFS.into()),
            socket_lb,
            cgroup: match &settings.cgroup {
                _ if socket_lb == SocketLb::Off => None,
                Some(cgroup) => Some(cgroup.clone()),
                None => Some(cgroup::find()?),
            },
            node_name: node_name(settings, environment)?,
            nodeport_addresses: values::nodeport_addresses(&list(&settings.nodeport_addresses))?,
            service_cidrs: values::service_cidrs(&list(&settings.service_cidr))?,
            drop_unallocated: settings.drop_unallocated.unwrap_or(true),
            external_ips: settings.external_ips.unwrap_or(true),
            snat_ports: values::snat_ports(settings, &node_port_range)?,
            node_port_range,
            timeouts: timeouts(settings)?,
            overrides: Overrides {
                uplink: values::patterns("uplink", &list(&settings.uplink))?,
                workload: values::patterns("workload", &list(&settings.workload))?,
            },
            xdp: XdpRules::parse(&xdp).map_err(|text| {
                let problem = "is no mode: auto, native, generic or off, or PATTERN=MODE such as eth*=native";
                values::value("xdp", text, problem)
            })?,
            healthz_bind_address: match &settings.healthz_bind_address {
                Some(text) => values::bind("healthz-bind-address", text, Bind::HEALTHZ)?,
                None => Some(Bind::HEALTHZ),
            },
            metrics_bind_address: match &settings.metrics_bind_address {
                Some(text) => values::bind("metrics-bind-address", text, Bind::METRICS)?,
                None => Some(Bind::METRICS),
            },
            service_stats: settings.service_stats.unwrap_or(true),
            min_sync_period: match &settings.min_sync_period {
                Some(text) => values::wait("min-sync-period", text)?,
                None => Duration::from_millis(10),
            },
            audit_period: match &settings.audit_period {
                Some(text) => values::period("audit-period", text)?,
                None => AUDIT_PERIOD,
            },
            bpf_log: settings.bpf_log.unwrap_or(BpfLog::Off).number(),
            no_tcx: settings.no_tcx.unwrap_or(false),
            sizes: values::sizes(settings)?,
            log_format: settings.log_format.unwrap_or(LogFormat::Text),
            log_level: settings
                .log_level
                .clone()
                .unwrap_or_else(|| logging::DEFAULT.to_owned()),
        })
    }

    /// Makes sure that there is a place that Services can come from.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoSource`] with the remedy.
    pub fn check_source(&self, environment: &Environment) -> Result<(), ConfigError> {
        match &self.source {
            Source::Kubernetes(api)
                if api.kubeconfig.is_none() && api.masters.is_empty() && !environment.in_pod =>
            {
                Err(ConfigError::NoSource)
            }
            Source::Kubernetes(_) | Source::Manifests(_) => Ok(()),
        }
    }

    /// Whether `--nodeport-addresses` names that address.
    pub fn names_for_node_ports(&self, addr: &IpAddr) -> bool {
        self.nodeport_addresses.iter().any(|net| net.contains(addr))
    }
}

fn source(settings: &Settings, environment: &Environment) -> Result<Source, ConfigError> {
    let masters = settings.master.clone().unwrap_or_default();
    if let Some(folder) = &settings.manifests {
        if settings.kubeconfig.is_some() || !masters.is_empty() {
            return Err(ConfigError::TwoSources);
        }
        return Ok(Source::Manifests(folder.clone()));
    }
    let kubeconfig = match &settings.kubeconfig {
        Some(file) => Some(file.clone()),
        None => environment.kubeconfig.clone(),
    };
    let timeout = match &settings.api_timeout {
        Some(text) => values::patience("api-timeout", text)?,
        None => Duration::from_secs(30),
    };
    Ok(Source::Kubernetes(ApiServer {
        kubeconfig,
        masters,
        timeout,
    }))
}

fn node_name(settings: &Settings, environment: &Environment) -> Result<String, ConfigError> {
    let given = settings
        .hostname_override
        .as_ref()
        .or(environment.node_name.as_ref());
    match given {
        // As kube-proxy does: node names are lower case.
        Some(name) if !name.trim().is_empty() => Ok(name.trim().to_lowercase()),
        Some(name) => {
            let problem = "a node's name is not empty (the flag's default is the variable NODE_NAME)";
            Err(values::value("hostname-override", format!("{name:?}"), problem))
        }
        None => Ok(rustix::system::uname()
            .nodename()
            .to_str()
            .map_err(|_| ConfigError::HostName)?
            .trim()
            .to_lowercase()),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
