//! The list: flags of kube-proxy 1.36 (`cmd/kube-proxy/app/options.go`, `k8s.io/component-base/logs/api/v1`) and fields of
//! its `KubeProxyConfiguration` (`k8s.io/kube-proxy/config/v1alpha1/types.go`) that are no settings of Fairlead.
//!
//! One that asks for something that happens anyway, or that nothing comes of, is taken with a warning. One is refused
//! whose absence the operator would only notice by an accident.

/// A flag or field of kube-proxy's.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// The flag without dashes; empty if there is only a field.
    pub flag: &'static str,
    /// Paths of the field, and of others like it; empty if there is only a flag.
    pub fields: &'static [&'static str],
    /// Whether the flag stands for `true` without a value.
    pub switch: bool,
    /// What comes of it.
    pub verdict: Verdict,
}

/// What comes of a flag or field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is taken with a warning.
    Ignored(&'static str),
    /// It is an error.
    Refused(&'static str),
    /// `true` is what holds anyway; anything else is an error.
    OnlyTrue(&'static str),
    /// `false` is what holds anyway; anything else is taken with a warning.
    OnlyFalse(&'static str),
}

use Verdict::{Ignored, OnlyFalse, OnlyTrue, Refused};

const fn value(flag: &'static str, fields: &'static [&'static str], verdict: Verdict) -> Known {
    Known {
        flag,
        fields,
        switch: false,
        verdict,
    }
}

const fn switch(flag: &'static str, fields: &'static [&'static str], verdict: Verdict) -> Known {
    Known {
        flag,
        fields,
        switch: true,
        verdict,
    }
}

const PODS: &str = "pods are told by their devices; --workload names devices that are not found by the rules";
const MARKS: &str = "packets are not marked";
const SYNC: &str =
    "changes are applied as they come, and collected for --min-sync-period; see --audit-period for the rest";
const NO_IPVS: &str = "there is no IPVS";
const OWN_FLOWS: &str = "flows are remembered in tables of Fairlead's own; see --max-flows";
const CLIENT: &str = "the client of the API server has no such limit to set";
const LOGS: &str = "logs go to standard error; see --log-level and --log-format";
const WINDOWS: &str = "it is for Windows";

/// All of them.
pub static KNOWN: [Known; 53] = [
    value(
        "bind-address",
        &["bindAddress"],
        Ignored("addresses of the node are found on its devices"),
    ),
    switch(
        "bind-address-hard-fail",
        &["bindAddressHardFail"],
        OnlyFalse("a port that is taken is logged and tried again"),
    ),
    value("cluster-cidr", &["clusterCIDR"], Ignored(PODS)),
    value(
        "config-sync-period",
        &["configSyncPeriod"],
        Ignored("the API server is watched, not asked again"),
    ),
    value(
        "conntrack-max-per-core",
        &["conntrack.maxPerCore"],
        Ignored(OWN_FLOWS),
    ),
    value("conntrack-min", &["conntrack.min"], Ignored(OWN_FLOWS)),
    switch(
        "conntrack-tcp-be-liberal",
        &["conntrack.tcpBeLiberal"],
        Ignored("sequence numbers are not looked at, so that nothing is out of window"),
    ),
    value("detect-local-mode", &["detectLocalMode"], Ignored(PODS)),
    value(
        "feature-gates",
        &["featureGates"],
        Ignored("Fairlead has no feature gates"),
    ),
    value("healthz-port", &[], Refused("use --healthz-bind-address")),
    switch(
        "iptables-localhost-nodeports",
        &["iptables.localhostNodePorts"],
        OnlyTrue(
            "processes of the node reach NodePorts on localhost as long as their sockets are served; \
                  --socket-lb=off ends that, and their access to all Services",
        ),
    ),
    value(
        "iptables-masquerade-bit",
        &["iptables.masqueradeBit", "nftables.masqueradeBit"],
        Ignored(MARKS),
    ),
    value(
        "iptables-min-sync-period",
        &["iptables.minSyncPeriod", "nftables.minSyncPeriod"],
        Ignored(SYNC),
    ),
    value("ipvs-exclude-cidrs", &["ipvs.excludeCIDRs"], Ignored(NO_IPVS)),
    value("ipvs-min-sync-period", &["ipvs.minSyncPeriod"], Ignored(SYNC)),
    value(
        "ipvs-scheduler",
        &["ipvs.scheduler"],
        Ignored("endpoints are chosen by Maglev hashing"),
    ),
    switch(
        "ipvs-strict-arp",
        &["ipvs.strictARP"],
        Ignored("addresses of Services are on no device, so nobody answers ARP for them"),
    ),
    value(
        "ipvs-tcp-timeout",
        &["ipvs.tcpTimeout"],
        Ignored("see --tcp-established-timeout"),
    ),
    value(
        "ipvs-tcpfin-timeout",
        &["ipvs.tcpFinTimeout"],
        Ignored("see --tcp-fin-timeout"),
    ),
    value(
        "ipvs-udp-timeout",
        &["ipvs.udpTimeout"],
        Ignored("see --udp-timeout and --udp-stream-timeout"),
    ),
    value("kube-api-burst", &["clientConnection.burst"], Ignored(CLIENT)),
    value(
        "kube-api-content-type",
        &[
            "clientConnection.contentType",
            "clientConnection.acceptContentTypes",
        ],
        Ignored("the API server is asked for JSON"),
    ),
    value("kube-api-qps", &["clientConnection.qps"], Ignored(CLIENT)),
    value("log-flush-frequency", &["logging.flushFrequency"], Ignored(LOGS)),
    value(
        "log-json-info-buffer-size",
        &["logging.options.json.infoBufferSize"],
        Ignored(LOGS),
    ),
    switch(
        "log-json-split-stream",
        &["logging.options.json.splitStream"],
        Ignored(LOGS),
    ),
    value(
        "log-text-info-buffer-size",
        &["logging.options.text.infoBufferSize"],
        Ignored(LOGS),
    ),
    switch(
        "log-text-split-stream",
        &["logging.options.text.splitStream"],
        Ignored(LOGS),
    ),
    switch("alsologtostderr", &[], Ignored(LOGS)),
    switch("add_dir_header", &[], Ignored(LOGS)),
    value("log_backtrace_at", &[], Ignored(LOGS)),
    value("log_dir", &[], Refused(LOGS)),
    value("log_file", &[], Refused(LOGS)),
    value("log_file_max_size", &[], Ignored(LOGS)),
    switch("logtostderr", &[], Ignored(LOGS)),
    switch("one_output", &[], Ignored(LOGS)),
    switch("skip_headers", &[], Ignored(LOGS)),
    switch("skip_log_headers", &[], Ignored(LOGS)),
    value("stderrthreshold", &[], Ignored(LOGS)),
    value("v", &["logging.verbosity"], Ignored("see --log-level")),
    value(
        "vmodule",
        &["logging.vmodule"],
        Ignored("see --log-level, which takes filters for modules"),
    ),
    switch(
        "masquerade-all",
        &["iptables.masqueradeAll", "nftables.masqueradeAll"],
        OnlyFalse(
            "replies to pods always pass their own node, so their addresses stay; what comes from outside and \
                   goes to another node gets the node's address",
        ),
    ),
    value("metrics-port", &[], Refused("use --metrics-bind-address")),
    value(
        "oom-score-adj",
        &["oomScoreAdj"],
        Ignored(
            "set it where the agent is started: the pod's \
        priority class, or OOMScoreAdjust= of the unit",
        ),
    ),
    value(
        "pod-bridge-interface",
        &["detectLocal.bridgeInterface"],
        Ignored(PODS),
    ),
    value(
        "pod-interface-name-prefix",
        &["detectLocal.interfaceNamePrefix"],
        Ignored(PODS),
    ),
    switch(
        "profiling",
        &["enableProfiling"],
        OnlyFalse("there is no profiling by HTTP; use perf"),
    ),
    value("proxy-mode", &["mode"], Ignored("there is one mode: eBPF")),
    value(
        "show-hidden-metrics-for-version",
        &["showHiddenMetricsForVersion"],
        Ignored("no metrics are hidden"),
    ),
    value(
        "write-config-to",
        &[],
        Refused("`fairlead config` prints the configuration"),
    ),
    value(
        "",
        &["iptables.snatNodeInternalIP"],
        Refused(
            "packets that go on to another node get the address of the \
        device that they leave by; there is no choice yet",
        ),
    ),
    value(
        "",
        &["portRange"],
        Ignored("kube-proxy too has no use for it any more"),
    ),
    value("", &["winkernel", "windowsRunAsService"], Ignored(WINDOWS)),
];
