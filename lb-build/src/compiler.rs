//! The search for a compiler that can build `core` for BPF.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::{CompilerVersion, Error, Machine, Release};

/// Names the rustc to use for the kernel programs, ahead of every other.
pub const RUSTC_VARIABLE: &str = "FAIRLEAD_EBPF_RUSTC";

/// Names the cargo that goes with [`RUSTC_VARIABLE`]; without it, the one beside that rustc is used.
pub const CARGO_VARIABLE: &str = "FAIRLEAD_EBPF_CARGO";

/// Where distributions put their compiler.
const DISTRIBUTION_BIN: &str = "/usr/bin";

/// Where a compiler came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// [`RUSTC_VARIABLE`] names it.
    Override,
    /// rustup's toolchain `nightly`.
    RustupNightly,
    /// The distribution's packages.
    Distribution,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Override => RUSTC_VARIABLE,
            Self::RustupNightly => "rustup nightly",
            Self::Distribution => "distribution",
        })
    }
}

/// A compiler whose source is there, so that it can build `core` for a BPF target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// The compiler itself, never a rustup proxy that was chosen here.
    pub rustc: PathBuf,
    /// The cargo of the same toolchain.
    pub cargo: PathBuf,
    /// Where it was found.
    pub origin: Origin,
    /// What it says about itself.
    pub version: CompilerVersion,
}

impl Compiler {
    /// Where the linter of the same toolchain is, if it is installed.
    #[must_use]
    pub fn clippy(&self) -> PathBuf {
        self.rustc.with_file_name("cargo-clippy")
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rustc,
            origin,
            version,
            ..
        } = self;
        write!(
            f,
            "rustc {} (LLVM {}) {} [{origin}]",
            version.release,
            version.llvm,
            rustc.display()
        )
    }
}

/// Finds the compilers that can build the kernel programs, best first; there is at least one in the answer.
///
/// # Errors
///
/// [`Error::Override`] when [`RUSTC_VARIABLE`] names a compiler that cannot be used: a wish that cannot be met is an
/// error, not a reason to take another. [`Error::NoCompiler`] when no candidate fits.
pub fn find_compilers(machine: &impl Machine) -> Result<Vec<Compiler>, Error> {
    if let Some(rustc) = machine.variable(RUSTC_VARIABLE) {
        let rustc = PathBuf::from(rustc);
        let cargo = match machine.variable(CARGO_VARIABLE) {
            Some(cargo) => PathBuf::from(cargo),
            None => rustc.with_file_name("cargo"),
        };
        return inspect(machine, rustc, cargo, Origin::Override)
            .map(|compiler| vec![compiler])
            .map_err(|reason| Error::Override {
                variable: RUSTC_VARIABLE,
                reason,
            });
    }

    let (mut found, mut tried) = (Vec::new(), Vec::new());
    let nightly = rustup_nightly(machine).map(|bin| (bin, Origin::RustupNightly));
    let distribution = Some((PathBuf::from(DISTRIBUTION_BIN), Origin::Distribution));
    for (bin, origin) in [nightly, distribution].into_iter().flatten() {
        match inspect(machine, bin.join("rustc"), bin.join("cargo"), origin) {
            Ok(compiler) => found.push(compiler),
            Err(reason) => tried.push(format!("{origin}: {reason}")),
        }
    }
    if found.is_empty() {
        Err(Error::NoCompiler { tried })
    } else {
        Ok(found)
    }
}

/// The `bin` folder of rustup's nightly toolchain, wherever rustup's proxies would lead.
fn rustup_nightly(machine: &impl Machine) -> Option<PathBuf> {
    let toolchains = machine.rustup_home()?.join("toolchains");
    let name = machine
        .entries(&toolchains)
        .into_iter()
        .find(|name| is_nightly(name))?;
    Some(toolchains.join(name).join("bin"))
}

/// `nightly` and `nightly-x86_64-unknown-linux-gnu` are the channel; `nightly-2026-05-20-…` is one day of it, which
/// somebody pinned for something else.
fn is_nightly(name: &str) -> bool {
    match name.strip_prefix("nightly") {
        Some("") => true,
        Some(rest) => rest
            .strip_prefix('-')
            .is_some_and(|host| !host.starts_with(|c: char| c.is_ascii_digit())),
        None => false,
    }
}

/// Checks that a candidate is complete and new enough; the error says what is missing.
fn inspect(
    machine: &impl Machine,
    rustc: PathBuf,
    cargo: PathBuf,
    origin: Origin,
) -> Result<Compiler, String> {
    for program in [&rustc, &cargo] {
        if !machine.is_file(program) {
            return Err(format!("{} does not exist", program.display()));
        }
    }
    let ask = |arguments: &[&str]| {
        machine
            .output(&rustc, arguments)
            .map_err(|error| format!("{} {} failed: {error}", rustc.display(), arguments.join(" ")))
    };
    let version = ask(&["-vV"])?;
    let version = CompilerVersion::parse(&version).ok_or_else(|| {
        format!(
            "{} -vV does not tell release, host and LLVM version",
            rustc.display()
        )
    })?;
    if let Some(least) = least_release()
        && version.release < least
    {
        return Err(format!(
            "{} is {}, needed is {least} or newer",
            rustc.display(),
            version.release
        ));
    }
    let sysroot = ask(&["--print", "sysroot"])?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    if !machine.is_dir(&source) {
        return Err(format!(
            "{} has no source of core ({} is missing)",
            rustc.display(),
            source.display()
        ));
    }
    Ok(Compiler {
        rustc,
        cargo,
        origin,
        version,
    })
}

/// The oldest compiler that the workspace supports (`rust-version` in its Cargo.toml).
fn least_release() -> Option<Release> {
    Release::parse(env!("CARGO_PKG_RUST_VERSION"))
}
