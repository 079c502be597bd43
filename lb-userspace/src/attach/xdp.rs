//! XDP programs on uplinks, by pinned links.
//!
//! The pin's name tells the mode: `xdp-<device>-native`, `xdp-<device>-generic`. To change it, one link goes and the other
//! comes; tc does the work in between.

use std::path::{Path, PathBuf};

use aya::{
    Ebpf,
    programs::{ProgramFd, Xdp},
};
use lb_common::abi::{XdpMode, XdpWhy};
use tracing::{debug, warn};

use super::{
    AttachError, Attacher,
    link::{self, Outcome},
};
use crate::{
    load,
    sys::{AttachType, Target},
};

/// The modes that a link can have.
pub(super) const MODES: [XdpMode; 2] = [XdpMode::Native, XdpMode::Generic];

/// Where the link of a device is pinned.
pub(super) fn pin(links: &Path, device: &str, mode: XdpMode) -> PathBuf {
    links.join(format!("xdp-{}-{}", link::escape(device), mode.name()))
}

impl Attacher {
    /// Brings a device to an XDP mode, and returns the one that it has then and why. Nothing that goes wrong here stops
    /// packets: tc does what XDP does not.
    ///
    /// # Errors
    ///
    /// [`AttachError::DeviceGone`] if it vanished meanwhile, [`AttachError::Pin`] if a pin cannot be changed.
    pub fn attach_xdp(
        &self,
        bpf: &mut Ebpf,
        ifindex: u32,
        device: &str,
        (wanted, why): (XdpMode, XdpWhy),
    ) -> Result<(XdpMode, XdpWhy), AttachError> {
        for mode in MODES.into_iter().filter(|mode| *mode != wanted) {
            link::detach(&pin(&self.links, device, mode))?;
        }
        if wanted == XdpMode::Off {
            return Ok((wanted, why));
        }
        let program = load::xdp_program(wanted, self.xdp_pieces);
        let Ok(fd) = xdp_fd(bpf, program) else {
            // Why was told when it was loaded.
            return Ok((XdpMode::Off, XdpWhy::Refused));
        };
        match self.link_xdp(&fd, program, ifindex, device, wanted) {
            Ok(outcome) => {
                debug!(device, program, ?outcome, "attached");
                Ok((wanted, why))
            }
            Err(AttachError::Refused { source, .. }) => {
                let why = match source.raw_os_error() {
                    Some(libc::EBUSY | libc::EEXIST) => XdpWhy::Occupied,
                    Some(libc::EOPNOTSUPP) => XdpWhy::NoDriver,
                    _ => XdpWhy::Refused,
                };
                if why == XdpWhy::Refused {
                    warn!(device, program, "the kernel refused the XDP program: {source}");
                }
                Ok((XdpMode::Off, why))
            }
            Err(failure) => Err(failure),
        }
    }

    fn link_xdp(
        &self,
        fd: &ProgramFd,
        program: &'static str,
        ifindex: u32,
        device: &str,
        mode: XdpMode,
    ) -> Result<Outcome, AttachError> {
        let generic = mode == XdpMode::Generic;
        let target = Target::Frames { ifindex, generic };
        let path = pin(&self.links, device, mode);
        link::attach_pinned(fd, program, target, AttachType::Xdp, &path, device)
    }

    /// Whether the XDP link of a device is where it belongs.
    pub fn has_xdp(&self, ifindex: u32, device: &str, mode: XdpMode) -> bool {
        mode == XdpMode::Off || link::is_on(&pin(&self.links, device, mode), ifindex)
    }

    /// Detaches what of XDP is attached to a device.
    pub(super) fn detach_xdp(&self, device: &str) -> Result<(), AttachError> {
        MODES
            .into_iter()
            .try_for_each(|mode| link::detach(&pin(&self.links, device, mode)))
    }

    /// Takes note of the new name of a device.
    pub(super) fn rename_xdp(&self, ifindex: u32, old: &str, new: &str) -> Result<(), AttachError> {
        for mode in MODES {
            let target = Target::Frames {
                ifindex,
                generic: mode == XdpMode::Generic,
            };
            let pins = [pin(&self.links, old, mode), pin(&self.links, new, mode)];
            link::rename_pin(target, AttachType::Xdp, &pins)?;
        }
        Ok(())
    }
}

fn xdp_fd(bpf: &mut Ebpf, program: &'static str) -> Result<ProgramFd, AttachError> {
    let loaded: &mut Xdp = load::program(bpf, program)?;
    super::clone_fd(loaded.fd(), program)
}
