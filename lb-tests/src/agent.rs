//! Agents in a lab.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Host, Lab, Process, output};
use rustix::process::Signal;

/// What the agent logs when it serves.
const READY: &str = "fairlead is ready";
/// How long an agent may take to get there.
const PATIENCE: Duration = Duration::from_secs(30);

/// The agent's binary: the one that `FAIRLEAD_BIN` names, else the one beside this test.
///
/// # Errors
///
/// If there is none, with the remedy.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("FAIRLEAD_BIN") {
        return Ok(path.into());
    }
    let own = env::current_exe()?;
    // Tests lie one folder deeper than other programs of the same build.
    let places: Vec<PathBuf> = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|at| at.join("fairlead"))
        .collect();
    let found = places.iter().find(|path| path.exists()).cloned();
    found.with_context(|| {
        format!(
            "none of {places:?} exists; run `cargo build -p lb-userspace` first, or use `cargo xtask test`"
        )
    })
}

/// An agent on a node of a lab.
#[derive(Debug)]
pub struct Agent {
    process: Process,
}

impl Agent {
    /// Starts the agent of a node (counted from 1) with the manifests in `folder` and waits until it serves.
    ///
    /// # Errors
    ///
    /// If it does not come to that, with its log.
    pub fn start(lab: &Lab, node: usize, folder: &Path) -> Result<Self> {
        Self::start_with(lab, node, folder, &[])
    }

    /// As [`Self::start`], with further arguments.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn start_with(lab: &Lab, node: usize, folder: &Path, more: &[&str]) -> Result<Self> {
        let mut agent = Self::spawn(lab, node, folder, more)?;
        agent.process.wait_for(READY, PATIENCE)?;
        Ok(agent)
    }

    /// Starts the agent without waiting for anything.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn spawn(lab: &Lab, node: usize, folder: &Path, more: &[&str]) -> Result<Self> {
        // Beside what the rules find: a mistake in them must not reach past the lab.
        let named = ["--uplink", "eth0", "--workload", "veth-*"];
        Self::spawn_plain(lab, node, folder, &[&named, more].concat())
    }

    /// As [`Self::start`], and the roles of devices are found by the rules alone.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn start_by_rules(lab: &Lab, node: usize, folder: &Path) -> Result<Self> {
        let mut agent = Self::spawn_plain(lab, node, folder, &[])?;
        agent.process.wait_for(READY, PATIENCE)?;
        Ok(agent)
    }

    fn spawn_plain(lab: &Lab, node: usize, folder: &Path, more: &[&str]) -> Result<Self> {
        Self::spawn_from(lab, node, ["--manifests", &folder.display().to_string()], more)
    }

    /// Starts the agent of a node (counted from 1) with an API server that a kubeconfig leads to, without waiting for anything.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn spawn_for(lab: &Lab, node: usize, kubeconfig: &Path, more: &[&str]) -> Result<Self> {
        let named = ["--uplink", "eth0", "--workload", "veth-*"];
        let source = ["--kubeconfig", &kubeconfig.display().to_string()];
        Self::spawn_from(lab, node, source, &[&named, more].concat())
    }

    /// As [`Self::spawn_for`], and waits until it serves.
    ///
    /// # Errors
    ///
    /// If it does not come to that, with its log.
    pub fn start_for(lab: &Lab, node: usize, kubeconfig: &Path, more: &[&str]) -> Result<Self> {
        let mut agent = Self::spawn_for(lab, node, kubeconfig, more)?;
        agent.process.wait_for(READY, PATIENCE)?;
        Ok(agent)
    }

    fn spawn_from(lab: &Lab, node: usize, source: [&str; 2], more: &[&str]) -> Result<Self> {
        let host = lab.node(node);
        let mut command = command(host, &["run"])?;
        command
            .args(source)
            .arg("--bpffs")
            .arg(lab.bpffs(node))
            .arg("--cgroup")
            .arg(lab.cgroup())
            .args(["--hostname-override", &host.name])
            .args(["--log-level", "debug"])
            .args(more);
        Ok(Self {
            process: host.spawn("fairlead", &mut command)?,
        })
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it as an operator does.
    ///
    /// # Errors
    ///
    /// If it does not end well.
    pub fn stop(&mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait(PATIENCE)?;
        ensure!(status.success(), "{status}:\n{}", self.log());
        Ok(())
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// A command line of the agent's binary on a node, from its subcommand on.
///
/// # Errors
///
/// If the binary is missing.
pub fn command(host: &Host, arguments: &[&str]) -> Result<Command> {
    let mut command = host.command(binary()?);
    command.args(arguments);
    Ok(command)
}

/// How many packets a node has counted for a reason.
///
/// # Errors
///
/// If the agent's binary does not tell.
pub fn counted(lab: &Lab, node: usize, reason: &str) -> Result<u64> {
    let mut status = command(lab.node(node), &["status"])?;
    let status = output(status.arg("--bpffs").arg(lab.bpffs(node)))?;
    let mut words = status.lines().map(str::split_whitespace);
    let count = words.find_map(|mut words| (words.next() == Some(reason)).then(|| words.next()));
    Ok(count.flatten().unwrap_or("0").parse()?)
}

/// A folder of manifests that a test writes to.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A new folder in the lab's.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn new(lab: &Lab) -> Result<Self> {
        let path = lab.folder().join("manifests");
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file as a careful writer does: aside, then by a rename.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let aside = self.0.join(format!(".{name}.new"));
        fs::write(&aside, text)?;
        fs::rename(&aside, self.0.join(name)).with_context(|| format!("write the manifest {name}"))
    }
}

/// Tries until it works, for at most `limit`; returns how long it took.
///
/// # Errors
///
/// What went wrong the last time.
pub fn eventually(limit: Duration, mut attempt: impl FnMut() -> Result<()>) -> Result<Duration> {
    let begin = Instant::now();
    loop {
        match attempt() {
            Ok(()) => return Ok(begin.elapsed()),
            Err(error) if begin.elapsed() > limit => {
                return Err(error.context(format!("still so after {limit:?}")));
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Does something for each of them, for all at the same time; returns what it returned, in order.
///
/// # Panics
///
/// If the work does.
pub fn at_once<T: Send, R: Send>(these: impl IntoIterator<Item = T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = these
            .into_iter()
            .map(|this| scope.spawn(move || work(this)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}
