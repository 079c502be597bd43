//! The kernel programs with those of the benchmark, built when it starts: nobody else needs them.

use std::{env, fs, path::Path};

use anyhow::{Context as _, Result};
use lb_build::{Endian, Request};

/// Builds the object and reads it.
///
/// # Errors
///
/// If there is no eBPF toolchain, or the programs do not build, with what the compiler said.
pub(crate) fn build() -> Result<Vec<u8>> {
    let toolchain = lb_build::find(&lb_build::Host)
        .context("the kernel programs cannot be built: run `cargo xtask setup`")?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the package lies outside of its workspace")?;
    let own = env::current_exe().context("cannot find the benchmark's own path")?;
    let target = own
        .parent()
        .and_then(Path::parent)
        .context("the benchmark lies outside of a target folder")?;
    // The folder of the agent's build: `core` and lb-common are there already.
    let target_dir = target.join("ebpf");
    let request = Request {
        workspace,
        target_dir: &target_dir,
        arch: env::consts::ARCH,
        endian: if cfg!(target_endian = "big") {
            Endian::Big
        } else {
            Endian::Little
        },
        features: "bench",
    };
    let object = target_dir.join("fairlead-bench-ebpf");
    fs::create_dir_all(&target_dir).with_context(|| format!("create {}", target_dir.display()))?;
    let built = lb_build::build(&toolchain, &request, &object)?;
    fs::read(&built.path).with_context(|| format!("read {}", built.path.display()))
}
