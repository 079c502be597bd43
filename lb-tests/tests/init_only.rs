//! `--init-only` and `--cleanup`, as kube-proxy has them.

use std::process::Command;

use anyhow::{Result, ensure};
use lb_testkit::{Lab, Wiring, output};
use lb_tests::{
    agent::{self, Agent, Folder},
    stage::{Stage, at},
};

/// `fairlead run` on node 1 with one of the two flags.
fn once(lab: &Lab, flag: &str) -> Result<Command> {
    let mut command = agent::command(lab.node(1), &["run", flag])?;
    command.arg("--bpffs").arg(lab.bpffs(1));
    command.arg("--cgroup").arg(lab.cgroup());
    Ok(command)
}

#[test]
fn init_only_makes_the_pin_folder_and_attaches_nothing() -> Result<()> {
    let lab = Lab::builder().wiring(Wiring::Bridged).build()?;
    let told = output(&mut once(&lab, "--init-only")?)?;
    ensure!(told.contains("is ready"), "{told}");
    let folder = lab.bpffs(1).join("v1");
    for (name, entries) in [("maps", 0), ("progs", 0), ("links", 0)] {
        ensure!(
            folder.join(name).read_dir()?.count() == entries,
            "{name} must be empty"
        );
    }
    // An agent goes on from there.
    let manifests = Folder::new(&lab)?;
    let agent = Agent::start(&lab, 1, manifests.path())?;
    let told = output(&mut once(&lab, "--init-only")?)?;
    ensure!(told.contains("in use by an agent"), "{told}");
    drop(agent);
    let told = output(&mut once(&lab, "--init-only")?)?;
    ensure!(told.contains("holds what an agent left"), "{told}");
    Ok(())
}

#[test]
fn cleanup_as_a_flag_removes_what_an_agent_left() -> Result<()> {
    let mut stage = Stage::new(Wiring::Bridged)?;
    let addr = at("10.96.0.10".parse::<std::net::Ipv4Addr>()?, 80);
    lb_testkit::http_get(stage.lab.pod(1, 1), addr)?;
    stage.agents.clear();
    let told = output(&mut once(&stage.lab, "--cleanup")?)?;
    ensure!(told.contains("removed"), "{told}");
    ensure!(!stage.lab.bpffs(1).exists(), "the pin folder must be gone");
    Ok(())
}
