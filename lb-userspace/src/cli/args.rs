//! What the user typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lb_common::limits;

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
    /// How logs are written.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// How much is logged: error, warn, info, debug, trace, or a filter such as `info,lb_userspace::diff=debug`. The
    /// variable RUST_LOG goes before it.
    #[arg(long, global = true, default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
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
    /// Folder on a bpffs that programs, links and maps are pinned in. A bpffs is mounted if there is none.
    #[arg(long, default_value = "/sys/fs/bpf/fairlead", value_name = "DIR")]
    pub bpffs: PathBuf,
}

/// Arguments of `fairlead run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Folder of manifests: Service and EndpointSlice objects in *.yaml, *.yml and *.json files. Changes are followed. They
    /// take the place of the Kubernetes API [default: none; objects come from the API server]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "master"])]
    pub manifests: Option<PathBuf>,
    /// File that tells how to reach the API server [default: none; the service account of the pod that the agent runs in]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Address of the API server, such as https://192.0.2.10:6443; goes before the one in --kubeconfig. Of several they are
    /// tried in turn. It must be one that is reached without Services, for those come from it.
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    pub master: Vec<String>,
    /// How long the API server may take to answer a request, before another connection or server is tried.
    #[arg(long, default_value = "30s", value_name = "TIME")]
    pub api_timeout: String,
    /// Where programs, links and maps are pinned.
    #[command(flatten)]
    pub pins: PinArgs,
    /// Folder of the cgroup v2 whose processes reach services by their sockets (only those that --socket-lb means are
    /// touched) [default: the root of the hierarchy in /proc/mounts]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Whose sockets are sent to endpoints when they connect or send, instead of each of their packets.
    #[arg(long, value_enum, default_value_t = SocketLb::Host, value_name = "WHOSE")]
    pub socket_lb: SocketLb,
    /// Name of this node, as EndpointSlices have it [default: the host's name]
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// Addresses of the node that NodePorts are served on: CIDRs, or `primary` for all of the node's own.
    #[arg(long, value_delimiter = ',', default_value = "primary", value_name = "CIDR")]
    pub nodeport_addresses: Vec<String>,
    /// Ports that NodePorts are given from, as the API server has them: packets never get one of them as their source.
    #[arg(long, default_value = "30000-32767", value_name = "FIRST-LAST")]
    pub node_port_range: String,
    /// Networks that cluster IPs are given from, as the API server has them, of both IP versions: what is sent to an
    /// address in them that no Service has is dropped. Not for clusters where another proxy serves some of the Services
    /// [default: none; such packets go where the routing table sends them]
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pub service_cidr: Vec<String>,
    /// Source ports for packets from outside that are sent on to another node, if their own cannot be kept [default: the
    /// largest range beside the NodePorts and net.ipv4.ip_local_port_range]
    #[arg(long, value_name = "FIRST-LAST")]
    pub snat_ports: Option<String>,
    /// Devices that face the network, by name; `*` and `?` are wildcards. Goes before what is found out.
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    pub uplink: Vec<String>,
    /// Devices that face pods, by name; `*` and `?` are wildcards. Goes before what is found out.
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    pub workload: Vec<String>,
    /// Where packets that leave by an uplink again are already dealt with before the stack: auto, native, generic or off,
    /// or PATTERN=MODE for some devices. The last one that matches counts. auto is native on network cards whose driver
    /// has it, and off elsewhere.
    ///
    /// On a veth, native needs an XDP program on the other end too, which lets frames pass. [default: auto]
    #[arg(long, value_delimiter = ',', value_name = "[PATTERN=]MODE")]
    pub xdp: Vec<String>,
    /// Address and port of the health checks /healthz and /livez; empty for none.
    #[arg(long, default_value = "0.0.0.0:10256", value_name = "ADDR:PORT")]
    pub healthz_bind_address: String,
    /// Address and port of /metrics, /proxyMode and /configz; empty for none.
    #[arg(long, default_value = "127.0.0.1:10249", value_name = "ADDR:PORT")]
    pub metrics_bind_address: String,
    /// How long to wait for further changes before a change is applied.
    #[arg(long, default_value = "10ms", value_name = "TIME")]
    pub min_sync_period: String,
    /// What the kernel programs log (new flows and drops at debug). Costs nothing when off.
    #[arg(long, value_enum, default_value_t = BpfLog::Off, value_name = "LEVEL")]
    pub bpf_log: BpfLog,
    /// Attach to devices by clsact filters, as on kernels before 6.6, even where the kernel has tcx links.
    #[arg(long)]
    pub no_tcx: bool,
    /// How long a TCP connection without packets is remembered.
    #[arg(
        long,
        alias = "conntrack-tcp-timeout-established",
        default_value = "24h",
        value_name = "TIME"
    )]
    pub tcp_established_timeout: String,
    /// How long a TCP connection that was asked for and not answered is remembered.
    #[arg(long, default_value = "2m", value_name = "TIME")]
    pub tcp_syn_timeout: String,
    /// How long a TCP connection without packets is remembered that one side has closed.
    #[arg(
        long,
        alias = "conntrack-tcp-timeout-close-wait",
        default_value = "1h",
        value_name = "TIME"
    )]
    pub tcp_close_wait_timeout: String,
    /// How long a TCP connection is remembered that both sides have closed, or one has reset.
    #[arg(long, default_value = "2m", value_name = "TIME")]
    pub tcp_fin_timeout: String,
    /// How long a UDP flow that nobody answers is remembered.
    #[arg(
        long,
        alias = "conntrack-udp-timeout",
        default_value = "30s",
        value_name = "TIME"
    )]
    pub udp_timeout: String,
    /// How long a UDP flow with datagrams both ways is remembered.
    #[arg(
        long,
        alias = "conntrack-udp-timeout-stream",
        default_value = "2m",
        value_name = "TIME"
    )]
    pub udp_stream_timeout: String,
    /// Largest number of flows of each IP version that are remembered; beyond it the oldest are forgotten.
    #[arg(long, default_value_t = limits::FLOWS, value_name = "N")]
    pub max_flows: u32,
    /// Largest number of frontends (address and port) of each IP version.
    #[arg(long, default_value_t = limits::FRONTENDS, value_name = "N")]
    pub max_frontends: u32,
    /// Largest number of service ports.
    #[arg(long, default_value_t = limits::SERVICES, value_name = "N")]
    pub max_services: u32,
    /// Largest number of endpoints of each IP version, counted for each service port.
    #[arg(long, default_value_t = limits::BACKENDS, value_name = "N")]
    pub max_backends: u32,
    /// Slots of all Maglev tables together, 4 bytes each. A service takes 64 to 128 for each endpoint.
    #[arg(long, default_value_t = limits::MAGLEV_SLOTS, value_name = "N")]
    pub maglev_slots: u32,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Whose sockets are sent to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
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
