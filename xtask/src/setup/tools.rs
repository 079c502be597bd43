//! Programs that cargo or rustup install.

use std::{
    ffi::OsStr,
    fmt,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::packages::find_program;
use crate::command::{cargo, clean, run};

/// A subcommand of cargo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// The test runner.
    Nextest,
    /// Checks licences, duplicates and sources of the dependencies.
    Deny,
    /// The formatter.
    Rustfmt,
    /// The linter.
    Clippy,
}

impl Tool {
    /// The subcommand as cargo knows it.
    fn subcommand(self) -> &'static str {
        match self {
            Self::Nextest => "nextest",
            Self::Deny => "deny",
            Self::Rustfmt => "fmt",
            Self::Clippy => "clippy",
        }
    }

    /// Whether cargo can run it.
    pub(crate) fn is_missing(self) -> bool {
        match self {
            Self::Nextest | Self::Deny => self.program().is_none(),
            // rustup puts its proxies in place whether the component is there or not: only running one tells.
            Self::Rustfmt | Self::Clippy => {
                let status = cargo(&[self.subcommand(), "--version"])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status();
                !status.is_ok_and(|status| status.success())
            }
        }
    }

    fn program(self) -> Option<std::path::PathBuf> {
        let name = format!("cargo-{}", self.subcommand());
        let own = lb_build::Machine::cargo_home(&lb_build::Host).map(|home| home.join("bin").join(&name));
        own.filter(|file| file.is_file()).or_else(|| find_program(&name))
    }

    /// Installs it.
    pub(crate) fn install(self) -> Result<()> {
        // These tools wait for other programs most of the time. Unoptimised they compile in less than half the time and are
        // no slower to work with.
        let quick = [
            ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
            ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
        ];
        let quick = quick.map(|(name, value)| (name, OsStr::new(value)));
        match self {
            Self::Nextest => cargo_install(
                &[
                    "cargo-nextest",
                    "--version",
                    "^0.9",
                    "--locked",
                    "--no-default-features",
                ]
                .into_iter()
                .chain(["--features", "default-no-update"])
                .collect::<Vec<_>>(),
                &quick,
            ),
            Self::Deny => cargo_install(
                &[
                    "cargo-deny",
                    "--version",
                    "^0.20",
                    "--locked",
                    "--no-default-features",
                ],
                &quick,
            ),
            Self::Rustfmt => component("rustfmt", None),
            Self::Clippy => component("clippy", None),
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nextest => "cargo-nextest, the test runner (1 to 3 minutes of compiling)",
            Self::Deny => "cargo-deny, the check of dependencies (1 to 3 minutes of compiling)",
            Self::Rustfmt => "rustfmt, the formatter",
            Self::Clippy => "clippy, the linter",
        })
    }
}

/// Runs `cargo install` in an environment without the settings of this workspace.
pub(crate) fn cargo_install(arguments: &[impl AsRef<OsStr>], variables: &[(&str, &OsStr)]) -> Result<()> {
    let mut command = cargo(&["install", "--quiet"]);
    clean(&mut command);
    command
        .args(arguments)
        .envs(variables.iter().copied())
        .env("CARGO_NET_RETRY", "10")
        .current_dir("/");
    run(&mut command)
}

/// Adds a component to a toolchain of rustup: the one that runs xtask, unless another is named.
pub(crate) fn component(name: &str, toolchain: Option<&str>) -> Result<()> {
    let by_hand = format!("install {name} with the package manager that Rust came from");
    let rustup = find_program("rustup").context(by_hand)?;
    let mut command = Command::new(rustup);
    command.args(["component", "add", name]);
    if let Some(toolchain) = toolchain {
        command.args(["--toolchain", toolchain]);
    }
    run(&mut command)
}
