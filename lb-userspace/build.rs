//! Compiles the kernel programs and tells the agent where the object lies.
//!
//! `FAIRLEAD_EBPF_OBJECT` names the object for `include_bytes!`. Without an eBPF toolchain it is an empty file, so that
//! `cargo check` and the pure parts of the agent work everywhere; the agent refuses to run with it.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use lb_build::{Endian, Request};

/// What the object is made of, relative to the workspace. lb-build itself is a dependency, so cargo watches it.
const SOURCES: [&str; 7] = [
    "Cargo.lock",
    "Cargo.toml",
    "lb-common/Cargo.toml",
    "lb-common/src",
    "lb-ebpf/Cargo.toml",
    "lb-ebpf/src",
    "lb-userspace/build.rs",
];

/// Set it to work on the agent alone: the kernel programs are not compiled.
const SKIP_VARIABLE: &str = "FAIRLEAD_SKIP_EBPF";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Cargo shows what a failed build script wrote to standard error.
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = manifest_dir
        .parent()
        .ok_or("the package lies outside of its workspace")?;
    let object = out_dir.join("fairlead-ebpf");
    println!("cargo::rustc-env=FAIRLEAD_EBPF_OBJECT={}", object.display());
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    for name in [
        lb_build::RUSTC_VARIABLE,
        lb_build::CARGO_VARIABLE,
        lb_build::LINKER_VARIABLE,
        SKIP_VARIABLE,
    ] {
        println!("cargo::rerun-if-env-changed={name}");
    }

    if env::var_os(SKIP_VARIABLE).is_some_and(|value| !value.is_empty()) {
        return placeholder(&object, &format!("{SKIP_VARIABLE} is set"));
    }
    let toolchain = match lb_build::find(&lb_build::Host) {
        Ok(toolchain) => toolchain,
        Err(error) if error.is_missing_toolchain() => {
            let reason = format!("{error}; `cargo xtask setup` installs what is missing");
            return placeholder(&object, &reason);
        }
        Err(error) => return Err(error.into()),
    };
    // A new compiler or linker makes a new object.
    println!("cargo::rerun-if-changed={}", toolchain.compiler.rustc.display());
    println!("cargo::rerun-if-changed={}", toolchain.linker.path.display());
    let endian = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => Endian::Big,
        _ => Endian::Little,
    };
    let target_dir = target_root(&out_dir).join("ebpf");
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    let request = Request {
        workspace,
        target_dir: &target_dir,
        arch: &arch,
        endian,
        features: "",
    };
    let built = lb_build::build(&toolchain, &request, &object)?;
    for line in built.warnings.iter().flat_map(|warning| warning.lines()) {
        println!("cargo::warning={line}");
    }
    Ok(())
}

/// Puts an empty object in place and says why.
fn placeholder(object: &Path, reason: &str) -> Result<(), Box<dyn Error>> {
    fs::write(object, [])?;
    println!("cargo::warning=the agent is built without its kernel programs and will not run: {reason}");
    // A file that never exists makes cargo ask again each time, so that the toolchain is noticed once it is there.
    println!(
        "cargo::rerun-if-changed={}",
        object.with_extension("missing").display()
    );
    Ok(())
}

/// The folder of the outer cargo's build, which all its profiles share: cargo marks it with a CACHEDIR.TAG.
fn target_root(out_dir: &Path) -> &Path {
    out_dir
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
        .unwrap_or(out_dir)
}

fn variable(name: &str) -> Result<String, Box<dyn Error>> {
    env::var(name).map_err(|error| format!("{name}: {error}").into())
}
