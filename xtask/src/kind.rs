//! `cargo xtask kind`: a cluster of containers without kube-proxy, with Fairlead, and a look whether a Service answers.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use crate::{
    command::{run, workspace},
    image,
};

/// The name in deploy/overlays/kind/cluster.yaml.
const CLUSTER: &str = "fairlead";

/// What must be there, and where it comes from.
const PROGRAMS: [(&str, &str); 3] = [
    ("docker", "https://docs.docker.com/engine/install"),
    ("kind", "https://kind.sigs.k8s.io/docs/user/quick-start"),
    ("kubectl", "https://kubernetes.io/docs/tasks/tools"),
];

/// Makes the cluster, or only takes it away.
pub(crate) fn kind(delete: bool) -> Result<()> {
    check_programs()?;
    if delete {
        return run(Command::new("kind").args(["delete", "cluster", "--name", CLUSTER]));
    }
    let archive = image::image(image::NAME, true)?;
    let folder = workspace().join("deploy/overlays/kind");
    // It waits for nodes that are ready only with a network, which does not need Services.
    let mut create = Command::new("kind");
    create
        .args(["create", "cluster", "--config"])
        .arg(folder.join("cluster.yaml"));
    run(&mut create)?;
    let mut load = Command::new("kind");
    load.args(["load", "image-archive"])
        .arg(&archive)
        .args(["--name", CLUSTER]);
    run(&mut load)?;
    kubectl(&["apply", "-k"], Some(&folder))?;
    kubectl(
        &[
            "-n",
            "kube-system",
            "rollout",
            "status",
            "daemonset/fairlead",
            "--timeout=3m",
        ],
        None,
    )?;
    smoke(&folder)?;
    println!("the cluster {CLUSTER} works; `cargo xtask kind --delete` takes it away");
    Ok(())
}

/// Asks a Service by its name (so DNS is asked through one too) from a pod, and by its NodePort from a node.
fn smoke(folder: &Path) -> Result<()> {
    const CLIENT: [&str; 7] = [
        "run",
        "smoke-client",
        "--rm",
        "--attach",
        "--quiet",
        "--restart=Never",
        "--image",
    ];
    const IMAGE: &str = "registry.k8s.io/e2e-test-images/agnhost:2.53";
    kubectl(&["apply", "-f"], Some(&folder.join("smoke.yaml")))?;
    kubectl(&["rollout", "status", "deployment/smoke", "--timeout=3m"], None)?;
    let ask = "curl --fail --silent --show-error --retry 10 --retry-all-errors http://smoke.default/hostname";
    let arguments = [&CLIENT[..], &[IMAGE, "--command", "--", "sh", "-c", ask]].concat();
    kubectl(&arguments, None)?;
    let node = format!("{CLUSTER}-worker");
    let ask = [
        "exec",
        &node,
        "curl",
        "--fail",
        "--silent",
        "--show-error",
        "http://localhost:30080/hostname",
    ];
    run(Command::new("docker").args(ask))
}

fn kubectl(arguments: &[&str], path: Option<&Path>) -> Result<()> {
    let mut command = Command::new("kubectl");
    command
        .args(["--context", &format!("kind-{CLUSTER}")])
        .args(arguments)
        .args(path);
    run(&mut command)
}

fn check_programs() -> Result<()> {
    for (program, place) in PROGRAMS {
        let version = if program == "docker" { "info" } else { "version" };
        let mut probe = Command::new(program);
        probe.arg(version).stdout(Stdio::null()).stderr(Stdio::null());
        match probe.status() {
            Err(_) => bail!("`cargo xtask kind` needs {program}, which is not here: {place}"),
            Ok(status) if program == "docker" && !status.success() => {
                bail!(
                    "`cargo xtask kind` needs a docker daemon, and `docker info` finds none that it may use"
                )
            }
            Ok(_) => {}
        }
    }
    Ok(())
}
