//! The container image, run with the privileges of the DaemonSet and nothing else.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Lab, Wiring};
use lb_tests::{
    agent::Agent,
    container::{Container, Image},
    stage::{NODE_PORT, Stage, ask_all, ask_all_openly, at, web},
};

/// Where the container sees the manifests.
const MANIFESTS: &str = "/run/fairlead/manifests";

/// The words of docs/kubernetes.md.
const STATUS: [&str; 4] = ["/fairlead", "status", "--bpffs", "/run/fairlead/bpf/fairlead"];

/// What the lab's agents are told besides.
const MORE: [&str; 5] = [
    "--manifests=/run/fairlead/manifests",
    "--uplink=eth0",
    "--workload=veth-*",
    "--hostname-override=node1",
    "--log-level=debug",
];

/// A stage whose agent on node 1 is the image.
fn stage() -> Result<(Container, Image, Stage)> {
    let lab = Lab::builder().wiring(Wiring::Bridged).build()?;
    let image = Image::new(&lab)?;
    let mut container = None;
    let stage = Stage::on(lab, |lab, folder| {
        let folders = [(folder.path(), MANIFESTS)];
        let mut first = image.start(lab, 1, &image.capabilities()?, &MORE, &folders)?;
        first.wait_for("fairlead is ready")?;
        container = Some(first);
        Ok(vec![Agent::start(lab, 2, folder.path())?])
    })?;
    Ok((container.context("a container")?, image, stage))
}

/// Asks from a pod, from the node itself, and from outside.
fn ask(stage: &Stage) -> Result<()> {
    let lab = &stage.lab;
    let servers = [lab.pod(1, 2), lab.pod(2, 1)];
    for addr in web() {
        ask_all_openly(lab.pod(1, 1), addr, &servers)?;
        ask_all(lab.node(1), addr, &servers, |_| Ok(()))?;
        let node = lab.node(1);
        let node: IpAddr = if addr.is_ipv4() {
            node.v4.into()
        } else {
            node.v6.into()
        };
        ask_all(lab.client(), at(node, NODE_PORT), &servers, |_| Ok(()))?;
    }
    Ok(())
}

/// The numbers of `linux/capability.h`.
fn number(capability: &str) -> Result<u32> {
    Ok(match capability {
        "CAP_NET_ADMIN" => 12,
        "CAP_PERFMON" => 38,
        "CAP_BPF" => 39,
        other => anyhow::bail!("{other} has no number here"),
    })
}

#[test]
fn the_image_serves_with_the_capabilities_mounts_and_root_of_the_daemon_set() -> Result<()> {
    let (container, image, stage) = stage()?;
    ask(&stage)?;
    let status = container.status()?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let mut expected = 0u64;
    for name in image.capabilities()? {
        expected |= 1 << number(&name)?;
    }
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        let has = u64::from_str_radix(field(set).context(set)?, 16)?;
        ensure!(has == expected, "{set} {has:x}, expected {expected:x}");
    }
    ensure!(field("NoNewPrivs:") == Some("1"));
    let shown = container.exec(&STATUS)?;
    let line = |device: &str, role: &str| {
        let mut lines = shown.lines();
        lines.any(|line| line.trim_start().starts_with(device) && line.ends_with(role))
    };
    ensure!(
        line("eth0", "as an uplink") && line("veth-", "as a workload") && shown.contains("new_flow"),
        "{shown}"
    );
    Ok(())
}

#[test]
fn another_container_of_the_image_goes_on_from_what_the_first_left() -> Result<()> {
    let (container, image, stage) = stage()?;
    drop(container);
    // Forwarding goes on without any agent.
    ask(&stage)?;
    let folders = [(stage.folder.path(), MANIFESTS)];
    let mut second = image.start(&stage.lab, 1, &image.capabilities()?, &MORE, &folders)?;
    second.wait_for("going on from what is pinned")?;
    second.wait_for("fairlead is ready")?;
    ask(&stage)
}

#[test]
fn with_a_capability_less_the_agent_says_which_is_missing() -> Result<()> {
    let lab = Lab::builder().wiring(Wiring::Bridged).build()?;
    let image = Image::new(&lab)?;
    let all = image.capabilities()?;
    let empty = lab.folder().join("empty");
    std::fs::create_dir_all(&empty)?;
    let folders = [(empty.as_path(), MANIFESTS)];
    for missing in &all {
        let others: Vec<String> = all.iter().filter(|name| *name != missing).cloned().collect();
        let (success, log) = image.start(&lab, 1, &others, &MORE, &folders)?.end()?;
        ensure!(
            !success && log.contains(&format!("missing {missing}:")),
            "without {missing}: {log}"
        );
    }
    Ok(())
}
