//! Debian's package manager.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Result, bail};

use super::packages::find_program;
use crate::command::{is_root, run, run_shown};

/// Pauses between the attempts of something that needs the network.
const PAUSES: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(20)];

/// apt-get of this machine. The package lists are fetched once, before the first question or installation.
#[derive(Debug, Default)]
pub(crate) struct Apt {
    lists_are_fresh: bool,
}

impl Apt {
    /// `None` on a system without apt-get.
    pub(crate) fn find() -> Option<Self> {
        find_program("apt-get").map(|_| Self::default())
    }

    /// Whether a package of this name can be installed.
    pub(crate) fn offers(&mut self, package: &str) -> Result<bool> {
        self.refresh()?;
        let output = Command::new("apt-cache")
            .args(["policy", package])
            .stdin(Stdio::null())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().any(|line| {
            line.trim_start()
                .strip_prefix("Candidate:")
                .is_some_and(|version| version.trim() != "(none)")
        }))
    }

    /// Installs packages; their services are not started.
    pub(crate) fn install(&mut self, packages: &BTreeSet<String>) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        self.refresh()?;
        let names: Vec<&str> = packages.iter().map(String::as_str).collect();
        let shown = format!("apt-get install {}", names.join(" "));
        retry(|| {
            run_shown(
                Command::new("sh")
                    .args(["-c", include_str!("apt.sh"), "apt.sh"])
                    .args(&names),
                &shown,
            )
        })
    }

    /// Keeps a service from starting at the next boot; installing its package has just enabled it.
    pub(crate) fn disable_service(service: &str) -> Result<()> {
        match find_program("update-rc.d") {
            Some(program) => run(Command::new(program).args([service, "disable"])),
            None => Ok(()),
        }
    }

    fn refresh(&mut self) -> Result<()> {
        if self.lists_are_fresh {
            return Ok(());
        }
        if !is_root()? {
            bail!("installing Debian packages needs root: run `cargo xtask setup` once as root");
        }
        let result = retry(|| {
            let options = ["-o", "Acquire::Retries=5", "-o", "DPkg::Lock::Timeout=300"];
            run(Command::new("apt-get")
                .args(["--quiet", "--quiet", "update"])
                .args(options))
        });
        if let Err(error) = result {
            // One of somebody's other repositories may be away for good; what is needed may be listed all the same.
            eprintln!("{error:#}; going on with the package lists that are there");
        }
        self.lists_are_fresh = true;
        Ok(())
    }
}

/// Runs something again, after a pause, when it failed: networks and mirrors have bad moments.
fn retry(mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    for pause in PAUSES {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) => eprintln!("{error:#}; trying again in {} s", pause.as_secs()),
        }
        thread::sleep(pause);
    }
    attempt()
}
