//! What the kernel programs are told when they are loaded: the verifier removes what is off.

use aya::EbpfLoader;
use ipnet::IpNet;
use lb_common::{
    abi::{EitherPrefix, Prefix, XdpMode},
    datapath::Ports,
    flow::Timeouts,
    limits,
};

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
    /// Networks that are for services alone.
    pub service_cidrs: ServiceCidrs,
    /// Whose sockets are served; the cgroup programs are not loaded for nobody.
    pub socket_lb: SocketLb,
    /// The modes that XDP programs are loaded for.
    pub xdp: &'static [XdpMode],
}

/// Networks that are for services alone, as the programs are told of them.
#[derive(Clone, Copy, Debug)]
pub struct ServiceCidrs {
    counts: [u8; 2],
    v4: [u32; 2 * limits::SERVICE_CIDRS],
    v6: [u32; 8 * limits::SERVICE_CIDRS],
}

impl ServiceCidrs {
    /// No networks.
    pub const NONE: Self = Self {
        counts: [0; 2],
        v4: [0; 2 * limits::SERVICE_CIDRS],
        v6: [0; 8 * limits::SERVICE_CIDRS],
    };

    /// The first [`limits::SERVICE_CIDRS`] networks of each family.
    pub fn new(nets: &[IpNet]) -> Self {
        let mut cidrs = Self::NONE;
        let [count4, count6] = &mut cidrs.counts;
        let (v4, _) = cidrs.v4.as_chunks_mut::<2>();
        let (v6, _) = cidrs.v6.as_chunks_mut::<8>();
        for net in nets {
            match EitherPrefix::new(net.addr(), net.prefix_len()) {
                EitherPrefix::V4(Prefix { net, mask }) => {
                    if let Some(words) = v4.get_mut(usize::from(*count4)) {
                        *words = [net, mask];
                        *count4 += 1;
                    }
                }
                EitherPrefix::V6(Prefix {
                    net: [a, b, c, d],
                    mask: [e, f, g, h],
                }) => {
                    if let Some(words) = v6.get_mut(usize::from(*count6)) {
                        *words = [a, b, c, d, e, f, g, h];
                        *count6 += 1;
                    }
                }
            }
        }
        cidrs
    }

    /// Tells them to the programs that `loader` is about to load.
    pub fn tell<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader
            .override_global("SERVICE_CIDR_COUNTS", &self.counts, true)
            .override_global("SERVICE_CIDRS4", &self.v4, true)
            .override_global("SERVICE_CIDRS6", &self.v6, true);
    }
}
