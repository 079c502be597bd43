//! The pin folder: what outlives the agent.
//!
//! ```text
//!   <--bpffs>/v1/maps/NAME                 maps, by the names of `lb_common::abi::map`
//!             v1/progs/NAME                programs
//!             v1/links/tc-<device>-ingress tcx links
//!             v1/links/xdp-<device>-native XDP links, or -generic
//!             v1/links/cgroup-<hook>       cgroup links
//!             v1/filters/<device>/         notes that clsact filters of ours are on the device
//!             v1/qdiscs/<device>/          notes that its clsact qdisc is ours
//!             mounted/                     notes that the bpffs was mounted by an agent
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
    fs::{FlockOperation, Mode, OFlags, Stat, StatFs, flock, fstat, open, stat, statfs},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
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
    /// There are only ordinary files.
    #[error("{} is not on a bpffs, so nothing of an agent can be there; name its pin folder with --bpffs", path.display())]
    NotBpffs {
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
        let this = loop {
            let mounted = ensure_bpffs(root)?;
            if let Some(lock) = lock(root)? {
                let this = Self::locked(root, lock);
                if mounted {
                    create(&this.mounted_mark())?;
                }
                break this;
            }
            // `fairlead cleanup` removed the folder between the two steps.
        };
        for folder in this.folders() {
            create(&folder)?;
        }
        Ok(this)
    }

    /// Opens and locks `root` if it exists; none if there is no such folder.
    ///
    /// # Errors
    ///
    /// [`PinError::Locked`] if an agent uses it; [`PinError::NotBpffs`] if it cannot be a pin folder.
    pub fn open_existing(root: &Path) -> Result<Option<Self>, PinError> {
        match is_bpffs(root) {
            Ok(true) => Ok(lock(root)?.map(|lock| Self::locked(root, lock))),
            Ok(false) => Err(PinError::NotBpffs {
                path: root.to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PinError::io("look at", root)(error)),
        }
    }

    fn locked(root: &Path, lock: OwnedFd) -> Self {
        Self {
            root: root.to_owned(),
            _lock: lock,
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

    /// Where devices with clsact filters are noted.
    pub fn filters(&self) -> PathBuf {
        self.version().join("filters")
    }

    /// Where devices whose clsact qdisc is ours are noted.
    pub fn qdiscs(&self) -> PathBuf {
        self.version().join("qdiscs")
    }

    /// All folders for pins and notes.
    pub(crate) fn folders(&self) -> [PathBuf; 5] {
        [
            self.maps(),
            self.programs(),
            self.links(),
            self.filters(),
            self.qdiscs(),
        ]
    }

    /// The note that an agent mounted the bpffs.
    fn mounted_mark(&self) -> PathBuf {
        self.root.join("mounted")
    }

    /// Whether an agent has left maps here.
    pub fn holds_maps(&self) -> bool {
        fs::read_dir(self.maps()).is_ok_and(|mut maps| maps.next().is_some())
    }

    /// Removes the folder, and unmounts the bpffs if an agent mounted it and nobody else uses it. The folder must be
    /// empty but for what this module notes.
    ///
    /// # Errors
    ///
    /// What could not be removed.
    pub(crate) fn remove(self) -> Result<(), PinError> {
        let mark = self.mounted_mark();
        let ours = mark.exists();
        let mount_point = mount_point(&self.root);
        if ours {
            fs::remove_dir(&mark).map_err(PinError::io("remove", &mark))?;
        }
        if self.root != mount_point || !ours {
            match fs::remove_dir(&self.root) {
                // A bpffs that somebody mounted right there.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return Ok(()),
                other => other.map_err(PinError::io("remove", &self.root))?,
            }
        }
        if ours && is_unused(mount_point) {
            let (root, at) = (self.root.clone(), mount_point.to_owned());
            // The lock is an open file of the mount.
            drop(self);
            unmount(&at, UnmountFlags::empty())
                .map_err(|error| PinError::io("unmount the bpffs at", &at)(error.into()))?;
            info!(path = %at.display(), "unmounted the bpffs");
            if root == at {
                fs::remove_dir(&root).map_err(PinError::io("remove", &root))?;
            }
        }
        Ok(())
    }
}

/// Whether nothing is pinned on a bpffs. The kernel itself puts two iterators there when it is mounted
/// (`kernel/bpf/preload`).
fn is_unused(bpffs: &Path) -> bool {
    let is_of_kernel = |name: &std::ffi::OsStr| name == "maps.debug" || name == "progs.debug";
    fs::read_dir(bpffs).is_ok_and(|entries| entries.flatten().all(|entry| is_of_kernel(&entry.file_name())))
}

fn create(folder: &Path) -> Result<(), PinError> {
    fs::create_dir_all(folder).map_err(PinError::io("create", folder))
}

/// A folder below a pin folder, without locking anything: for looking only.
pub fn below(root: &Path, folder: &str) -> PathBuf {
    root.join(format!("v{}", abi::VERSION)).join(folder)
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    let StatFs { f_type, .. } = statfs(path)?;
    Ok(f_type.cast_unsigned() == BPF_FS_MAGIC)
}

/// The folder that a bpffs is mounted on for `root` if nothing above it is on one.
fn mount_point(root: &Path) -> &Path {
    let usual = Path::new(USUAL_BPFFS);
    if root.starts_with(usual) { usual } else { root }
}

/// Makes `root` a folder on a bpffs. Says whether one had to be mounted.
fn ensure_bpffs(root: &Path) -> Result<bool, PinError> {
    let mut existing = root;
    let mounted = loop {
        match is_bpffs(existing) {
            Ok(true) => break false,
            Ok(false) => {
                mount_bpffs(mount_point(root))?;
                break true;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                existing = existing
                    .parent()
                    .ok_or_else(|| PinError::io("look at", root)(error))?;
            }
            Err(error) => return Err(PinError::io("look at", existing)(error)),
        }
    };
    create(root)?;
    Ok(mounted)
}

fn mount_bpffs(at: &Path) -> Result<(), PinError> {
    create(at)?;
    let mut files = fs::read_dir(at).map_err(PinError::io("look into", at))?;
    if files.next().is_some() {
        return Err(PinError::NotEmpty { path: at.to_owned() });
    }
    mount("bpf", at, "bpf", MountFlags::empty(), None::<&std::ffi::CStr>).map_err(|error| {
        PinError::Mount {
            path: at.to_owned(),
            source: error.into(),
        }
    })?;
    info!(path = %at.display(), "mounted a bpffs");
    Ok(())
}

/// Locks the folder for this process; the lock goes with it, however it ends. None if there is no such folder, or no
/// longer: a lock on a folder that was removed meanwhile would keep nobody out.
fn lock(root: &Path) -> Result<Option<OwnedFd>, PinError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = match open(root, flags, Mode::empty()) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(PinError::io("open", root)(error.into())),
    };
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            return Err(PinError::Locked {
                path: root.to_owned(),
                holder: holder(root),
            });
        }
        Err(error) => return Err(PinError::io("lock", root)(error.into())),
    }
    let identity = |stat: Stat| (stat.st_dev, stat.st_ino);
    let locked = fstat(&folder).map_err(|error| PinError::io("look at", root)(error.into()))?;
    let is_there = stat(root).is_ok_and(|there| identity(there) == identity(locked));
    Ok(is_there.then_some(folder))
}

/// The process that holds the lock, from the kernel's list of locks: `1: FLOCK ADVISORY WRITE 4242 00:2a:17 0 EOF`.
fn holder(root: &Path) -> Option<u32> {
    let stat = stat(root).ok()?;
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
