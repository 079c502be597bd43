//! Where cgroups are.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use crate::error::{Error, Result};

/// Begin of the names of labs' cgroups.
pub(crate) const PREFIX: &str = "fairlead-lab-";

/// The mount point of the cgroup v2 hierarchy.
pub(crate) fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").map_err(Error::io("read", "/proc/mounts"))?;
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1).zip(line.split(' ').nth(2)))
        .find_map(|(point, kind)| (kind == "cgroup2").then(|| PathBuf::from(point)))
        .ok_or(Error::NoCgroup)
}

/// The cgroup of a lab.
pub(crate) fn of_lab(id: &str) -> Result<PathBuf> {
    Ok(mount_point()?.join(format!("{PREFIX}{id}")))
}

/// The cgroup that this process is in.
pub(crate) fn own() -> Result<PathBuf> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").map_err(Error::io("read", "/proc/self/cgroup"))?;
    let path = cgroups
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .ok_or(Error::NoCgroup)?;
    Ok(mount_point()?.join(path))
}

/// Moves this process to a cgroup.
pub(crate) fn enter(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), process::id().to_string())
}

/// The processes of a cgroup and of those below it.
pub(crate) fn processes(cgroup: &Path) -> Vec<u32> {
    let mut pids: Vec<u32> = fs::read_to_string(cgroup.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|pid| pid.parse().ok())
        .collect();
    for child in children(cgroup) {
        pids.extend(processes(&child));
    }
    pids
}

/// The cgroups directly below one.
pub(crate) fn children(cgroup: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(cgroup) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
