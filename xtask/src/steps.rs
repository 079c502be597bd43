//! The steps of development that are not setup.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    command::{cargo, ensure_root, run, workspace},
    image,
    setup::{Wanted, setup},
};

/// Tells tests and demo where the agent is.
const BINARY_VARIABLE: &str = "FAIRLEAD_BIN";

/// Tells tests where the static agent is that goes into the image.
const STATIC_BINARY_VARIABLE: &str = "FAIRLEAD_STATIC_BIN";

/// The programs that steps build and run.
const AGENT: &str = "fairlead";
const DEMO: &str = "fairlead-demo";
const BENCH: &str = "fairlead-bench";
const BUDGET: &str = "fairlead-budget";

/// What cargo does to all packages but the kernel programs, which only their own compiler understands.
const HOST_PACKAGES: [&str; 3] = ["--workspace", "--exclude", "lb-ebpf"];

/// Builds the agent and returns its path.
pub(crate) fn build(release: bool) -> Result<PathBuf> {
    if release {
        build_programs(&["--package", "lb-userspace", "--release"], &[AGENT])?;
        return program("release", AGENT);
    }
    build_programs(&HOST_PACKAGES, &[AGENT])?;
    program("debug", AGENT)
}

/// Runs every test; `arguments` go to nextest.
pub(crate) fn test(arguments: &[OsString]) -> Result<()> {
    ensure_root(
        "test",
        "; `cargo test -p lb-common -p lb-userspace` runs the tests that need neither",
    )?;
    setup(Wanted::TEST)?;
    // First, because the ordinary agent takes its place.
    let static_binary = image::static_agent(false)?;
    let binary = build(false)?;
    run(cargo(&["test", "--quiet", "--doc"]).args(HOST_PACKAGES))?;
    // Last, so that the runner's count is the last line.
    run(cargo(&["nextest", "run"])
        .args(HOST_PACKAGES)
        .args(arguments)
        .env(BINARY_VARIABLE, binary)
        .env(STATIC_BINARY_VARIABLE, static_binary))
}

/// Plays the examples in the lab; `arguments` go to the demo.
pub(crate) fn demo(arguments: &[OsString]) -> Result<()> {
    ensure_root("demo", "")?;
    setup(Wanted::DEMO)?;
    build_programs(&HOST_PACKAGES, &[AGENT, DEMO])?;
    let mut demo = Command::new(program("debug", DEMO)?);
    demo.args(arguments)
        .env(BINARY_VARIABLE, program("debug", AGENT)?);
    run(demo.current_dir(workspace()))
}

/// Measures Fairlead beside other proxies; `arguments` go to the benchmark.
pub(crate) fn bench(arguments: &[OsString]) -> Result<()> {
    ensure_root("bench", "")?;
    setup(Wanted::BENCH)?;
    build_programs(&[&HOST_PACKAGES[..], &["--release"]].concat(), &[AGENT, BENCH])?;
    let mut bench = Command::new(program("release", BENCH)?);
    bench
        .args(arguments)
        .env(BINARY_VARIABLE, program("release", AGENT)?);
    run(bench.current_dir(workspace()))
}

/// Shows what the kernel programs cost the verifier, and records it if `write`.
pub(crate) fn budget(write: bool) -> Result<()> {
    ensure_root("budget", "")?;
    setup(Wanted::TEST)?;
    build_programs(&HOST_PACKAGES, &[BUDGET])?;
    let mut budget = Command::new(program("debug", BUDGET)?);
    if write {
        budget.arg("--write");
    }
    run(budget.current_dir(workspace()))
}

/// Formats the sources, or only checks them.
pub(crate) fn fmt(check: bool) -> Result<()> {
    setup(Wanted::FMT)?;
    let mut command = cargo(&["fmt", "--all"]);
    if check {
        command.arg("--check");
    }
    run(&mut command)
}

/// Runs clippy over the host's packages and, with the compiler that builds them, over the kernel programs; a warning
/// is an error.
pub(crate) fn lint() -> Result<()> {
    setup(Wanted::LINT)?;
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
    setup(Wanted::DENY)?;
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
    // The profile that tries tests of the lab again, in .config/nextest.toml.
    test(&["--profile".into(), "ci".into()])
}

/// Builds programs of the packages that `selection` names.
///
/// Steps that follow each other select the same packages: what cargo compiles once depends on the features that all
/// selected packages ask for together.
pub(crate) fn build_programs(selection: &[&str], names: &[&str]) -> Result<()> {
    lb_build::find(&lb_build::Host)
        .context("the kernel programs cannot be built: run `cargo xtask setup`")?;
    let names = names.iter().flat_map(|name| ["--bin", name]);
    run(cargo(&["build"]).args(selection).args(names))
}

/// The path of a program that was built.
pub(crate) fn program(profile: &str, name: &str) -> Result<PathBuf> {
    let path = target()?.join(profile).join(name);
    ensure!(path.is_file(), "{} was not built", path.display());
    Ok(path)
}

/// The target folder: cargo put xtask itself into the folder of a profile in there.
pub(crate) fn target() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find xtask's own path")?;
    own.parent()
        .and_then(Path::parent)
        .map(Path::to_owned)
        .context("xtask lies outside of a target folder: run it with `cargo xtask`")
}

fn lint_kernel_programs() -> Result<()> {
    let toolchain = lb_build::find(&lb_build::Host).context("run `cargo xtask setup`")?;
    let request = lb_build::Request {
        workspace: &workspace(),
        target_dir: &target()?.join("ebpf"),
        arch: std::env::consts::ARCH,
        endian: if cfg!(target_endian = "big") {
            lb_build::Endian::Big
        } else {
            lb_build::Endian::Little
        },
        // The programs of the benchmark are checked with the others.
        features: "bench",
    };
    eprintln!("==> cargo clippy on the kernel programs");
    Ok(lb_build::lint(&toolchain, &request)?)
}
