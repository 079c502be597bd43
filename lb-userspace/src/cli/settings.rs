//! What can be set, by a flag or in a file: one list for both.

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::args::{BpfLog, LogFormat, SocketLb};

/// What was set. What was not is none.
///
/// A field is a flag of `fairlead run`, and, with its name in camel case, a field of a `FairleadConfiguration`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Folder of manifests: Service and EndpointSlice objects in *.yaml, *.yml and *.json files. Changes are followed. They
    /// take the place of the Kubernetes API [default: none; objects come from the API server]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "master"])]
    pub manifests: Option<PathBuf>,
    /// File that tells how to reach the API server [default: the one that the variable KUBECONFIG names; else the service
    /// account of the pod that the agent runs in]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Address of the API server, such as https://192.0.2.10:6443; goes before the one in --kubeconfig. Of several they are
    /// tried in turn. It must be one that is reached without Services, for those come from it.
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    pub master: Option<Vec<String>>,
    /// How long the API server may take to answer a request, before another connection or server is tried [default: 30s]
    #[arg(long, value_name = "TIME")]
    pub api_timeout: Option<String>,
    /// Folder on a bpffs that programs, links and maps are pinned in. A bpffs is mounted if there is none [default:
    /// /sys/fs/bpf/fairlead]
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// Folder of the cgroup v2 whose processes reach services by their sockets (only those that --socket-lb means are
    /// touched) [default: the root of the hierarchy in /proc/mounts]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Whose sockets are sent to endpoints when they connect or send, instead of each of their packets [default: host]
    #[arg(long, value_enum, value_name = "WHOSE")]
    pub socket_lb: Option<SocketLb>,
    /// Name of this node, as EndpointSlices have it [default: the variable NODE_NAME, else the host's name]
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// Addresses of the node that NodePorts are served on: CIDRs, or `primary` for those of its uplinks [default: primary]
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pub nodeport_addresses: Option<Vec<String>>,
    /// Ports that NodePorts are given from, as the API server has them: packets never get one of them as their source
    /// [default: 30000-32767]
    #[arg(long, value_name = "FIRST-LAST")]
    pub node_port_range: Option<String>,
    /// Networks that cluster IPs are given from, of both IP versions, besides the ServiceCIDRs of the API: what is sent to an
    /// address in them that no Service has is dropped (--drop-unallocated) [default: no others]
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pub service_cidr: Option<Vec<String>>,
    /// Drop what is sent to a cluster IP that no Service has. `false` where another proxy on the nodes serves Services with
    /// the label service.kubernetes.io/service-proxy-name, which Fairlead does not watch; such packets go where the routing
    /// table sends them then [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub drop_unallocated: Option<bool>,
    /// Serve the externalIPs of Services. Who may create Services may take over any address with them (CVE-2020-8554)
    /// [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub external_ips: Option<bool>,
    /// Source ports for packets from outside that are sent on to another node, if their own cannot be kept [default: the
    /// largest range beside the NodePorts and net.ipv4.ip_local_port_range]
    #[arg(long, value_name = "FIRST-LAST")]
    pub snat_ports: Option<String>,
    /// Devices that face the network, by name; `*` and `?` are wildcards. Goes before what is found out.
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    pub uplink: Option<Vec<String>>,
    /// Devices that face pods, by name; `*` and `?` are wildcards. Goes before what is found out.
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    pub workload: Option<Vec<String>>,
    /// Where packets that leave by an uplink again are already dealt with before the stack: auto, native, generic or off,
    /// or PATTERN=MODE for some devices. The last one that matches counts. auto is native on network cards whose driver
    /// has it, and off elsewhere [default: auto]
    ///
    /// On a veth, native needs an XDP program on the other end too, which lets frames pass.
    #[arg(long, value_delimiter = ',', value_name = "[PATTERN=]MODE")]
    pub xdp: Option<Vec<String>>,
    /// Address and port of the health checks /healthz and /livez; empty for none [default: 0.0.0.0:10256]
    #[arg(long, value_name = "ADDR:PORT")]
    pub healthz_bind_address: Option<String>,
    /// Address and port of /metrics, /proxyMode and /configz; empty for none [default: 127.0.0.1:10249]
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics_bind_address: Option<String>,
    /// Count packets, bytes and connections of each service port, for /metrics [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub service_stats: Option<bool>,
    /// Largest number of service ports that are counted by themselves, those of the two IP versions separately; others have
    /// no series of their own [default: 1000]
    #[arg(long, value_name = "N")]
    pub metrics_max_services: Option<u32>,
    /// How long to wait for further changes before a change is applied [default: 10ms]
    #[arg(long, value_name = "TIME")]
    pub min_sync_period: Option<String>,
    /// How often what the kernel's maps hold is compared with what the agent has put there; what differs is put right and
    /// told. A second at least; 0 for never [default: 5m]
    #[arg(
        long,
        aliases = ["iptables-sync-period", "ipvs-sync-period"],
        value_name = "TIME"
    )]
    pub audit_period: Option<String>,
    /// What the kernel programs log (new flows and drops at debug). Costs nothing when off [default: off]
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub bpf_log: Option<BpfLog>,
    /// Attach to devices by clsact filters, as on kernels before 6.6, even where the kernel has tcx links [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub no_tcx: Option<bool>,
    /// How long a TCP connection without packets is remembered [default: 24h]
    #[arg(long, alias = "conntrack-tcp-timeout-established", value_name = "TIME")]
    pub tcp_established_timeout: Option<String>,
    /// How long a TCP connection that was asked for and not answered is remembered [default: 2m]
    #[arg(long, value_name = "TIME")]
    pub tcp_syn_timeout: Option<String>,
    /// How long a TCP connection without packets is remembered that one side has closed [default: 1h]
    #[arg(long, alias = "conntrack-tcp-timeout-close-wait", value_name = "TIME")]
    pub tcp_close_wait_timeout: Option<String>,
    /// How long a TCP connection is remembered that both sides have closed, or one has reset [default: 2m]
    #[arg(long, value_name = "TIME")]
    pub tcp_fin_timeout: Option<String>,
    /// How long a UDP flow that nobody answers is remembered [default: 30s]
    #[arg(long, alias = "conntrack-udp-timeout", value_name = "TIME")]
    pub udp_timeout: Option<String>,
    /// How long a UDP flow with datagrams both ways is remembered [default: 2m]
    #[arg(long, alias = "conntrack-udp-timeout-stream", value_name = "TIME")]
    pub udp_stream_timeout: Option<String>,
    /// Largest number of flows of each IP version that are remembered; beyond it the oldest are forgotten [default: 131072]
    #[arg(long, value_name = "N")]
    pub max_flows: Option<u32>,
    /// Largest number of frontends (address and port) of each IP version [default: 65536]
    #[arg(long, value_name = "N")]
    pub max_frontends: Option<u32>,
    /// Largest number of service ports, those of the two IP versions separately [default: 65536]
    #[arg(long, value_name = "N")]
    pub max_services: Option<u32>,
    /// Largest number of endpoints of each IP version, counted for each service port [default: 131072]
    #[arg(long, value_name = "N")]
    pub max_backends: Option<u32>,
    /// Slots of all Maglev tables together, 4 bytes each; an even number [default: 4194304]
    ///
    /// Each service port takes 1 slot for one endpoint, 64 to 128 for each of several, and 131072 at most, which is what 2048
    /// and more endpoints have; twice as many where a traffic policy is Local and endpoints are on this node. Where less than
    /// an eighth is free, tables are smaller.
    #[arg(long, value_name = "N")]
    pub maglev_slots: Option<u32>,
    /// How logs are written; a flag of every command.
    #[arg(skip)]
    pub log_format: Option<LogFormat>,
    /// How much is logged; a flag of every command.
    #[arg(skip)]
    pub log_level: Option<String>,
}

