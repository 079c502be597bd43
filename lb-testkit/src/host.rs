//! A namespace of the lab with what runs in it.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::error::{Error, Result};

/// Pause between two looks at a process.
const POLL: Duration = Duration::from_millis(5);

/// A node, a pod, or the client.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name in the lab: `node1`, `n1-a`, `client`.
    pub name: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    pub(crate) netns: String,
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) run_folder: PathBuf,
}

impl Host {
    /// The network namespace as a file.
    pub fn netns_path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.netns)
    }

    /// Runs `work` on a thread of its own inside the namespace and returns what it returns.
    ///
    /// # Errors
    ///
    /// If the namespace cannot be entered.
    ///
    /// # Panics
    ///
    /// If `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.netns_path();
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = File::open(&path).map_err(Error::io("open", path.display()))?;
                move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))
                    .map_err(Error::io("enter", path.display()))?;
                Ok(work())
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that will run inside the namespace, and, on a node, in the node's cgroup.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let netns = format!("--net={}", self.netns_path().display());
        let mut command = match &self.cgroup {
            None => Command::new("nsenter"),
            Some(cgroup) => {
                let mut command = Command::new("sh");
                command
                    .args(["-c", r#"echo $$ > "$0" && exec nsenter "$@""#])
                    .arg(cgroup.join("cgroup.procs"));
                command
            }
        };
        command.arg(netns).arg(program);
        command
    }

    /// A new file in the lab's folder, named after the host and `name`; a number goes before the extension if there is
    /// one of that name.
    pub(crate) fn new_file(&self, name: &str, extension: &str) -> Result<(File, PathBuf)> {
        let mut number = String::new();
        for next in 2.. {
            let path = self
                .run_folder
                .join(format!("{}-{name}{number}.{extension}", self.name));
            match File::create_new(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number = format!("-{next}"),
                made => return Ok((made.map_err(Error::io("create", path.display()))?, path)),
            }
        }
        unreachable!("there are fewer files than numbers")
    }

    /// A folder in the lab's for the files of a program on this host.
    pub(crate) fn folder(&self, label: &str) -> Result<PathBuf> {
        let path = self.run_folder.join(format!("{}-{label}", self.name));
        fs::create_dir_all(&path).map_err(Error::io("create", path.display()))?;
        Ok(path)
    }

    /// Starts a command whose output goes to a file in the lab's folder, a new one for each process. It is killed when
    /// the value is dropped.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn spawn(&self, label: &str, command: &mut Command) -> Result<Process> {
        let (file, log) = self.new_file(label, "log")?;
        let stdout = file.try_clone().map_err(Error::io("duplicate", log.display()))?;
        self.start(label, command, stdout, (file, log))
    }

    /// As [`Self::spawn`], with another file for standard output.
    pub(crate) fn spawn_into(&self, label: &str, command: &mut Command, stdout: File) -> Result<Process> {
        let log = self.new_file(label, "log")?;
        self.start(label, command, stdout, log)
    }

    fn start(
        &self,
        label: &str,
        command: &mut Command,
        stdout: File,
        (stderr, log): (File, PathBuf),
    ) -> Result<Process> {
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .map_err(Error::io("start", format!("{command:?}")))?;
        Ok(Process {
            child,
            log,
            label: format!("{label} on {}", self.name),
        })
    }
}

/// A process of the lab.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    label: String,
}

impl Process {
    /// Its process number. The program replaces the shell and `nsenter` that started it, so it is the program's own.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Waits until its output contains `text`.
    ///
    /// # Errors
    ///
    /// If it ends before, or takes longer than `limit`; with its output.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            if self.log().contains(text) {
                return Ok(());
            }
            self.still_runs(|| format!("it said {text:?}"))?;
            if Instant::now() > end {
                return Err(self.timed_out(format!("it says {text:?}"), limit));
            }
            thread::sleep(POLL);
        }
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    ///
    /// If that cannot be found out.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(Error::io("wait for", &self.label))
    }

    /// An error if it has ended before what is waited for.
    pub(crate) fn still_runs(&mut self, awaited: impl FnOnce() -> String) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => Err(Error::Ended {
                process: self.label.clone(),
                status,
                awaited: awaited(),
                log: self.log(),
            }),
        }
    }

    /// The error that `awaited` did not come in time.
    pub(crate) fn timed_out(&self, awaited: String, limit: Duration) -> Error {
        Error::TimedOut {
            process: self.label.clone(),
            awaited,
            limit,
            log: self.log(),
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).map_err(Error::io("signal", &self.label))
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    ///
    /// If it takes longer than `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > end {
                return Err(self.timed_out("it ends".to_owned(), limit));
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Neither fails for a child that has not been waited for; one that has ended is only waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
