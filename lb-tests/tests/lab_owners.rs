//! Nothing of a lab outlives its owner, however that ends; and labs of several processes leave each other alone.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use lb_testkit::{Error, Lab, Wiring, output};
use rustix::process::{Pid, Signal, kill_process};

/// How long a lab may take to be removed after a signal.
const REMOVAL: Duration = Duration::from_secs(10);
/// Processes that build a lab at the same time.
const TOGETHER: usize = 5;
/// Steps between the first moment at which an owner is ended and the last. A lab takes about 0.2 s to build.
const MOMENTS: u64 = 12;
const STEP: Duration = Duration::from_millis(40);

fn lab(wiring: Wiring) -> Lab {
    Lab::builder().wiring(wiring).pods_per_node(1).build().unwrap()
}

/// What the machine has of labs whose identifiers begin so: namespaces, mounts, cgroups, state.
fn traces(id: &str) -> BTreeSet<String> {
    let names = |folder: &str, prefix: &str| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path().display().to_string())
            .filter(|path| path.starts_with(&format!("{folder}/{prefix}")))
            .collect()
    };
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut found: BTreeSet<String> = names("/run/netns", &format!("fl{id}")).into_iter().collect();
    found.extend(names("/run/fairlead-lab", id));
    for line in mounts.lines() {
        let (Some(point), Some(kind)) = (line.split(' ').nth(1), line.split(' ').nth(2)) else {
            continue;
        };
        if point.starts_with(&format!("/run/fairlead-lab/{id}")) {
            found.insert(format!("mount {point}"));
        }
        if kind == "cgroup2" {
            found.extend(names(point, &format!("fairlead-lab-{id}")));
        }
    }
    found
}

/// What the machine has of labs of a process.
fn traces_of(pid: u32) -> BTreeSet<String> {
    traces(&format!("{pid:x}-"))
}

fn id(folder: &Path) -> String {
    folder.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Every kind of trace is there while the lab lives, so that their absence later says something.
fn assert_present(id: &str) {
    let found = traces(id);
    for part in ["/run/netns/", "/run/fairlead-lab/", "mount ", "/fairlead-lab-"] {
        assert!(
            found.iter().any(|trace| trace.contains(part)),
            "no {part} in {found:?}"
        );
    }
}

#[test]
fn nothing_is_left_after_drop() {
    for wiring in [Wiring::Routed, Wiring::Bridged] {
        let lab = lab(wiring);
        let id = id(lab.folder());
        let process = lab
            .node(1)
            .spawn("sleep", lab.node(1).command("sleep").arg("600"))
            .unwrap();
        // A process that nobody will kill but the lab.
        let stray = output(
            lab.node(2)
                .command("sh")
                .args(["-c", "sleep 601 >/dev/null 2>&1 & echo $!"]),
        )
        .unwrap();
        let stray = stray.trim().to_owned();
        assert_present(&id);
        assert!(Path::new("/proc").join(&stray).exists());
        drop(process);
        drop(lab);
        assert_eq!(traces(&id), BTreeSet::new());
        let state = fs::read_to_string(format!("/proc/{stray}/stat")).unwrap_or_default();
        assert!(
            state.is_empty() || state.contains(") Z "),
            "the stray process lives: {state}"
        );
    }
}

#[test]
fn nothing_is_left_after_a_panic() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let panicked = thread::spawn(move || {
        let lab = lab(Wiring::Routed);
        sender.send(id(lab.folder())).unwrap();
        assert_present(&id(lab.folder()));
        panic!("on purpose");
    })
    .join();
    assert!(panicked.is_err());
    assert_eq!(traces(&receiver.recv().unwrap()), BTreeSet::new());
}

/// Not a test by itself: a process that owns a lab until it is ended. It prints the lab's id.
#[test]
#[ignore = "started by the tests of killed owners"]
fn owns_a_lab_until_it_is_killed() {
    let lab = lab(Wiring::Routed);
    println!("\nid={}", id(lab.folder()));
    thread::sleep(Duration::from_secs(60));
}

/// Starts the function above as a process of its own.
fn sleeping_owner() -> Result<(Child, String)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([
            "--exact",
            "owns_a_lab_until_it_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = BufReader::new(child.stdout.take().context("the owner's output is piped")?);
    for line in stdout.lines() {
        if let Some(id) = line?.strip_prefix("id=") {
            return Ok((child, id.to_owned()));
        }
    }
    let status = child.wait()?;
    anyhow::bail!("the owner of a lab ended ({status}) before it had one")
}

#[test]
fn a_lab_of_a_living_owner_stays_and_that_of_a_killed_one_is_removed() {
    let (mut child, id) = sleeping_owner().unwrap();
    drop(lab(Wiring::Routed));
    assert_present(&id);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(lab(Wiring::Routed));
    assert_eq!(traces(&id), BTreeSet::new());
}

#[test]
fn signals_that_end_the_owner_take_the_lab_along() {
    for signal in [Signal::INT, Signal::TERM] {
        let (mut child, id) = sleeping_owner().unwrap();
        assert_present(&id);
        kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap();
        let end = Instant::now() + REMOVAL;
        while !traces(&id).is_empty() && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(traces(&id), BTreeSet::new(), "{signal:?}");
    }
}

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

#[test]
fn an_owner_that_is_ended_at_any_moment_leaves_nothing_behind_the_next_lab() {
    let mut pids = Vec::new();
    let mut seen = 0;
    for moment in 0..MOMENTS {
        for signal in [Signal::TERM, Signal::KILL] {
            let mut child = owner();
            thread::sleep(STEP * u32::try_from(moment).unwrap());
            seen += usize::from(!traces_of(child.id()).is_empty());
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
    let left: Vec<String> = pids.into_iter().flat_map(traces_of).collect();
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
