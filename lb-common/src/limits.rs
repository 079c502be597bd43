//! Named limits. Passing one is counted and told to the operator, never silent.

/// A flow's `last_seen` is written at most once in this time (ns): a store per packet would bounce cache lines
/// between CPUs.
pub const FLOW_REFRESH_NS: u64 = 1_000_000_000;

/// A TCP flow with only SYNs seen is forgotten after this time without a packet (ns). Linux gives up on an unanswered
/// SYN after 127 s by default (`tcp_syn_retries` = 6), but retries at most 64 s apart.
pub const TCP_SYN_TIMEOUT_NS: u64 = 120 * 1_000_000_000;

/// An established TCP flow is forgotten after this time without a packet (ns): kube-proxy's default for
/// `--conntrack-tcp-timeout-established` is 24 h.
pub const TCP_ESTABLISHED_TIMEOUT_NS: u64 = 24 * 3600 * 1_000_000_000;

/// A TCP flow that one side has closed is forgotten after this time without a packet (ns): kube-proxy's default for
/// `--conntrack-tcp-timeout-close-wait` is 1 h.
pub const TCP_CLOSING_TIMEOUT_NS: u64 = 3600 * 1_000_000_000;

/// A TCP flow that both sides have closed, or one has reset, is forgotten after this time without a packet (ns):
/// nf_conntrack's TIME_WAIT.
pub const TCP_CLOSED_TIMEOUT_NS: u64 = 120 * 1_000_000_000;

/// A UDP flow that nobody answers is forgotten after this time without a packet (ns): nf_conntrack's
/// `nf_conntrack_udp_timeout`.
pub const UDP_TIMEOUT_NS: u64 = 30 * 1_000_000_000;

/// A UDP flow with datagrams both ways is forgotten after this time without a packet (ns): nf_conntrack's
/// `nf_conntrack_udp_timeout_stream`.
pub const UDP_STREAM_TIMEOUT_NS: u64 = 120 * 1_000_000_000;

/// Default number of flows per family; each takes two entries of the flow map.
pub const FLOWS: u32 = 131_072;

/// Default number of frontends per family.
pub const FRONTENDS: u32 = 65_536;

/// Bits for the addresses that services and endpoints have (32 KiB). With 40,000 addresses, which is what 10,000 services of three
/// endpoints have, one other address in seven looks like one of them and is asked for in vain.
pub const KNOWN_BITS: u32 = 262_144;

/// Default number of services (ports of Kubernetes Services, per family).
pub const SERVICES: u32 = 65_536;

/// Default number of backends per family.
pub const BACKENDS: u32 = 131_072;

/// Default number of Maglev slots, of 4 bytes each, for all services together (16 MiB).
pub const MAGLEV_SLOTS: u32 = 4 * 1024 * 1024;

/// Default number of socket peers remembered per family.
pub const SOCKETS: u32 = 65_536;

/// Network namespaces whose sockets are served; a node has 110 pods by default (`--max-pods` of the kubelet).
pub const NAMESPACES: u32 = 4_096;

/// Default number of clients of services with session affinity that are remembered per family.
pub const AFFINITIES: u32 = 65_536;

/// Default number of service ports that are counted by themselves, of both families together. Each takes 48 bytes on each
/// CPU, and has five series of metrics.
pub const METERS: u16 = 1_000;

/// Largest Maglev table of one service, in slots.
pub const MAX_TABLE_SIZE: u32 = 131_072;

/// How many source ports are tried for a flow that needs another one than its own. With half of the ports taken, one
/// flow in four billion finds none.
pub const SNAT_ATTEMPTS: u32 = 32;

/// How many senders each CPU tells in a second what has become of their packets: Linux limits its own ICMP errors to 1,000 a second
/// (`icmp_msgs_per_sec`).
pub const ANSWERS_PER_SECOND: u64 = 1_000;

/// Source ranges of all load balancers of a family together, counted for each service port. They take memory as they come.
pub const RANGES: u32 = 65_536;

/// Networks of cluster IPs of each family that the kernel programs can be told of. Kubernetes begins with one and can be
/// given more (KEP-1880).
pub const SERVICE_CIDRS: usize = 4;

/// Devices of the node whose address is known to the kernel programs.
pub const SOURCES: u32 = 1_024;

/// IPv6 extension headers before the transport header: RFC 8200 knows four that may be walked over, each once (destination
/// options twice, which nobody sends).
pub const EXTENSION_HEADERS: u32 = 4;

/// An SCTP association with nothing but INITs seen, or with a SHUTDOWN or ABORT seen, is forgotten after this time without a
/// packet (ns): nf_conntrack's for a closed one (`nf_conntrack_sctp_timeout_closed`).
pub const SCTP_CLOSED_TIMEOUT_NS: u64 = 10 * 1_000_000_000;

/// An established SCTP association is forgotten after this time without a packet (ns): nf_conntrack's
/// (`nf_conntrack_sctp_timeout_established`), seven times the pause between heartbeats.
pub const SCTP_ESTABLISHED_TIMEOUT_NS: u64 = 210 * 1_000_000_000;

/// How long (ns) the fragments of a datagram may follow the first: as long as Linux waits for all of them
/// (`net.ipv4.ipfrag_time`).
pub const FRAGMENT_TIMEOUT_NS: u64 = 30 * 1_000_000_000;

/// Default number of fragmented datagrams per family that are remembered at once. The oldest goes when one more comes.
pub const FRAGMENTS: u32 = 16_384;

/// Uplinks that are known to the XDP programs.
pub const UPLINKS: u32 = 1_024;
