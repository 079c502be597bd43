//! `cargo xtask setup`: finds or installs everything that building and testing need.

mod apt;
mod ebpf;
mod packages;
mod tools;

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, Result, bail};
use lb_build::{Error, Host, Toolchain};

pub(crate) use self::tools::Tool;
use self::{
    apt::Apt,
    packages::{COMPILER, LAB, Package},
};

/// What a step needs. Every step needs the eBPF toolchain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// The programs that the lab runs.
    pub(crate) lab: bool,
    /// Subcommands of cargo.
    pub(crate) tools: &'static [Tool],
}

impl Wanted {
    /// What `setup` alone installs: all that a developer's day needs.
    pub(crate) const DEVELOPMENT: Self = Self {
        lab: true,
        tools: &[Tool::Nextest, Tool::Rustfmt, Tool::Clippy],
    };
    /// What the demo needs.
    pub(crate) const DEMO: Self = Self {
        lab: true,
        tools: &[],
    };
    /// What the tests need.
    pub(crate) const TEST: Self = Self {
        lab: true,
        tools: &[Tool::Nextest],
    };
    /// What CI needs.
    pub(crate) const CI: Self = Self {
        lab: true,
        tools: &[Tool::Nextest, Tool::Rustfmt, Tool::Clippy, Tool::Deny],
    };
}

/// What is not there yet.
#[derive(Debug)]
struct Missing {
    packages: Vec<&'static Package>,
    toolchain: Option<Error>,
    tools: Vec<Tool>,
}

impl Missing {
    fn find(wanted: Wanted) -> Result<Self> {
        let toolchain = match lb_build::find(&Host) {
            Ok(_) => None,
            Err(error) if error.is_missing_toolchain() => Some(error),
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            packages: if wanted.lab {
                packages::missing(&LAB)
            } else {
                Vec::new()
            },
            toolchain,
            tools: wanted
                .tools
                .iter()
                .copied()
                .filter(|tool| tool.is_missing())
                .collect(),
        })
    }

    fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.toolchain.is_none() && self.tools.is_empty()
    }

    /// One line for each thing that will be installed.
    fn lines(&self) -> Vec<String> {
        let packages = self
            .packages
            .iter()
            .map(|package| format!("Debian package {}: {}", package.name, package.reason));
        let toolchain = self.toolchain.iter().flat_map(|error| match error {
            Error::NoLinker { llvm, .. } => vec![format!(
                "bpf-linker for LLVM {} (about 1 minute of compiling) and that LLVM's development package",
                llvm.major
            )],
            _ => vec![
                format!("Debian packages {}: the compiler of the kernel programs", COMPILER.join(" ")),
                "bpf-linker for that compiler's LLVM (about 1 minute of compiling), LLVM's development package"
                    .to_owned(),
            ],
        });
        packages
            .chain(toolchain)
            .chain(self.tools.iter().map(Tool::to_string))
            .collect()
    }
}

/// Installs what is missing. Says first what that is; says nothing when there is nothing to do.
pub(crate) fn setup(wanted: Wanted) -> Result<()> {
    let missing = Missing::find(wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("setup will install:");
    for line in missing.lines() {
        eprintln!("  - {line}");
    }
    if let Some(error) = &missing.toolchain {
        eprintln!("because there is {error}");
    }

    let mut apt = Apt::find();
    install_packages(&missing, apt.as_mut())?;
    if missing.toolchain.is_some() {
        ebpf::install(&mut apt)?;
    }
    for tool in &missing.tools {
        tool.install().with_context(|| format!("cannot install {tool}"))?;
    }
    let left = Missing::find(wanted)?;
    if !left.is_empty() {
        bail!(
            "setup ran and these are still missing:\n  - {}",
            left.lines().join("\n  - ")
        );
    }
    Ok(())
}

/// `cargo xtask setup`: installs, then tells what there is.
pub(crate) fn setup_and_tell() -> Result<()> {
    setup(Wanted::DEVELOPMENT)?;
    let Toolchain { compiler, linker } = lb_build::find(&Host)?;
    println!("everything is there: {compiler}; {linker}");
    Ok(())
}

fn install_packages(missing: &Missing, apt: Option<&mut Apt>) -> Result<()> {
    let Some(apt) = apt else {
        let programs = missing.packages.iter().map(|package| {
            format!(
                "  - {} (Debian: {}): {}",
                package.program, package.name, package.reason
            )
        });
        let mut lines: Vec<String> = programs.collect();
        if missing.toolchain.is_some() && !ebpf::needs_cargo_only() {
            lines.push(ebpf::by_hand());
        }
        if lines.is_empty() {
            return Ok(());
        }
        bail!(
            "this system has no apt-get, so install by hand, then run `cargo xtask setup` again:\n{}",
            lines.join("\n")
        );
    };
    let names: BTreeSet<String> = missing
        .packages
        .iter()
        .map(|package| package.name.to_owned())
        .collect();
    apt.install(&names)?;
    // Only services of packages that were not there before: nobody wanted those to run yet.
    for service in missing.packages.iter().filter_map(|package| package.service) {
        if Path::new("/etc/init.d").join(service).exists() {
            Apt::disable_service(service)?;
        }
    }
    Ok(())
}
