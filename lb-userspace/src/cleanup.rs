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

/// Detaches and unpins everything below `root` and removes the folder; clsact filters are removed from `devices`
/// (index and name). That nothing is there is no error. Must be called inside a tokio runtime.
///
/// # Errors
///
/// [`PinError::Locked`] while an agent runs; otherwise what could not be removed.
pub async fn run(root: &Path, devices: &[(u32, String)]) -> Result<Removed, CleanupError> {
    let pins = PinFolder::open_existing(root)?;
    // Filters first: they lead to maps that are pinned.
    let filtered_devices = remove_filters(pins.as_ref(), devices).await;
    let mut removed = match pins {
        Some(pins) => remove_pins(pins)?,
        None => Removed::default(),
    };
    removed.filtered_devices = filtered_devices;
    info!(?removed, "cleaned up");
    Ok(removed)
}

/// Takes back what a start that failed has pinned into a folder that was empty.
pub fn undo(pins: PinFolder) {
    if let Err(error) = remove_pins(pins) {
        warn!("what was pinned stays; `fairlead cleanup` removes it: {error}");
    }
}

async fn remove_filters(pins: Option<&PinFolder>, devices: &[(u32, String)]) -> usize {
    let ours = pins.map_or_else(Vec::new, |pins| attach::list_filtered_devices(&pins.qdiscs()));
    let mut count = 0;
    for (index, device) in devices {
        count += usize::from(attach::remove_filters(device));
        if ours.contains(device)
            && let Err(error) = attach::remove_empty_qdisc(*index).await
        {
            warn!(device, %error, "the clsact qdisc stays");
        }
    }
    count
}

fn remove_pins(pins: PinFolder) -> Result<Removed, CleanupError> {
    let removed = Removed {
        links: empty(&pins.links(), true)?,
        programs: empty(&pins.programs(), false)?,
        maps: empty(&pins.maps(), false)?,
        filtered_devices: 0,
    };
    for folder in [pins.filters(), pins.qdiscs()] {
        for mark in entries(&folder)? {
            remove_folder(&mark)?;
        }
    }
    for folder in pins.folders() {
        remove_folder(&folder)?;
    }
    if let Some(version) = pins.maps().parent() {
        remove_folder(version)?;
    }
    let root = pins.root().to_owned();
    // What an agent with another ABI left is none of ours, and keeps the folder.
    if let Err(error) = pins.remove() {
        warn!(path = %root.display(), "the pin folder stays: {error}");
    }
    Ok(removed)
}

/// What is in a folder; nothing if there is no such folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, CleanupError> {
    let failed = |source| CleanupError::Remove {
        path: folder.to_owned(),
        source,
    };
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

/// Removes all pins in a folder and says how many there were.
fn empty(folder: &Path, links: bool) -> Result<usize, CleanupError> {
    let pins = entries(folder)?;
    for path in &pins {
        if links && let Ok(link) = sys::open_pinned(path) {
            // At once, even if somebody else holds the link. tcx and cgroup links can both do it.
            if let Err(error) = sys::link_detach(link.as_fd()) {
                warn!(path = %path.display(), %error, "the link could not be detached; unpinning it");
            }
        }
        fs::remove_file(path).map_err(|source| CleanupError::Remove {
            path: path.clone(),
            source,
        })?;
        info!(path = %path.display(), "removed");
    }
    Ok(pins.len())
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
