//! Attaches the programs to devices and to the cgroup, by links that outlive the agent.
//!
//! On kernels without tcx (before 6.6) devices get clsact filters instead. Attaching what is attached already swaps
//! the program in place: no packet passes in between without one.

mod clsact;
mod error;
mod link;
mod xdp;

use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{CgroupSockAddr, ProgramError, ProgramFd, SchedClassifier},
};
use lb_common::datapath::{Hook, Role};
use tracing::debug;

use self::{clsact::Marks, link::Outcome};
pub use self::{
    clsact::{list_filtered_devices, remove_empty_qdisc, remove_filters},
    error::AttachError,
    link::{DeviceLink, PinnedLink, list_cgroup_hooks, list_devices},
};
use crate::{
    load::{self, CGROUP_PROGRAMS},
    pins::PinFolder,
    sys::{AttachType, Target},
};

/// Both directions of a device, the order in which they are attached: translating what comes in without restoring the
/// replies would be worse than doing neither.
const DIRECTIONS: [AttachType; 2] = [AttachType::TcxEgress, AttachType::TcxIngress];

/// Attaches programs of a loaded object.
#[derive(Debug)]
pub struct Attacher {
    links: PathBuf,
    marks: Marks,
    tcx: bool,
    xdp_pieces: bool,
}

impl Attacher {
    /// Links are pinned in `pins`. Without `tcx`, devices get clsact filters. `xdp_pieces` says whether the kernel has
    /// frames in pieces for XDP.
    pub fn new(pins: &PinFolder, tcx: bool, xdp_pieces: bool) -> Self {
        Self {
            links: pins.links(),
            marks: Marks::new(pins),
            tcx,
            xdp_pieces,
        }
    }

    /// Makes sure that the links that an earlier agent left belong to the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// [`AttachError::OtherNamespace`] if some hang on devices, and none of them on one of this namespace.
    pub fn check_namespace(&self) -> Result<(), AttachError> {
        let mut elsewhere = false;
        for link in list_devices(&self.links) {
            let Some(info) = link.info.filter(|info| info.ifindex != 0) else {
                continue;
            };
            if link::hangs_on(&info, Target::Device(info.ifindex), link.attach_type) {
                return Ok(());
            }
            elsewhere = true;
        }
        if elsewhere {
            return Err(AttachError::OtherNamespace {
                path: self.links.clone(),
            });
        }
        Ok(())
    }

    /// Attaches the programs of `role` to a device, both ways or not at all.
    ///
    /// # Errors
    ///
    /// [`AttachError::DeviceGone`] if it vanished meanwhile. What was attached before is still attached then.
    pub fn attach_device(
        &self,
        bpf: &mut Ebpf,
        ifindex: u32,
        device: &str,
        role: Role,
    ) -> Result<(), AttachError> {
        let mut added = Vec::new();
        for direction in DIRECTIONS {
            match self.attach_direction(bpf, ifindex, device, role, direction) {
                Ok(Outcome::Updated) => {}
                Ok(Outcome::Created | Outcome::Replaced) => added.push(direction),
                Err(failure) => {
                    for direction in added {
                        if let Err(error) = self.detach_direction(device, direction) {
                            debug!(device, "undo: {error}");
                        }
                    }
                    return Err(failure);
                }
            }
        }
        // What an earlier agent attached in the other way.
        if self.tcx {
            self.detach_filters(device)
        } else {
            self.detach_links(device)
        }
    }

    fn attach_direction(
        &self,
        bpf: &mut Ebpf,
        ifindex: u32,
        device: &str,
        role: Role,
        direction: AttachType,
    ) -> Result<Outcome, AttachError> {
        let program = load::tc_program(match direction {
            AttachType::TcxEgress => Hook::Egress,
            _ => Hook::Ingress(role),
        });
        let classifier: &mut SchedClassifier = load::program(bpf, program)?;
        let outcome = if self.tcx {
            let fd = clone_fd(classifier.fd(), program)?;
            let path = link::device_pin(&self.links, device, direction);
            link::attach_pinned(&fd, program, Target::Device(ifindex), direction, &path, device)?
        } else {
            self.marks.attach(classifier, program, device, direction)?
        };
        debug!(device, program, ?outcome, "attached");
        Ok(outcome)
    }

    /// Forgets a device: detaches its programs and removes the pins of its links.
    ///
    /// # Errors
    ///
    /// If a pin cannot be removed.
    pub fn detach_device(&self, device: &str) -> Result<(), AttachError> {
        // Before the programs that do what it leaves undone.
        self.detach_xdp(device)?;
        self.detach_links(device)?;
        self.detach_filters(device)
    }

