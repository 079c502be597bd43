//! Attaches the programs to devices and to the cgroup, by links that outlive the agent.
//!
//! On kernels without tcx (before 6.6) devices get clsact filters instead. Attaching what is attached already swaps
//! the program in place: no packet passes in between without one.

mod clsact;
mod link;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{CgroupSockAddr, ProgramError, ProgramFd, SchedClassifier},
};
use lb_common::datapath::Role;
use thiserror::Error;
use tracing::debug;

use self::link::attach_pinned;
pub use self::link::{DeviceLink, list_devices};
use crate::{
    load::{self, LoadError},
    pins::PinFolder,
    sys::{AttachType, Target},
};

/// Why a program could not be attached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The device went away meanwhile. Harmless.
    #[error("device {device} is gone")]
    DeviceGone {
        /// Its name.
        device: String,
    },
    /// The kernel refused.
    #[error("attach {program} to {target}: {source}")]
    Refused {
        /// The program.
        program: &'static str,
        /// Device or cgroup.
        target: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The cgroup folder cannot be opened.
    #[error("open the cgroup {}: {source}; name the folder of a cgroup v2 with --cgroup", path.display())]
    Cgroup {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A link could not be pinned or opened.
    #[error("{action} {}: {source}", path.display())]
    Pin {
        /// What was tried.
        action: &'static str,
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program is missing or not loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A program handle could not be used.
    #[error("use the kernel program {program}: {source}")]
    Program {
        /// The program.
        program: &'static str,
        /// What went wrong.
        source: ProgramError,
    },
}

/// cgroup programs with their attach types.
const CGROUP_HOOKS: [(&str, AttachType); 8] = [
    ("connect4", AttachType::CgroupInet4Connect),
    ("connect6", AttachType::CgroupInet6Connect),
    ("sendmsg4", AttachType::CgroupUdp4Sendmsg),
    ("sendmsg6", AttachType::CgroupUdp6Sendmsg),
    ("recvmsg4", AttachType::CgroupUdp4Recvmsg),
    ("recvmsg6", AttachType::CgroupUdp6Recvmsg),
    ("getpeername4", AttachType::CgroupInet4Getpeername),
    ("getpeername6", AttachType::CgroupInet6Getpeername),
];

/// Attaches programs of a loaded object.
#[derive(Debug)]
pub struct Attacher {
    links: PathBuf,
    tcx: bool,
}

impl Attacher {
    /// Links are pinned in `pins`. Without `tcx`, devices get clsact filters.
    pub fn new(pins: &PinFolder, tcx: bool) -> Self {
        Self {
            links: pins.links(),
            tcx,
        }
    }

    /// Attaches the programs of `role` to a device, both ways.
    ///
    /// # Errors
    ///
    /// [`AttachError::DeviceGone`] if it vanished meanwhile.
    pub fn attach_device(
        &self,
        bpf: &mut Ebpf,
        ifindex: u32,
        device: &str,
        role: Role,
    ) -> Result<(), AttachError> {
        let ingress = match role {
            Role::Workload => "ingress_workload",
            Role::Uplink => "ingress_uplink",
        };
        for (program, attach_type) in [
            (ingress, AttachType::TcxIngress),
            ("egress", AttachType::TcxEgress),
        ] {
            if self.tcx {
                let fd = tc_program(bpf, program)?;
                let path = link::device_pin(&self.links, device, attach_type);
                let outcome =
                    attach_pinned(&fd, program, Target::Device(ifindex), attach_type, &path, device)?;
                debug!(device, program, ?outcome, "attached");
            } else {
                let classifier: &mut SchedClassifier = load::program(bpf, program)?;
                clsact::attach(classifier, program, device, attach_type)?;
                debug!(device, program, "attached as a clsact filter");
            }
        }
        Ok(())
    }

    /// Forgets a device: detaches and unpins its links.
    ///
    /// # Errors
    ///
    /// If a pin cannot be removed.
    pub fn detach_device(&self, device: &str) -> Result<(), AttachError> {
        if !self.tcx {
            clsact::detach(device);
            return Ok(());
        }
        for attach_type in [AttachType::TcxIngress, AttachType::TcxEgress] {
            link::detach(&link::device_pin(&self.links, device, attach_type))?;
        }
        Ok(())
    }

    /// Takes note of the new name of a device. Its programs stay attached meanwhile. Says whether they are: if two
    /// devices swapped their names, one of them is to be attached to anew.
    ///
    /// # Errors
    ///
    /// If a pin cannot be renamed.
    pub fn rename_device(&self, ifindex: u32, old: &str, new: &str) -> Result<bool, AttachError> {
        // A clsact filter belongs to the device, whatever its name.
        let mut attached = true;
        if self.tcx {
            for attach_type in [AttachType::TcxIngress, AttachType::TcxEgress] {
                attached &= link::rename(&self.links, ifindex, [old, new], attach_type)?;
            }
        }
        Ok(attached)
    }

    /// Attaches the socket hooks to the cgroup at `path`.
    ///
    /// # Errors
    ///
    /// If the folder is no cgroup v2, or the kernel refuses.
    pub fn attach_cgroup(&self, bpf: &mut Ebpf, path: &Path) -> Result<(), AttachError> {
        let folder = fs::File::open(path).map_err(|source| AttachError::Cgroup {
            path: path.to_owned(),
            source,
        })?;
        for (name, attach_type) in CGROUP_HOOKS {
            let program: &mut CgroupSockAddr = load::program(bpf, name)?;
            let fd = clone_fd(program.fd(), name)?;
            let pin = self.links.join(format!("cgroup-{name}"));
            let target = Target::Cgroup(std::os::fd::AsFd::as_fd(&folder));
            let outcome = attach_pinned(&fd, name, target, attach_type, &pin, &path.display().to_string())?;
            debug!(cgroup = %path.display(), program = name, ?outcome, "attached");
        }
        Ok(())
    }

    /// Devices that earlier attachments were made for, from the pins.
    pub fn known_devices(&self) -> Vec<String> {
        list_devices(&self.links)
            .into_iter()
            .map(|link| link.device)
            .collect()
    }
}

/// Removes clsact filters of ours from a device; whether any was there.
pub fn remove_filters(device: &str) -> bool {
    clsact::detach(device)
}

fn tc_program(bpf: &mut Ebpf, name: &'static str) -> Result<ProgramFd, AttachError> {
    let program: &mut SchedClassifier = load::program(bpf, name)?;
    clone_fd(program.fd(), name)
}

fn clone_fd(fd: Result<&ProgramFd, ProgramError>, program: &'static str) -> Result<ProgramFd, AttachError> {
    fd.and_then(|fd| fd.try_clone().map_err(ProgramError::IOError))
        .map_err(|source| AttachError::Program { program, source })
}
