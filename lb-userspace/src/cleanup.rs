//! Removes every trace of an agent from the kernel.

use std::{
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use thiserror::Error;
use tracing::{info, warn};

use crate::{
    attach,
    pins::{PinError, PinFolder},
    sys,
};

/// Why the kernel could not be cleaned up.
#[derive(Debug, Error)]
pub enum CleanupError {
    /// The pin folder cannot be used.
    #[error(transparent)]
    Pins(#[from] PinError),
    /// Something could not be removed.
    #[error("remove {}: {source}", path.display())]
    Remove {
        /// What.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Links, which are detached by it.
    pub links: usize,
    /// Programs.
    pub programs: usize,
    /// Maps.
    pub maps: usize,
    /// clsact filters were removed from that many devices.
    pub filtered_devices: usize,
}

/// Detaches and unpins everything below `root` and removes the folder; clsact filters are removed from `devices`. That
/// nothing is there is no error.
///
/// # Errors
///
/// [`PinError::Locked`] while an agent runs; otherwise what could not be removed.
pub fn run(root: &Path, devices: &[String]) -> Result<Removed, CleanupError> {
    let mut removed = Removed::default();
    if let Some(pins) = PinFolder::open_existing(root)? {
        removed.links = empty(&pins.links(), true)?;
        removed.programs = empty(&pins.programs(), false)?;
        removed.maps = empty(&pins.maps(), false)?;
        // Versions that this agent does not know are left alone, and so is the folder then.
        for folder in [pins.links(), pins.programs(), pins.maps()] {
            remove_folder(&folder)?;
        }
        if let Some(version) = pins.maps().parent() {
            remove_folder(version)?;
        }
        if let Err(error) = fs::remove_dir(pins.root()) {
            warn!(path = %pins.root().display(), %error, "the pin folder stays");
        }
    }
    removed.filtered_devices = devices
        .iter()
        .filter(|device| attach::remove_filters(device))
        .count();
    info!(?removed, "cleaned up");
    Ok(removed)
}

/// Removes all pins in a folder and says how many there were.
fn empty(folder: &Path, links: bool) -> Result<usize, CleanupError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(source) => {
            return Err(CleanupError::Remove {
                path: folder.to_owned(),
                source,
            });
        }
    };
    let mut count = 0;
    for entry in entries {
        let path = entry
            .map_err(|source| CleanupError::Remove {
                path: folder.to_owned(),
                source,
            })?
            .path();
        if links && let Ok(link) = sys::open_pinned(&path) {
            // At once, even if somebody else holds the link. tcx and cgroup links can both do it.
            if let Err(error) = sys::link_detach(link.as_fd()) {
                warn!(path = %path.display(), %error, "the link could not be detached; unpinning it");
            }
        }
        fs::remove_file(&path).map_err(|source| CleanupError::Remove {
            path: path.clone(),
            source,
        })?;
        info!(path = %path.display(), "removed");
        count += 1;
    }
    Ok(count)
}

fn remove_folder(folder: &Path) -> Result<(), CleanupError> {
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CleanupError::Remove {
            path: folder.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}
