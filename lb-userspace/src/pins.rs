//! The pin folder: what outlives the agent.
//!
//! ```text
//!   <--bpffs>/v1/maps/NAME                 maps, by the names of `lb_common::abi::map`
//!             v1/progs/NAME                programs
//!             v1/links/tc-<device>-ingress tcx links
//!             v1/links/cgroup-<hook>       cgroup links
//! ```
//!
//! `v1` is the version of the ABI: an agent with another layout of maps does not touch these.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use lb_common::abi;
use rustix::{
    fd::OwnedFd,
    fs::{FlockOperation, Mode, OFlags, StatFs, flock, open, statfs},
    mount::{MountFlags, mount},
};
use thiserror::Error;
use tracing::info;

/// Where a bpffs is mounted by convention.
const USUAL_BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Why the pin folder cannot be used.
#[derive(Debug, Error)]
pub enum PinError {
    /// A file operation failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A bpffs is needed and could not be mounted.
    #[error(
        "mount a bpffs at {}: {source}; mount one (`mount -t bpf bpf {}`) or name a folder on one with --bpffs",
        path.display(), path.display()
    )]
    Mount {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Mounting a bpffs there would hide files.
    #[error(
        "{} is not on a bpffs and holds files that a mount would hide; name an empty folder, or one on a bpffs, with \
         --bpffs", path.display()
    )]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// Another agent uses the folder.
    #[error(
        "another agent uses {}{}; stop it first, or give this one a folder of its own with --bpffs",
        path.display(), holder.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The process that holds it, if that is known.
        holder: Option<u32>,
    },
}

impl PinError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// The pin folder of one agent, locked as long as this lives.
#[derive(Debug)]
pub struct PinFolder {
    root: PathBuf,
    _lock: OwnedFd,
}

impl PinFolder {
    /// Opens `root`, making it and mounting a bpffs where that is missing, and locks it.
    ///
    /// # Errors
    ///
    /// [`PinError`] names the folder and the remedy.
    pub fn open(root: &Path) -> Result<Self, PinError> {
        ensure_bpffs(root)?;
        let this = Self {
            root: root.to_owned(),
            _lock: lock(root)?,
        };
        for folder in [this.maps(), this.programs(), this.links()] {
            fs::create_dir_all(&folder).map_err(PinError::io("create", &folder))?;
        }
        Ok(this)
    }

    /// Opens and locks `root` if it exists; none if there is no such folder.
    ///
    /// # Errors
    ///
    /// [`PinError::Locked`] if an agent uses it.
    pub fn open_existing(root: &Path) -> Result<Option<Self>, PinError> {
        match fs::metadata(root) {
            Ok(_) => Ok(Some(Self {
                root: root.to_owned(),
                _lock: lock(root)?,
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PinError::io("look at", root)(error)),
        }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn version(&self) -> PathBuf {
        self.root.join(format!("v{}", abi::VERSION))
    }

    /// Where maps are pinned.
    pub fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    /// Where programs are pinned.
    pub fn programs(&self) -> PathBuf {
        self.version().join("progs")
    }

    /// Where links are pinned.
    pub fn links(&self) -> PathBuf {
        self.version().join("links")
    }
}

/// The folder of maps below a pin folder, without locking anything: for looking only.
pub fn maps_below(root: &Path) -> PathBuf {
    root.join(format!("v{}", abi::VERSION)).join("maps")
}

/// The folder of links below a pin folder, without locking anything: for looking only.
pub fn links_below(root: &Path) -> PathBuf {
    root.join(format!("v{}", abi::VERSION)).join("links")
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|StatFs { f_type, .. }| f_type.cast_unsigned() == BPF_FS_MAGIC)
}

/// Makes `root` a folder on a bpffs.
fn ensure_bpffs(root: &Path) -> Result<(), PinError> {
    let usual = Path::new(USUAL_BPFFS);
    // The folder that must be a mount point if nothing above is one.
    let mount_point = if root.starts_with(usual) { usual } else { root };
    let existing = root.ancestors().find(|path| path.exists());
    if !existing.is_some_and(is_bpffs) {
        fs::create_dir_all(mount_point).map_err(PinError::io("create", mount_point))?;
        let mut files = fs::read_dir(mount_point).map_err(PinError::io("look into", mount_point))?;
        if files.next().is_some() {
            return Err(PinError::NotEmpty {
                path: mount_point.to_owned(),
            });
        }
        mount(
            "bpf",
            mount_point,
            "bpf",
            MountFlags::empty(),
            None::<&std::ffi::CStr>,
        )
        .map_err(|error| PinError::Mount {
            path: mount_point.to_owned(),
            source: error.into(),
        })?;
        info!(path = %mount_point.display(), "mounted a bpffs");
    }
    fs::create_dir_all(root).map_err(PinError::io("create", root))
}

/// Locks the folder for this process; the lock goes with it, however it ends.
fn lock(root: &Path) -> Result<OwnedFd, PinError> {
    let folder = open(
        root,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| PinError::io("open", root)(error.into()))?;
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(folder),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(PinError::Locked {
            path: root.to_owned(),
            holder: holder(root),
        }),
        Err(error) => Err(PinError::io("lock", root)(error.into())),
    }
}

/// The process that holds the lock, from the kernel's list of locks: `1: FLOCK ADVISORY WRITE 4242 00:2a:17 0 EOF`.
fn holder(root: &Path) -> Option<u32> {
    let stat = rustix::fs::stat(root).ok()?;
    let inode = stat.st_ino;
    let device = format!(
        "{:02x}:{:02x}",
        rustix::fs::major(stat.st_dev),
        rustix::fs::minor(stat.st_dev)
    );
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, file, ..] = words[..] else {
            return None;
        };
        (file == format!("{device}:{inode}")).then(|| pid.parse().ok())?
    })
}
