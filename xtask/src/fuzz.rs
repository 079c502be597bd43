//! `cargo xtask fuzz`: libFuzzer on the fuzz targets of lb-tests.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::{
    command::{cargo, clean, run, workspace},
    setup::{Wanted, setup},
    steps::target,
};

/// The targets: modules of `lb_tests::fuzz`, and the longest input (bytes) that is tried on each.
pub(crate) const TARGETS: [(&str, u32); 2] = [("packets", 1_024), ("manifests", 4_096)];

/// What the compiler adds for libFuzzer: counters of edges and of comparisons. Stable flags all of them, so that the
/// compiler of the host packages does; the code has no `unsafe` that a sanitizer would watch.
const INSTRUMENT: [&str; 9] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// Tries `runs` inputs on a target, or on each. An input that breaks a rule is left in `lb-tests/fuzz/<target>`, where
/// every test run checks it from then on.
pub(crate) fn fuzz(only: Option<&str>, runs: u64) -> Result<()> {
    setup(Wanted::FUZZ)?;
    let folder = target()?.join("fuzz");
    // A target triple, though it is the host's own: build scripts and macros are not to be instrumented.
    let triple = host_triple()?;
    let mut build = cargo(&[
        "build",
        "--release",
        "--package",
        "lb-fuzz",
        "--features",
        "libfuzzer",
    ]);
    clean(&mut build);
    run(build
        .args(["--target", &triple])
        .env("CARGO_TARGET_DIR", &folder)
        .env("RUSTFLAGS", INSTRUMENT.join(" "))
        // The targets run natively; and these flags are none for the compiler of the kernel programs.
        .env("FAIRLEAD_SKIP_EBPF", "1"))?;
    for (name, longest) in TARGETS {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let corpus = folder.join("corpus").join(name);
        fs::create_dir_all(&corpus).with_context(|| format!("create {}", corpus.display()))?;
        let kept = workspace().join("lb-tests/fuzz").join(name);
        let program = folder.join(&triple).join("release").join(format!("fuzz-{name}"));
        run(std::process::Command::new(program)
            .arg(&corpus)
            .arg(&kept)
            .args(seeds(name))
            .arg(format!("-runs={runs}"))
            .arg(format!("-max_len={longest}"))
            .arg(format!("-artifact_prefix={}/", kept.display()))
            .args(["-timeout=20", "-print_final_stats=1", "-verbosity=0"]))?;
    }
    Ok(())
}

/// Folders of inputs that are there already.
fn seeds(name: &str) -> Vec<std::path::PathBuf> {
    let examples = workspace().join("examples");
    if name == "manifests" && Path::is_dir(&examples) {
        vec![examples]
    } else {
        Vec::new()
    }
}

fn host_triple() -> Result<String> {
    let output = std::process::Command::new("rustc")
        .arg("-vV")
        .output()
        .context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(ToOwned::to_owned)
        .context("rustc -vV names no host")
}
