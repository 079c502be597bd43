//! How the agent starts: over what an earlier one left, with something wrong, and beside much else to do.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Host, Lab, Server, http_get, output};
use lb_tests::{
    agent::{Agent, Folder, binary, eventually},
    manifests::Manifest,
};
use rustix::process::Signal;

fn web() -> SocketAddr {
    "10.96.0.10:80".parse().expect("an address")
}

fn manifest(lab: &Lab, pods: &[usize]) -> Manifest {
    let manifest = Manifest::new("web", 10).port(80, 8080, None);
    pods.iter().fold(manifest, |manifest, pod| {
        manifest.endpoint(lab.pod(1, *pod), "node1")
    })
}

fn stop(agent: &mut Agent) -> Result<()> {
    agent.process().signal(Signal::TERM)?;
    ensure!(agent.process().wait(Duration::from_secs(5))?.success());
    Ok(())
}

/// Ten answers, all of that server.
fn served_by(client: &Host, server: &str) -> Result<()> {
    for _ in 0..10 {
        let answer = http_get(client, web())?;
        ensure!(
            answer.server == server,
            "{} answered, not {server}",
            answer.server
        );
    }
    Ok(())
}

/// The number of the last line of a log that holds the words.
fn last_line_with(log: &str, words: &str) -> Option<usize> {
    let found = log.lines().enumerate().filter(|(_, line)| line.contains(words));
    found.last().map(|(number, _)| number)
}

/// Devices that the agent of node 1 will find, without anything behind them.
fn add_devices(lab: &Lab, count: usize) -> Result<()> {
    let script = format!(
        "for i in $(seq {count}); do echo link add veth-x$i type veth peer name y$i; done | ip -batch -"
    );
    output(lab.node(1).command("sh").args(["-c", &script]))?;
    Ok(())
}

#[test]
fn what_is_pinned_stays_while_manifests_are_missing_or_invalid() {
    held_back().unwrap();
}

fn held_back() -> Result<()> {
    let lab = Lab::builder().pods_per_node(3).build()?;
    let folder = Folder::new(&lab)?;
    let file = folder.path().join("web.yaml");
    let _servers = [
        Server::start(lab.pod(1, 2), 8080)?,
        Server::start(lab.pod(1, 3), 8080)?,
    ];
    let client = lab.pod(1, 1);
    folder.write("web.yaml", &manifest(&lab, &[2]).yaml())?;
    let mut agent = Agent::start(&lab, 1, folder.path())?;
    served_by(client, "n1-b")?;
    stop(&mut agent)?;

    let good = manifest(&lab, &[3]).yaml();
    let invalid = good.replacen("port: 80,", "port: eighty,", 1);
    for text in [Some(invalid), None] {
        match text {
            Some(text) => folder.write("web.yaml", &text)?,
            None => fs::remove_file(&file)?,
        }
        let mut agent = Agent::start(&lab, 1, folder.path())?;
        ensure!(agent.log().contains("it stays in force"), "{}", agent.log());
        served_by(client, "n1-b").context("nothing was applied")?;
        stop(&mut agent)?;
    }
    let agent = Agent::start(&lab, 1, folder.path())?;
    served_by(client, "n1-b")?;
    folder.write("web.yaml", &good)?;
    eventually(Duration::from_secs(2), || served_by(client, "n1-c"))
        .with_context(|| format!("the repaired manifest is applied:\n{}", agent.log()))?;
    Ok(())
}

/// With nothing pinned there is nothing to lose: what is valid is served.
#[test]
fn on_a_fresh_node_valid_manifests_are_served_beside_invalid_ones() {
    fresh_with_invalid().unwrap();
}

fn fresh_with_invalid() -> Result<()> {
    let lab = Lab::builder().pods_per_node(2).build()?;
    let folder = Folder::new(&lab)?;
    let _server = Server::start(lab.pod(1, 2), 8080)?;
    folder.write("bad.yaml", "apiVersion: v1\nkind: Service\nmetadata: {}\n")?;
    folder.write("web.yaml", &manifest(&lab, &[2]).yaml())?;
    let agent = Agent::start(&lab, 1, folder.path())?;
    ensure!(agent.log().contains("bad.yaml"), "{}", agent.log());
    served_by(lab.pod(1, 1), "n1-b")
}

#[test]
fn a_change_of_endpoints_does_not_wait_for_new_devices() {
    change_among_devices().unwrap();
}

fn change_among_devices() -> Result<()> {
    const DEVICES: usize = 60;
    let lab = Lab::builder().pods_per_node(3).build()?;
    let folder = Folder::new(&lab)?;
    folder.write("web.yaml", &manifest(&lab, &[2, 3]).yaml())?;
    let agent = Agent::start(&lab, 1, folder.path())?;
    let seen = agent.log().len();
    add_devices(&lab, DEVICES)?;
    folder.write("web.yaml", &manifest(&lab, &[3]).yaml())?;
    eventually(Duration::from_secs(30), || {
        let log = agent.log();
        let attached = log[seen..]
            .lines()
            .filter(|line| line.contains("INFO") && line.contains("veth-x"))
            .count();
        ensure!(attached == DEVICES, "{attached} of {DEVICES} devices");
        Ok(())
    })?;
    let log = &agent.log()[seen..];
    let synced = last_line_with(log, "synced").context("the change was not applied")?;
    let last = last_line_with(log, "veth-x").context("no device was attached to")?;
    ensure!(synced < last, "the change came after all devices:\n{log}");
    Ok(())
}

