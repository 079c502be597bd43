//! Takes labs apart: our own, and those of processes that were killed.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};

/// Where labs are listed: a folder for each, with a file that names the owner.
pub(crate) const RUN: &str = "/run/fairlead-lab";
/// The file that names the owner: process number and start time.
const OWNER: &str = "owner";

/// Begin of the names of a lab's namespaces.
pub(crate) fn prefix(id: &str) -> String {
    format!("fl{id}-")
}

/// Notes that this process owns the lab.
pub(crate) fn claim(folder: &Path) -> std::io::Result<()> {
    let pid = std::process::id();
    fs::write(
        folder.join(OWNER),
        format!("{pid} {}", start_time(pid).unwrap_or_default()),
    )
}

/// When a process was started, in the kernel's ticks since boot: process numbers are used again.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold blanks; the start time is the 20th field behind it.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)
        .map(str::to_owned)
}

/// Removes the labs whose owners are gone.
pub(crate) fn sweep() {
    let Ok(labs) = fs::read_dir(RUN) else { return };
    for lab in labs.flatten() {
        let owner = fs::read_to_string(lab.path().join(OWNER)).unwrap_or_default();
        let alive = owner.split_once(' ').is_some_and(|(pid, started)| {
            pid.parse()
                .ok()
                .and_then(start_time)
                .is_some_and(|now| now == started)
        });
        if !alive && let Ok(id) = lab.file_name().into_string() {
            tear_down(&id, None);
        }
    }
}

/// Removes everything of a lab. Nothing here may fail the caller: what is gone already is fine, and what stays is
/// found again by the next sweep, because the folder goes last.
pub(crate) fn tear_down(id: &str, cgroup: Option<&Path>) {
    let folder = Path::new(RUN).join(id);
    let netns = namespaces(id);
    let cgroups: Vec<PathBuf> = cgroup
        .map(Path::to_owned)
        .into_iter()
        .chain(recorded_cgroup(&folder))
        .collect();
    kill_everything(&netns, &cgroups);
    for name in &netns {
        let _ = crate::run_command("ip", &["netns", "del", name]);
    }
    for cgroup in &cgroups {
        remove_cgroup(cgroup);
    }
    let _ = unmount(folder.join("bpf"), UnmountFlags::DETACH);
    // The folder is what a later sweep knows the lab by: it goes last, and only if nothing is left.
    if namespaces(id).is_empty() && cgroups.iter().all(|cgroup| !cgroup.exists()) {
        let _ = fs::remove_dir_all(&folder);
    }
}

/// The cgroup of a lab, as its folder has it.
fn recorded_cgroup(folder: &Path) -> Option<PathBuf> {
    fs::read_to_string(folder.join("cgroup"))
        .ok()
        .map(PathBuf::from)
        .filter(|path| path.exists())
}

/// The names of a lab's namespaces.
fn namespaces(id: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix(id)))
        .collect()
}

/// Kills the processes inside the namespaces and cgroups, other than this one.
fn kill_everything(netns: &[String], cgroups: &[PathBuf]) {
    let own = std::process::id();
    for _ in 0..50 {
        let mut pids: Vec<u32> = netns
            .iter()
            .filter_map(|name| crate::run_command("ip", &["netns", "pids", name]).ok())
            .flat_map(|pids| {
                pids.lines()
                    .filter_map(|pid| pid.parse().ok())
                    .collect::<Vec<u32>>()
            })
            .collect();
        for cgroup in cgroups {
            pids.extend(pids_below(cgroup));
        }
        pids.retain(|pid| *pid != own);
        if pids.is_empty() {
            return;
        }
        for pid in pids {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The processes of a cgroup and of those below it.
fn pids_below(cgroup: &Path) -> Vec<u32> {
    let mut pids: Vec<u32> = fs::read_to_string(cgroup.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|pid| pid.parse().ok())
        .collect();
    for child in children(cgroup) {
        pids.extend(pids_below(&child));
    }
    pids
}

fn children(cgroup: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(cgroup) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_cgroup(cgroup: &Path) {
    for child in children(cgroup) {
        remove_cgroup(&child);
    }
    // A cgroup stays busy for a moment after its last process was killed.
    for _ in 0..50 {
        if fs::remove_dir(cgroup).is_ok() || !cgroup.exists() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
