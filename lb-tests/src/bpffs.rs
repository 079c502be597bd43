//! A bpffs for the time that an object is loaded.

use std::path::Path;

use anyhow::{Context as _, Result};

/// A bpffs that exists while the object is loaded: maps that are declared as pinned must be pinned somewhere.
#[derive(Debug)]
pub struct PrivateBpffs {
    folder: tempfile::TempDir,
}

impl PrivateBpffs {
    /// Mounts it.
    ///
    /// # Errors
    ///
    /// If there are no privileges for it.
    pub fn mount() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        rustix::mount::mount(
            "bpf",
            folder.path(),
            "bpf",
            rustix::mount::MountFlags::empty(),
            None::<&std::ffi::CStr>,
        )
        .context("mount a bpffs for the test (needs root)")?;
        Ok(Self { folder })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for PrivateBpffs {
    fn drop(&mut self) {
        // The folder is removed next, and says so if this failed.
        let _ = rustix::mount::unmount(self.folder.path(), rustix::mount::UnmountFlags::DETACH);
    }
}
