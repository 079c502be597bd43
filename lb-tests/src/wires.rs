//! XDP on the wires of a lab.
//!
//! A veth sends what an XDP program gives it only if its other end runs an XDP program too. For the nodes' uplinks that is
//! a port of the lab's switch. A program that lets all frames pass is at hand: Fairlead's own, over maps of its own that
//! name no uplink.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, XdpMode},
};
use lb_common::abi::{self, map};
use lb_testkit::{Host, Lab};
use lb_userspace::{load, object};

use crate::bpffs::PrivateBpffs;

/// XDP programs on the switch's ports, which let all frames pass, also in pieces; gone with this value.
pub struct Passing {
    _bpf: Ebpf,
}

impl Passing {
    /// Attaches to the ports of both nodes and the client, in native mode.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn attach(lab: &Lab) -> Result<Self> {
        Self::attach_to(lab.switch(), &["node1", "node2", "client"], XdpMode::Driver)
    }

    /// Attaches to these devices of a host.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn attach_to(host: &Host, devices: &[&str], mode: XdpMode) -> Result<Self> {
        let name = load::xdp_program(abi::XdpMode::Native, true);
        let mut bpf = load_small()?;
        let program: &mut Xdp = bpf.program_mut(name).context(name)?.try_into()?;
        program.load()?;
        host.run(|| -> Result<()> {
            for device in devices {
                program
                    .attach(device, mode)
                    .with_context(|| format!("attach to {device}"))?;
            }
            Ok(())
        })??;
        Ok(Self { _bpf: bpf })
    }
}

/// The object over small maps that nothing else sees.
fn load_small() -> Result<Ebpf> {
    const ENTRIES: u32 = 64;
    let pins = PrivateBpffs::mount()?;
    let mut loader = EbpfLoader::new();
    loader
        .default_map_pin_directory(pins.path())
        .override_global("AYA_LOG_LEVEL", &0u8, true);
    for name in map::PINNED {
        if name != map::COUNTERS {
            loader.map_max_entries(name, ENTRIES);
        }
    }
    loader.load(object::bytes()?).context("load the BPF object")
}
