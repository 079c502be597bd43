//! Labs of several processes: built at the same time, and ended while they are being built.

use std::{
    fs,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use lb_testkit::{Error, Lab};
use rustix::process::{Pid, Signal, kill_process};

/// Processes that build a lab at the same time.
const TOGETHER: usize = 5;
/// Steps between the first moment at which an owner is ended and the last. A lab takes about 0.2 s to build.
const MOMENTS: u64 = 12;
const STEP: Duration = Duration::from_millis(40);

/// Not a test by itself: a process that builds a lab, looks whether it stays, and ends.
#[test]
#[ignore = "started by the other tests"]
fn builds_a_lab() {
    let lab = Lab::builder().build().unwrap();
    println!("\nid={}", lab.folder().file_name().unwrap().display());
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(25));
        for host in [lab.client(), lab.node(1), lab.node(2)] {
            assert!(host.netns_path().exists(), "{} is gone", host.name);
        }
        assert!(lab.bpffs(1).parent().unwrap().exists());
        assert!(lab.cgroup().exists());
    }
}

fn owner() -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "builds_a_lab", "--ignored", "--nocapture"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn labs_that_are_built_at_the_same_time_leave_each_other_alone() {
    for _ in 0..3 {
        let owners: Vec<Child> = (0..TOGETHER).map(|_| owner()).collect();
        // All are waited for before anything fails.
        let ended: Vec<_> = owners
            .into_iter()
            .map(|owner| owner.wait_with_output().unwrap())
            .collect();
        for output in ended {
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}

/// What the machine has of labs of the process `pid`.
fn traces(pid: u32) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let cgroups = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields[2] == "cgroup2")
        .map(|fields| fields[1].to_owned())
        .unwrap();
    let mut found: Vec<String> = mounts
        .lines()
        .filter(|line| line.contains(&format!("/run/fairlead-lab/{pid:x}-")))
        .map(str::to_owned)
        .collect();
    for (folder, prefix) in [
        ("/run/netns", "fl"),
        ("/run/fairlead-lab", ""),
        (&cgroups, "fairlead-lab-"),
    ] {
        let prefix = format!("{folder}/{prefix}{pid:x}-");
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        found.extend(
            entries
                .map(|entry| entry.path().display().to_string())
                .filter(|path| path.starts_with(&prefix)),
        );
    }
    found
}

#[test]
fn an_owner_that_is_ended_at_any_moment_leaves_nothing_behind_the_next_lab() {
    let mut pids = Vec::new();
    let mut seen = 0;
    for moment in 0..MOMENTS {
        for signal in [Signal::TERM, Signal::KILL] {
            let mut child = owner();
            thread::sleep(STEP * u32::try_from(moment).unwrap());
            seen += usize::from(!traces(child.id()).is_empty());
            // It may have failed to start; then there is nothing to end.
            let _ = kill_process(Pid::from_child(&child), signal);
            child.wait().unwrap();
            pids.push(child.id());
        }
    }
    assert!(
        seen >= 4,
        "only {seen} owners were ended while they had part of a lab"
    );
    // A command that the owner had started may outlive it for a moment.
    thread::sleep(Duration::from_millis(500));
    drop(Lab::builder().pods_per_node(1).build().unwrap());
    let left: Vec<String> = pids.into_iter().flat_map(traces).collect();
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn a_second_lab_on_one_thread_is_refused_and_one_on_another_waits() {
    let lab = Lab::builder().pods_per_node(1).build().unwrap();
    let error = Lab::builder().build().unwrap_err();
    assert!(matches!(error, Error::SecondLab), "{error}");
    // The refused one did the first no harm.
    assert!(lab.client().netns_path().exists());
    let other = thread::spawn(|| {
        let lab = Lab::builder().pods_per_node(1).build().unwrap();
        lab.folder().to_owned()
    });
    thread::sleep(Duration::from_millis(300));
    assert!(!other.is_finished());
    drop(lab);
    assert!(!other.join().unwrap().exists());
}
