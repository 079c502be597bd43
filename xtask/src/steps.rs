//! The steps of development that are not setup.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    command::{cargo, ensure_root, run, workspace},
    setup::{Tool, Wanted, setup},
};

/// Tells tests and demo where the agent is.
const BINARY_VARIABLE: &str = "FAIRLEAD_BIN";

/// What cargo does to all packages but the kernel programs, which only their own compiler understands.
const HOST_PACKAGES: [&str; 3] = ["--workspace", "--exclude", "lb-ebpf"];

/// Builds the agent and returns its path.
pub(crate) fn build(release: bool) -> Result<PathBuf> {
    lb_build::find(&lb_build::Host)
        .context("the kernel programs cannot be built: run `cargo xtask setup`")?;
    build_binary("lb-userspace", "fairlead", release)
}

/// Runs every test; `arguments` go to nextest.
pub(crate) fn test(arguments: &[OsString]) -> Result<()> {
    ensure_root(
        "test",
        "; `cargo test -p lb-common -p lb-userspace` runs the tests that need neither",
    )?;
    setup(Wanted::TEST)?;
    let binary = build(false)?;
    run(cargo(&["test", "--quiet", "--doc"]).args(HOST_PACKAGES))?;
    // Last, so that the runner's count is the last line.
    run(cargo(&["nextest", "run"])
        .args(HOST_PACKAGES)
        .args(arguments)
        .env(BINARY_VARIABLE, binary))
}

/// Plays the examples in the lab; `arguments` go to the demo.
pub(crate) fn demo(arguments: &[OsString]) -> Result<()> {
    ensure_root("demo", "")?;
    setup(Wanted::DEMO)?;
    let agent = build(false)?;
    let demo = build_binary("lb-tests", "fairlead-demo", false)?;
    run(Command::new(demo)
        .args(arguments)
        .current_dir(workspace())
        .env(BINARY_VARIABLE, agent))
}

/// Formats the sources, or only checks them.
pub(crate) fn fmt(check: bool) -> Result<()> {
    setup_tool(Tool::Rustfmt)?;
    let mut command = cargo(&["fmt", "--all"]);
    if check {
        command.arg("--check");
    }
    run(&mut command)
}

/// Runs clippy over the host's packages and the compiler's lints over the kernel programs; a warning is an error.
pub(crate) fn lint() -> Result<()> {
    setup_tool(Tool::Clippy)?;
    run(cargo(&["clippy"])
        .args(HOST_PACKAGES)
        .args(["--all-targets", "--", "-D", "warnings"]))?;
    lint_kernel_programs()
}

/// Makes the documentation; a warning is an error.
pub(crate) fn docs() -> Result<()> {
    let mut command = cargo(&["doc", "--no-deps"]);
    run(command.args(HOST_PACKAGES).env("RUSTDOCFLAGS", "-D warnings"))
}

/// Checks licences, bans and sources of the dependencies. Advisories need a database from the network: a step that
/// fails when that is away, or when an advisory appears overnight, cannot gate a change.
pub(crate) fn deny() -> Result<()> {
    setup_tool(Tool::Deny)?;
    run(&mut cargo(&["deny", "check", "licenses", "bans", "sources"]))
}

/// Everything that `.ci/run` does: the tests come last, so that their count ends the output.
pub(crate) fn ci() -> Result<()> {
    ensure_root("ci", "")?;
    setup(Wanted::CI)?;
    fmt(true)?;
    lint()?;
    docs()?;
    deny()?;
    test(&[])
}

fn setup_tool(tool: Tool) -> Result<()> {
    if tool.is_missing() { tool.install() } else { Ok(()) }
}

fn build_binary(package: &str, name: &str, release: bool) -> Result<PathBuf> {
    let mut command = cargo(&["build", "--package", package, "--bin", name]);
    if release {
        command.arg("--release");
    }
    run(&mut command)?;
    let binary = target()?
        .join(if release { "release" } else { "debug" })
        .join(name);
    ensure!(binary.is_file(), "{} was not built", binary.display());
    Ok(binary)
}

/// The target folder: cargo put xtask itself into the folder of a profile in there.
fn target() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find xtask's own path")?;
    own.parent()
        .and_then(Path::parent)
        .map(Path::to_owned)
        .context("xtask lies outside of a target folder: run it with `cargo xtask`")
}

fn lint_kernel_programs() -> Result<()> {
    let toolchain = lb_build::find(&lb_build::Host).context("run `cargo xtask setup`")?;
    let target = target()?.join("ebpf");
    eprintln!("==> lints of the kernel programs");
    let object = lb_build::build(
        &toolchain,
        &lb_build::Request {
            workspace: &workspace(),
            target_dir: &target,
            output: &target.join("fairlead-ebpf.lint"),
            arch: std::env::consts::ARCH,
            endian: if cfg!(target_endian = "big") {
                lb_build::Endian::Big
            } else {
                lb_build::Endian::Little
            },
        },
    )?;
    if !object.warnings.is_empty() {
        bail!(
            "the kernel programs have warnings:\n{}",
            object.warnings.join("\n\n")
        );
    }
    Ok(())
}
