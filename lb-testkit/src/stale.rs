//! Takes labs apart: our own, and those of processes that were killed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};

use crate::{
    cgroup,
    error::{Error, Result},
};

/// Where the folders of labs are.
pub(crate) const RUN: &str = "/run/fairlead-lab";
/// Where `ip netns` keeps namespaces.
const NETNS: &str = "/run/netns";
/// Begin of the names of labs' namespaces.
const PREFIX: &str = "fl";
/// How often what does not go at once is tried again, and the pause before that.
const TRIES: usize = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// The identifier of this process's lab number `count`: process number, start time and `count`, in hexadecimal.
///
/// The names of everything that a lab consists of hold it, so that each piece tells from its first moment on whether its
/// owner lives: there is no time in which a sweep could take the lab of a living process for an abandoned one. The
/// start time is part of it because process numbers are used again.
pub(crate) fn identifier(count: u32) -> Result<String> {
    let pid = process::id();
    let started = start_time(pid)
        .ok_or_else(|| Error::unexpected(&format!("/proc/{pid}/stat"), "it tells no start time"))?;
    Ok(format!("{pid:x}-{started:x}-{count:x}"))
}

/// Begin of the names of a lab's namespaces.
pub(crate) fn prefix(id: &str) -> String {
    format!("{PREFIX}{id}-")
}

/// When a process was started, in the kernel's ticks since boot.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold blanks; the start time is the 20th field behind it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The identifier that `name` begins with, and whether its owner is gone. None for names that are not of a lab.
fn identified(name: &str) -> Option<(String, bool)> {
    let mut parts = name.splitn(4, '-');
    let pid = u32::from_str_radix(parts.next()?, 16).ok()?;
    let started = u64::from_str_radix(parts.next()?, 16).ok()?;
    let count = u32::from_str_radix(parts.next()?, 16).ok()?;
    let id = format!("{pid:x}-{started:x}-{count:x}");
    Some((id, start_time(pid) != Some(started)))
}

/// Removes the labs whose owners are gone. It goes by the names of all that labs consist of: what a command made after
/// the rest of its killed owner's lab was removed is found as well.
pub(crate) fn sweep() {
    let cgroups = cgroup::mount_point().unwrap_or_default();
    let places = [
        (Path::new(RUN), ""),
        (Path::new(NETNS), PREFIX),
        (&cgroups, cgroup::PREFIX),
    ];
    let stale: BTreeSet<String> = places
        .into_iter()
        .flat_map(|(folder, prefix)| {
            names(folder)
                .into_iter()
                .filter_map(move |name| identified(name.strip_prefix(prefix)?))
        })
        .filter_map(|(id, gone)| gone.then_some(id))
        .collect();
    for id in stale {
        tear_down(&id);
    }
}

/// The names of what is in a folder; none if it is not there.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Removes everything of a lab. Nothing here may fail the caller: what is gone already is fine, and what stays is
/// found again by the next sweep.
pub(crate) fn tear_down(id: &str) {
    let folder = Path::new(RUN).join(id);
    let netns = namespaces(id);
    let cgroup: Option<PathBuf> = cgroup::of_lab(id).ok();
    kill_everything(&netns, cgroup.as_deref());
    for name in &netns {
        let _ = crate::run_command("ip", &["netns", "del", name]);
    }
    if let Some(cgroup) = &cgroup {
        remove_cgroup(cgroup);
    }
    let _ = unmount(folder.join("bpf"), UnmountFlags::DETACH);
    let _ = fs::remove_dir_all(&folder);
}

/// The names of a lab's namespaces.
fn namespaces(id: &str) -> Vec<String> {
    let prefix = prefix(id);
    let mut names = names(Path::new(NETNS));
    names.retain(|name| name.starts_with(&prefix));
    names
}

/// Kills the processes inside the namespaces and the cgroup, other than this one.
fn kill_everything(netns: &[String], cgroup: Option<&Path>) {
    let own = process::id();
    for _ in 0..TRIES {
        let mut pids: Vec<u32> = netns
            .iter()
            .filter_map(|name| crate::run_command("ip", &["netns", "pids", name]).ok())
            .flat_map(|pids| {
                pids.lines()
                    .filter_map(|pid| pid.parse().ok())
                    .collect::<Vec<u32>>()
            })
            .collect();
        pids.extend(cgroup.map(cgroup::processes).unwrap_or_default());
        pids.retain(|pid| *pid != own);
        if pids.is_empty() {
            return;
        }
        for pid in pids {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        thread::sleep(PAUSE);
    }
}

fn remove_cgroup(cgroup: &Path) {
    for child in cgroup::children(cgroup) {
        remove_cgroup(&child);
    }
    // A cgroup stays busy for a moment after its last process was killed.
    for _ in 0..TRIES {
        if fs::remove_dir(cgroup).is_ok() || !cgroup.exists() {
            return;
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_whether_its_owner_lives() {
        let id = identifier(3).unwrap();
        assert_eq!(identified(&id), Some((id.clone(), false)));
        assert_eq!(identified(&format!("{id}-n1-a")), Some((id.clone(), false)));
        let (pid, rest) = id.split_once('-').unwrap();
        let (_, count) = rest.split_once('-').unwrap();
        let earlier = format!("{pid}-1-{count}");
        assert_eq!(identified(&earlier), Some((earlier.clone(), true)));
    }

    #[test]
    fn names_of_others_are_no_labs() {
        for name in ["", "annel", "a-b", "1a2b0-n1-a", "1-2-node1", "cni-5-6"] {
            assert_eq!(identified(name), None, "{name}");
        }
    }
}
