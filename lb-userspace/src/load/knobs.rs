//! What the kernel programs are told when they are loaded: the verifier removes what is off.

use lb_common::{abi::XdpMode, datapath::Ports, flow::Timeouts};

use crate::cli::args::SocketLb;

/// What the programs are told when they are loaded.
#[derive(Clone, Copy, Debug)]
pub struct Knobs {
    /// Level of their log, as aya-log numbers it; 0 is off.
    pub log_level: u8,
    /// Source ports for flows that cannot keep their own.
    pub snat_ports: Ports,
    /// How long flows are remembered.
    pub timeouts: Timeouts,
    /// Whose sockets are served; the cgroup programs are not loaded for nobody.
    pub socket_lb: SocketLb,
    /// Whether service ports are counted.
    pub service_stats: bool,
    /// The modes that XDP programs are loaded for.
    pub xdp: &'static [XdpMode],
}
