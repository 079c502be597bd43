//! Why a program could not be attached.

use std::{io, path::PathBuf};

use aya::programs::ProgramError;
use thiserror::Error;

use crate::{load::LoadError, sys::Target};

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
    /// A link or a folder of the pin folder could not be made, opened or removed.
    #[error("{action} {}: {source}", path.display())]
    Pin {
        /// What was tried.
        action: &'static str,
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The pin folder serves the devices of another node.
    #[error(
        "the links in {} hang on devices of another network namespace; give this agent a folder of its own with \
         --bpffs, or end that dataplane first with `fairlead cleanup`",
        path.display()
    )]
    OtherNamespace {
        /// The folder of links.
        path: PathBuf,
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

impl AttachError {
    /// What the kernel says when something is attached to `target`, which people know as `shown`.
    pub(super) fn from_kernel(
        program: &'static str,
        target: Target<'_>,
        shown: &str,
        source: io::Error,
    ) -> Self {
        match target {
            Target::Device(_) | Target::Frames { .. } => Self::of_device(program, shown, source),
            Target::Cgroup(_) => Self::Refused {
                program,
                target: format!("cgroup {shown}"),
                source,
            },
        }
    }

    /// What the kernel says when something is attached to a device.
    pub(super) fn of_device(program: &'static str, device: &str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO | libc::ENOLINK) => Self::DeviceGone {
                device: device.to_owned(),
            },
            _ => Self::Refused {
                program,
                target: format!("device {device}"),
                source,
            },
        }
    }
}
