//! The eBPF toolchain: a compiler with its source, and a bpf-linker for its LLVM.

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_build::{Compiler, Error, Host, Origin, Toolchain};

use super::{
    apt::Apt,
    packages::{COMPILER, COMPILER_CLIPPY, LINKER_BUILD, find_program, llvm_development},
    tools::{cargo_install, component},
};

/// The series of bpf-linker that Fairlead is built with.
const LINKER_SERIES: &str = "^0.13";

/// The command line that builds bpf-linker for an LLVM.
fn linker_arguments(llvm: u32) -> [String; 7] {
    let feature = format!("llvm-{llvm}");
    [
        "bpf-linker",
        "--version",
        LINKER_SERIES,
        "--locked",
        "--no-default-features",
        "--features",
        &feature,
    ]
    .map(str::to_owned)
}

/// Installs what the toolchain that [`lb_build::find`] looks for lacks, and returns it.
pub(crate) fn install(apt: &mut Option<Apt>) -> Result<Toolchain> {
    let compiler = choose_compiler(apt)?;
    if lb_build::find_linker(&Host, compiler.version.llvm).is_err() {
        install_linker(&compiler, apt)?;
    }
    lb_build::find(&Host).context("the eBPF toolchain was installed and still cannot be used")
}

/// Whether the compiler of the kernel programs lacks its linter.
pub(crate) fn lacks_clippy() -> bool {
    !lb_build::find(&Host).is_ok_and(|toolchain| toolchain.compiler.clippy().is_file())
}

/// Installs the linter that goes with the compiler of the kernel programs.
pub(crate) fn install_clippy(apt: &mut Option<Apt>) -> Result<()> {
    let Compiler { origin, rustc, .. } = lb_build::find(&Host)?.compiler;
    match (origin, apt) {
        (Origin::Distribution, Some(apt)) => apt.install(&[COMPILER_CLIPPY.to_owned()].into()),
        (Origin::RustupNightly, _) => component("clippy", Some("nightly")),
        _ => bail!(
            "put the cargo-clippy and clippy-driver that go with {} beside it",
            rustc.display()
        ),
    }
}

/// Whether cargo alone can install what is missing: only the linker, and its LLVM is here.
pub(crate) fn needs_cargo_only() -> bool {
    let found = lb_build::find_compilers(&Host).unwrap_or_default();
    found
        .iter()
        .any(|compiler| llvm_prefix(compiler.version.llvm.major).is_some())
}

/// The best compiler for whose LLVM there is, or can be, a linker.
fn choose_compiler(apt: &mut Option<Apt>) -> Result<Compiler> {
    let found = match lb_build::find_compilers(&Host) {
        Ok(found) => found,
        Err(Error::NoCompiler { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let has_distribution = found
        .iter()
        .any(|compiler| compiler.origin == Origin::Distribution);
    for compiler in found {
        let llvm = compiler.version.llvm;
        if lb_build::find_linker(&Host, llvm).is_ok() || can_link_for(llvm.major, apt)? {
            return Ok(compiler);
        }
        eprintln!(
            "{compiler} is passed over: there is no {} for its linker",
            llvm_development(llvm.major)
        );
    }
    let Some(apt) = apt.as_mut().filter(|_| !has_distribution) else {
        bail!(by_hand())
    };
    for package in COMPILER {
        ensure!(
            apt.offers(package)?,
            "Debian's package {package} is not to be had here.\n{}",
            by_hand()
        );
    }
    apt.install(&COMPILER.map(str::to_owned).into())?;
    let found = lb_build::find_compilers(&Host)?;
    found
        .into_iter()
        .find(|compiler| compiler.origin == Origin::Distribution)
        .context("the distribution's compiler was installed and still cannot be used")
}

/// Whether a bpf-linker for this LLVM could be built here.
fn can_link_for(llvm: u32, apt: &mut Option<Apt>) -> Result<bool> {
    match (llvm_prefix(llvm), apt) {
        (Some(_), _) => Ok(true),
        (None, Some(apt)) => apt.offers(&llvm_development(llvm)),
        (None, None) => Ok(false),
    }
}

fn install_linker(compiler: &Compiler, apt: &mut Option<Apt>) -> Result<()> {
    let llvm = compiler.version.llvm.major;
    let mut packages: BTreeSet<String> = BTreeSet::new();
    if llvm_prefix(llvm).is_none() {
        packages.insert(llvm_development(llvm));
    }
    if find_program("cc").is_none() {
        packages.extend(LINKER_BUILD.map(str::to_owned));
    }
    match apt {
        Some(apt) => apt.install(&packages)?,
        None if packages.is_empty() => {}
        None => bail!(by_hand()),
    }
    let prefix =
        llvm_prefix(llvm).with_context(|| format!("LLVM {llvm} has no libraries in any known place"))?;
    cargo_install(&linker_arguments(llvm), &[("LLVM_PREFIX", prefix.as_os_str())])
}

/// The folder of an installed LLVM with headers and a library to link: `LLVM_PREFIX` when it is this LLVM, else what
/// llvm-config tells.
fn llvm_prefix(major: u32) -> Option<PathBuf> {
    let mut programs: Vec<PathBuf> = Vec::new();
    programs.extend(env::var_os("LLVM_PREFIX").map(|prefix| Path::new(&prefix).join("bin/llvm-config")));
    programs.push(format!("/usr/lib/llvm-{major}/bin/llvm-config").into());
    programs.extend(find_program(&format!("llvm-config-{major}")));
    programs.extend(find_program("llvm-config"));
    programs.into_iter().find_map(|program| {
        let release = lb_build::Release::parse(&ask(&program, "--version")?)?;
        let includes = PathBuf::from(ask(&program, "--includedir")?);
        let prefix = PathBuf::from(ask(&program, "--prefix")?);
        (release.major == major && includes.join("llvm-c/Core.h").is_file()).then_some(prefix)
    })
}

fn ask(program: &Path, argument: &str) -> Option<String> {
    let output = Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// What to do on a system whose packages xtask does not know.
pub(crate) fn by_hand() -> String {
    let (compiler, llvm) = match lb_build::find_compilers(&Host) {
        Ok(found) => (None, found[0].version.llvm.major.to_string()),
        Err(_) => (
            Some(
                "the compiler of the kernel programs: `rustup toolchain install nightly --component rust-src`",
            ),
            "N".to_owned(),
        ),
    };
    let mut lines: Vec<String> = compiler.into_iter().map(str::to_owned).collect();
    let of_compiler = if llvm == "N" {
        ", where N is the LLVM of that compiler (`rustc +nightly -vV`)"
    } else {
        ""
    };
    lines.push(format!(
        "LLVM {llvm} with its headers and shared library{of_compiler}"
    ));
    let install = linker_arguments(0)
        .join(" ")
        .replace("llvm-0", &format!("llvm-{llvm}"));
    lines.push(format!(
        "bpf-linker: `LLVM_PREFIX=<folder of LLVM {llvm}> cargo install {install}`"
    ));
    lines
        .iter()
        .map(|line| format!("  - {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