impl Settings {
    /// These, and what they leave open from `lower`. A source of Services of one kind rules out one of the other kind.
    #[must_use]
    pub fn over(self, mut lower: Self) -> Self {
        if self.manifests.is_some() {
            lower.kubeconfig = None;
            lower.master = None;
        } else if self.kubeconfig.is_some() || self.master.is_some() {
            lower.manifests = None;
        }
        // Without `..`, so that no field is forgotten.
        Self {
            manifests: self.manifests.or(lower.manifests),
            kubeconfig: self.kubeconfig.or(lower.kubeconfig),
            master: self.master.or(lower.master),
            api_timeout: self.api_timeout.or(lower.api_timeout),
            bpffs: self.bpffs.or(lower.bpffs),
            cgroup: self.cgroup.or(lower.cgroup),
            socket_lb: self.socket_lb.or(lower.socket_lb),
            hostname_override: self.hostname_override.or(lower.hostname_override),
            nodeport_addresses: self.nodeport_addresses.or(lower.nodeport_addresses),
            node_port_range: self.node_port_range.or(lower.node_port_range),
            service_cidr: self.service_cidr.or(lower.service_cidr),
            drop_unallocated: self.drop_unallocated.or(lower.drop_unallocated),
            external_ips: self.external_ips.or(lower.external_ips),
            snat_ports: self.snat_ports.or(lower.snat_ports),
            uplink: self.uplink.or(lower.uplink),
            workload: self.workload.or(lower.workload),
            xdp: self.xdp.or(lower.xdp),
            healthz_bind_address: self.healthz_bind_address.or(lower.healthz_bind_address),
            metrics_bind_address: self.metrics_bind_address.or(lower.metrics_bind_address),
            service_stats: self.service_stats.or(lower.service_stats),
            metrics_max_services: self.metrics_max_services.or(lower.metrics_max_services),
            min_sync_period: self.min_sync_period.or(lower.min_sync_period),
            audit_period: self.audit_period.or(lower.audit_period),
            bpf_log: self.bpf_log.or(lower.bpf_log),
            no_tcx: self.no_tcx.or(lower.no_tcx),
            tcp_established_timeout: self.tcp_established_timeout.or(lower.tcp_established_timeout),
            tcp_syn_timeout: self.tcp_syn_timeout.or(lower.tcp_syn_timeout),
            tcp_close_wait_timeout: self.tcp_close_wait_timeout.or(lower.tcp_close_wait_timeout),
            tcp_fin_timeout: self.tcp_fin_timeout.or(lower.tcp_fin_timeout),
            udp_timeout: self.udp_timeout.or(lower.udp_timeout),
            udp_stream_timeout: self.udp_stream_timeout.or(lower.udp_stream_timeout),
            max_flows: self.max_flows.or(lower.max_flows),
            max_frontends: self.max_frontends.or(lower.max_frontends),
            max_services: self.max_services.or(lower.max_services),
            max_backends: self.max_backends.or(lower.max_backends),
            maglev_slots: self.maglev_slots.or(lower.maglev_slots),
            log_format: self.log_format.or(lower.log_format),
            log_level: self.log_level.or(lower.log_level),
        }
    }

    /// Whether the flag of that name (without dashes) was set.
    pub fn has(&self, flag: &str) -> bool {
        let fields = serde_json::to_value(self).unwrap_or_default();
        !fields[field(flag)].is_null()
    }
}

/// The name that a flag has in a file.
pub fn field(flag: &str) -> String {
    let mut words = flag.split('-');
    let mut name = words.next().unwrap_or_default().to_owned();
    for word in words {
        let (first, rest) = word.split_at(word.len().min(1));
        name.push_str(&first.to_uppercase());
        name.push_str(rest);
    }
    name
}
