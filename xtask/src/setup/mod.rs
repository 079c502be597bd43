//! `cargo xtask setup`: finds or installs everything that building and testing need.

mod apt;
mod ebpf;
mod packages;
mod tools;

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, Result, bail};
use lb_build::{Error, Host, Toolchain};

use self::{
    apt::Apt,
    packages::{COMPILER, FUZZ, LAB, Package},
    tools::Tool,
};

/// What a step needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// The compiler and the linker of the kernel programs.
    pub(crate) toolchain: bool,
    /// The programs that the lab runs.
    pub(crate) lab: bool,
    /// What libFuzzer is built with.
    pub(crate) fuzz: bool,
    /// The linter of the kernel programs' compiler.
    pub(crate) kernel_clippy: bool,
    /// Subcommands of cargo.
    pub(crate) tools: &'static [Tool],
}

impl Wanted {
    const NOTHING: Self = Self {
        toolchain: false,
        lab: false,
        fuzz: false,
        kernel_clippy: false,
        tools: &[],
    };
    /// What `setup` alone installs: all that a developer's day needs.
    pub(crate) const DEVELOPMENT: Self = Self {
        toolchain: true,
        lab: true,
        tools: &[Tool::Nextest, Tool::Rustfmt, Tool::Clippy],
        ..Self::NOTHING
    };
    /// What the demo needs.
    pub(crate) const DEMO: Self = Self {
        toolchain: true,
        lab: true,
        ..Self::NOTHING
    };
    /// What the benchmark needs.
    pub(crate) const BENCH: Self = Self {
        toolchain: true,
        lab: true,
        ..Self::NOTHING
    };
    /// What the tests need.
    pub(crate) const TEST: Self = Self {
        toolchain: true,
        lab: true,
        tools: &[Tool::Nextest],
        ..Self::NOTHING
    };
    /// What formatting needs.
    pub(crate) const FMT: Self = Self {
        tools: &[Tool::Rustfmt],
        ..Self::NOTHING
    };
    /// What the lints need.
    pub(crate) const LINT: Self = Self {
        toolchain: true,
        kernel_clippy: true,
        tools: &[Tool::Clippy],
        ..Self::NOTHING
    };
    /// What the check of dependencies needs.
    pub(crate) const DENY: Self = Self {
        tools: &[Tool::Deny],
        ..Self::NOTHING
    };
    /// What the fuzzer needs.
    pub(crate) const FUZZ: Self = Self {
        fuzz: true,
        ..Self::NOTHING
    };
    /// What the image needs.
    pub(crate) const IMAGE: Self = Self {
        toolchain: true,
        ..Self::NOTHING
    };
    /// What CI needs.
    pub(crate) const CI: Self = Self {
        toolchain: true,
        lab: true,
        fuzz: false,
        kernel_clippy: true,
        tools: &[Tool::Nextest, Tool::Rustfmt, Tool::Clippy, Tool::Deny],
    };
}

/// What is not there yet.
#[derive(Debug)]
struct Missing {
    packages: Vec<&'static Package>,
    toolchain: Option<Error>,
    kernel_clippy: bool,
    tools: Vec<Tool>,
}

impl Missing {
    fn find(wanted: Wanted) -> Result<Self> {
        let toolchain = match wanted.toolchain.then(|| lb_build::find(&Host)) {
            None | Some(Ok(_)) => None,
            Some(Err(error)) if error.is_missing_toolchain() => Some(error),
            Some(Err(error)) => return Err(error.into()),
        };
        Ok(Self {
            packages: [(wanted.lab, &LAB[..]), (wanted.fuzz, &FUZZ)]
                .into_iter()
                .filter(|(wanted, _)| *wanted)
                .flat_map(|(_, packages)| packages::missing(packages))
                .collect(),
            toolchain,
            kernel_clippy: wanted.kernel_clippy && ebpf::lacks_clippy(),
            tools: wanted
                .tools
                .iter()
                .copied()
                .filter(|tool| tool.is_missing())
                .collect(),
        })
    }

    fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.toolchain.is_none() && !self.kernel_clippy && self.tools.is_empty()
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
        let clippy = self
            .kernel_clippy
            .then(|| "clippy for the compiler of the kernel programs".to_owned());
        packages
            .chain(toolchain)
            .chain(clippy)
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
    let mut apt = Apt::find();
    eprintln!(
        "{}",
        if apt.is_some() {
            "setup will install:"
        } else {
            "missing:"
        }
    );
    for line in missing.lines() {
        eprintln!("  - {line}");
    }
    if let Some(error) = &missing.toolchain {
        eprintln!("because there is {error}");
    }

    install_packages(&missing, apt.as_mut())?;
    if missing.toolchain.is_some() {
        ebpf::install(&mut apt)?;
    }
    if missing.kernel_clippy {
        ebpf::install_clippy(&mut apt)?;
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