#[test]
fn the_agent_stops_at_once_while_devices_wait() {
    stop_among_devices().unwrap();
}

fn stop_among_devices() -> Result<()> {
    let lab = Lab::builder().pods_per_node(1).build()?;
    let folder = Folder::new(&lab)?;
    add_devices(&lab, 200)?;
    let mut agent = Agent::spawn(&lab, 1, folder.path(), &[])?;
    agent.process().wait_for("veth-", Duration::from_secs(20))?;
    stop(&mut agent)?;
    ensure!(!agent.log().contains("fairlead is ready"), "{}", agent.log());
    ensure!(agent.log().contains("forwarding goes on"), "{}", agent.log());
    Ok(())
}

/// A folder is in the place of a device's pin. The agent serves the others, says so, and attaches when it can.
#[test]
fn a_device_that_cannot_be_attached_to_does_not_hold_up_the_others() {
    failing_device().unwrap();
}

fn failing_device() -> Result<()> {
    let lab = Lab::builder().pods_per_node(3).build()?;
    let folder = Folder::new(&lab)?;
    let _server = Server::start(lab.pod(1, 2), 8080)?;
    folder.write("web.yaml", &manifest(&lab, &[2]).yaml())?;
    let obstacle = lab.bpffs(1).join("v1/links/tc-veth-n1-c-egress");
    fs::create_dir_all(&obstacle)?;
    let agent = Agent::start(&lab, 1, folder.path())?;
    served_by(lab.pod(1, 1), "n1-b")?;
    ensure!(
        http_get(lab.pod(1, 3), web()).is_err(),
        "it must not be half attached"
    );
    let told = |words: &str| agent.log().lines().filter(|line| line.contains(words)).count();
    ensure!(told("tc-veth-n1-c-egress") == 1, "{}", agent.log());
    fs::remove_dir(&obstacle)?;
    eventually(Duration::from_secs(5), || served_by(lab.pod(1, 3), "n1-b"))?;
    ensure!(told("tc-veth-n1-c-egress") == 1, "told once: {}", agent.log());
    Ok(())
}

/// Another program that wants the cgroup for itself is only met when the links are made, after the programs are loaded.
#[test]
fn a_start_that_fails_late_leaves_nothing() {
    fails_late().unwrap();
}

fn fails_late() -> Result<()> {
    let lab = Lab::builder().pods_per_node(1).build()?;
    let folder = Folder::new(&lab)?;
    let _other = Agent::start(&lab, 2, folder.path())?;
    let taken = lab.cgroup().join("taken");
    fs::create_dir(&taken)?;
    let node = lab.node(1);
    // Without a flag, an attachment allows no others.
    let program = lab.bpffs(2).join("v1/progs/fl_recvmsg4");
    output(
        node.command("bpftool")
            .args(["cgroup", "attach"])
            .arg(&taken)
            .args(["cgroup_inet4_recvmsg", "pinned"])
            .arg(&program),
    )
    .or_else(|_| {
        output(
            node.command("bpftool")
                .args(["cgroup", "attach"])
                .arg(&taken)
                .args(["recvmsg4", "pinned"])
                .arg(&program),
        )
    })?;
    let result = node
        .command(binary()?)
        .args(["run", "--uplink", "eth0", "--workload", "veth-*", "--manifests"])
        .arg(folder.path())
        .arg("--bpffs")
        .arg(lab.bpffs(1))
        .arg("--cgroup")
        .arg(&taken)
        .output()?;
    let error = String::from_utf8_lossy(&result.stderr);
    ensure!(result.status.code() == Some(1), "{error}");
    ensure!(
        error.contains("attach fl_recvmsg4 to cgroup") && error.contains("Operation not permitted"),
        "{error}"
    );
    ensure!(!lab.bpffs(1).exists(), "what was pinned is taken back:\n{error}");
    let shown = output(node.command("bpftool").args(["cgroup", "show"]).arg(&taken))?;
    ensure!(!shown.contains("fl_connect4"), "{shown}");
    ensure!(
        shown.contains("fl_recvmsg4"),
        "the other one is still there: {shown}"
    );
    Ok(())
}

#[test]
fn the_kernel_side_logs_new_flows_when_asked_to_and_only_then() {
    kernel_log().unwrap();
}

fn kernel_log() -> Result<()> {
    let lab = Lab::builder().pods_per_node(2).build()?;
    let folder = Folder::new(&lab)?;
    let _server = Server::start(lab.pod(1, 2), 8080)?;
    folder.write("web.yaml", &manifest(&lab, &[2]).yaml())?;
    for (level, told) in [("debug", true), ("off", false)] {
        // The agent's own level must not hide what was asked for.
        let more = ["--bpf-log", level, "--log-level", "info"];
        let mut agent = Agent::start_with(&lab, 1, folder.path(), &more)?;
        served_by(lab.pod(1, 1), "n1-b")?;
        let look = || {
            ensure!(agent.log().contains("new flow by a packet"), "{}", agent.log());
            Ok(())
        };
        let found = eventually(Duration::from_secs(if told { 5 } else { 1 }), look);
        ensure!(found.is_ok() == told, "--bpf-log {level}: {found:?}");
        stop(&mut agent)?;
    }
    Ok(())
}
