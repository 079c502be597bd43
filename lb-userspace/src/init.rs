//! `fairlead run --init-only`: what needs more privileges than an agent that runs, done by itself and first.
//!
//! An agent does the same when it starts. Apart, it can be done by a container that may mount, so that the agent's own need
//! not: `CAP_SYS_ADMIN` is for the mount alone.

use std::{fmt, path::PathBuf};

use crate::{
    cgroup,
    cli::config::Config,
    pins::{PinError, PinFolder},
    probe,
    run::RunError,
};

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    bpffs: PathBuf,
    folder: Folder,
    cgroup: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Folder {
    /// It is there now, and empty.
    Ready,
    /// It is there, with what an agent left.
    Kept,
    /// An agent that runs has done all of it.
    InUse,
}

/// Asks kernel and cgroup for what an agent needs, mounts a bpffs if there is none, and makes the pin folder. What is there
/// already stays as it is.
///
/// # Errors
///
/// As the start of an agent.
pub fn run(config: &Config) -> Result<Done, RunError> {
    probe::check()?;
    if let Some(cgroup) = &config.cgroup {
        cgroup::check(cgroup)?;
    }
    let folder = match PinFolder::open(&config.bpffs) {
        Ok(pins) if pins.holds_maps() => Folder::Kept,
        Ok(_) => Folder::Ready,
        Err(PinError::Locked { .. }) => Folder::InUse,
        Err(error) => return Err(error.into()),
    };
    Ok(Done {
        bpffs: config.bpffs.clone(),
        folder,
        cgroup: config.cgroup.clone(),
    })
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folder = match self.folder {
            Folder::Ready => "is ready",
            Folder::Kept => "holds what an agent left, which stays",
            Folder::InUse => "is in use by an agent that runs",
        };
        write!(
            f,
            "this kernel has what is needed; {} {folder}",
            self.bpffs.display()
        )?;
        match &self.cgroup {
            Some(cgroup) => write!(f, "; sockets are served through the cgroup {}", cgroup.display()),
            None => write!(f, "; no sockets are served"),
        }
    }
}
