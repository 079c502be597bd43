//! What the user typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use super::{kube_proxy::KubeProxyFlags, settings::Settings};

/// A service load balancer for Kubernetes nodes, in the kernel.
///
/// Packets and sockets that are sent to a Service (ClusterIP, NodePort, external and load balancer IPs) are sent on to
/// one of its endpoints by eBPF programs. This agent attaches the programs and tells them what Services there are.
#[derive(Debug, Parser)]
#[command(
    name = "fairlead",
    version,
    max_term_width = 100,
    propagate_version = true,
    // Of a flag that is given twice the last one counts, as for kube-proxy: scripts append to what they are given.
    args_override_self = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How logs are written [default: text]
    #[arg(
        long,
        alias = "logging-format",
        global = true,
        value_enum,
        value_name = "FORMAT"
    )]
    pub log_format: Option<LogFormat>,
    /// How much is logged: error, warn, info, debug, trace, or a filter such as `info,lb_userspace::diff=debug`. The
    /// variable RUST_LOG goes before it [default: info]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the Services of a Kubernetes cluster, or of a folder of manifests, until SIGINT or SIGTERM.
    ///
    /// Forwarding goes on after the agent has ended; `fairlead cleanup` ends it.
    ///
    /// Example: fairlead run --kubeconfig /etc/kubernetes/fairlead.conf
    ///
    /// Example: fairlead run --manifests /etc/fairlead/services --hostname-override node1
    Run(Box<RunArgs>),
    /// Print the configuration that `fairlead run` would have with the same arguments, as a file for --config.
    ///
    /// Changes nothing. What is left to the agent to find out (the node's name, the cgroup, source ports) is in it too.
    ///
    /// Example: fairlead config --config /etc/fairlead/config.yaml --max-flows 1000000
    Config(Box<ConfigArgs>),
    /// Detach the programs and remove everything that an agent left in the kernel.
    ///
    /// Connections through services break. An agent that still runs must be stopped first.
    ///
    /// Example: fairlead cleanup
    Cleanup(PinArgs),
    /// Show what is attached, how full the maps are, and what has happened to packets.
    ///
    /// Reads the maps of a running or stopped agent and changes nothing.
    ///
    /// Example: fairlead status --bpffs /sys/fs/bpf/fairlead
    Status(PinArgs),
}

/// Where an agent keeps what outlives it.
#[derive(Clone, Debug, Args)]
pub struct PinArgs {
    /// Folder on a bpffs that an agent has pinned programs, links and maps in.
    #[arg(long, default_value = "/sys/fs/bpf/fairlead", value_name = "DIR")]
    pub bpffs: PathBuf,
}

/// Arguments of `fairlead config`.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigArgs {
    /// File with settings: a FairleadConfiguration, with a field for each flag, or a KubeProxyConfiguration. A flag that is
    /// given goes before the file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The settings that flags give.
    #[command(flatten)]
    pub settings: Settings,
    /// Flags of kube-proxy that have no meaning here.
    #[command(flatten)]
    pub kube_proxy: KubeProxyFlags,
}

/// Arguments of `fairlead run`.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// What it runs with.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Do what `fairlead cleanup` does, and end.
    #[arg(long, conflicts_with = "init_only")]
    pub cleanup: bool,
    /// Do what needs most privileges, and end: look for what the kernel lacks, mount a bpffs if there is none, make the pin
    /// folder. An agent that is started afterwards mounts nothing.
    #[arg(long)]
    pub init_only: bool,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Whose sockets are sent to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SocketLb {
    /// Processes in the node's own network namespace: all but pods.
    Host,
    /// And pods of this node: those behind its workload devices whose network namespace is found in /run/netns or /proc
    /// (run the agent where these show the pods). Connected UDP, services with session affinity and load balancers'
    /// addresses are left to the pods' packets, and so is every pod that is not found.
    All,
    /// Nobody's. Pods and the outside are served as before; processes of the node and hostNetwork pods reach no service,
    /// localhost:nodePort included.
    Off,
}

/// What the kernel programs log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BpfLog {
    /// Nothing; the calls are not even loaded.
    Off,
    /// Errors.
    Error,
    /// And warnings.
    Warn,
    /// And notable events.
    Info,
    /// And each new flow and dropped packet.
    Debug,
    /// Everything.
    Trace,
}

impl BpfLog {
    pub(super) const ALL: [Self; 6] = [
        Self::Off,
        Self::Error,
        Self::Warn,
        Self::Info,
        Self::Debug,
        Self::Trace,
    ];

    /// The level as aya-log numbers it; 0 is off.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The level of that number; everything for one that is none.
    pub fn of_number(number: u8) -> Self {
        Self::ALL
            .into_iter()
            .find(|level| level.number() == number)
            .unwrap_or(Self::Trace)
    }
}