    fn detach_links(&self, device: &str) -> Result<(), AttachError> {
        // Ingress first: see `DIRECTIONS`.
        for direction in DIRECTIONS.into_iter().rev() {
            link::detach(&link::device_pin(&self.links, device, direction))?;
        }
        Ok(())
    }

    fn detach_filters(&self, device: &str) -> Result<(), AttachError> {
        if self.marks.has(device) {
            remove_filters(device);
            self.marks.forget(device)?;
        }
        Ok(())
    }

    fn detach_direction(&self, device: &str, direction: AttachType) -> Result<(), AttachError> {
        if self.tcx {
            return link::detach(&link::device_pin(&self.links, device, direction));
        }
        clsact::detach(device, direction);
        Ok(())
    }

    /// Takes note of the new name of a device. Its programs stay attached meanwhile. Says whether they are: if two
    /// devices swapped their names, one of them is to be attached to anew.
    ///
    /// # Errors
    ///
    /// If a pin cannot be renamed.
    pub fn rename_device(&self, ifindex: u32, old: &str, new: &str) -> Result<bool, AttachError> {
        self.rename_xdp(ifindex, old, new)?;
        if !self.tcx {
            // A clsact filter belongs to the device, whatever its name.
            self.marks.rename(old, new)?;
            return Ok(true);
        }
        let mut attached = true;
        for direction in DIRECTIONS {
            attached &= link::rename(&self.links, ifindex, [old, new], direction)?;
        }
        Ok(attached)
    }

    /// Whether the links of a device are where they belong: somebody else may have detached them, or another device
    /// has got its name and index. Of clsact filters the kernel tells too little; they are taken to be there.
    pub fn is_attached(&self, ifindex: u32, device: &str) -> bool {
        !self.tcx
            || DIRECTIONS
                .into_iter()
                .all(|direction| link::is_attached(&self.links, ifindex, device, direction))
    }

    /// Attaches the socket hooks to the cgroup at `path`, all of them or none.
    ///
    /// # Errors
    ///
    /// If the folder is no cgroup v2, or the kernel refuses.
    pub fn attach_cgroup(&self, bpf: &mut Ebpf, path: &Path) -> Result<(), AttachError> {
        let folder = fs::File::open(path).map_err(|source| AttachError::Cgroup {
            path: path.to_owned(),
            source,
        })?;
        let mut added = Vec::new();
        for (name, attach_type) in CGROUP_PROGRAMS {
            let pin = link::cgroup_pin(&self.links, name);
            let attached = cgroup_program(bpf, name).and_then(|fd| {
                let target = Target::Cgroup(folder.as_fd());
                link::attach_pinned(&fd, name, target, attach_type, &pin, &path.display().to_string())
            });
            match attached {
                Ok(outcome) => {
                    debug!(cgroup = %path.display(), program = name, ?outcome, "attached");
                    if outcome == Outcome::Created {
                        added.push(pin);
                    }
                }
                Err(failure) => {
                    for pin in added {
                        if let Err(error) = link::detach(&pin) {
                            debug!("undo: {error}");
                        }
                    }
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    /// Detaches the socket hooks that an earlier agent attached, if it did.
    ///
    /// # Errors
    ///
    /// If a pin cannot be removed.
    pub fn detach_cgroup(&self) -> Result<(), AttachError> {
        for (name, _) in CGROUP_PROGRAMS {
            link::detach(&link::cgroup_pin(&self.links, name))?;
        }
        Ok(())
    }

    /// Devices that earlier attachments were made for, from what is pinned; each once.
    pub fn known_devices(&self) -> Vec<String> {
        let links = list_devices(&self.links).into_iter().map(|link| link.device);
        let mut devices: Vec<String> = links.chain(self.marks.devices()).collect();
        devices.extend(link::list_xdp_devices(&self.links));
        devices.sort();
        devices.dedup();
        devices
    }
}

fn cgroup_program(bpf: &mut Ebpf, name: &'static str) -> Result<ProgramFd, AttachError> {
    let program: &mut CgroupSockAddr = load::program(bpf, name)?;
    clone_fd(program.fd(), name)
}

fn clone_fd(fd: Result<&ProgramFd, ProgramError>, program: &'static str) -> Result<ProgramFd, AttachError> {
    fd.and_then(|fd| fd.try_clone().map_err(ProgramError::IOError))
        .map_err(|source| AttachError::Program { program, source })
}
