//! The cargo invocation that builds the kernel programs.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Error, Toolchain};

/// The package of the kernel programs, and the object that it makes.
const PACKAGE: &str = "lb-ebpf";
const BINARY: &str = "fairlead-ebpf";

/// Separates flags in `CARGO_ENCODED_RUSTFLAGS`.
const FLAG_SEPARATOR: &str = "\x1f";

/// The instruction set: 32-bit operations and comparisons. Kernels know it since 5.1.
const CPU: &str = "v3";

/// Byte order of the machine that the programs will run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endian {
    /// `bpfel-unknown-none`.
    Little,
    /// `bpfeb-unknown-none`.
    Big,
}

impl Endian {
    /// The target triple of the kernel programs.
    #[must_use]
    pub fn target(self) -> &'static str {
        match self {
            Self::Little => "bpfel-unknown-none",
            Self::Big => "bpfeb-unknown-none",
        }
    }
}

/// What to build and where.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Root of the workspace that holds the package `lb-ebpf`.
    pub workspace: &'a Path,
    /// Target folder of this build alone: cargo would wait for itself in the folder of an outer cargo.
    pub target_dir: &'a Path,
    /// Architecture of the kernel, in the words of `CARGO_CFG_TARGET_ARCH`.
    pub arch: &'a str,
    /// Byte order of the kernel.
    pub endian: Endian,
    /// Features of the package to build it with, separated by commas; empty for the product.
    pub features: &'a str,
}

/// What a build gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The object file.
    pub path: PathBuf,
    /// Compiler warnings, one text each.
    pub warnings: Vec<String>,
}

/// The architecture in the words that aya-ebpf's `bpf_target_arch` uses.
#[must_use]
pub fn bpf_arch(arch: &str) -> &str {
    if arch.starts_with("riscv64") {
        "riscv64"
    } else {
        arch
    }
}

/// Builds the kernel programs and copies the object to `output`.
///
/// # Errors
///
/// [`Error::Compile`] with the compiler's output when the programs do not build, [`Error::Io`] when cargo cannot be
/// started or the object cannot be copied.
pub fn build(toolchain: &Toolchain, request: &Request<'_>, output: &Path) -> Result<Object, Error> {
    // Held until the object is copied: another build may not replace it half way.
    let _lock = lock(request.target_dir)?;
    let mut command = command(&toolchain.compiler.cargo, "build", toolchain, request);
    let stderr = run(&mut command)?;
    let folder = request.target_dir.join(request.endian.target()).join("release");
    let object = folder.join(BINARY);
    fs::copy(&object, output).map_err(Error::io("copy", &object))?;
    Ok(Object {
        path: output.to_owned(),
        warnings: warnings(&stderr),
    })
}

/// Runs clippy over the kernel programs, with the compiler that builds them; a warning is an error.
///
/// # Errors
///
/// [`Error::Compile`] with clippy's output when it has something to say, [`Error::Io`] when it cannot be started.
pub fn lint(toolchain: &Toolchain, request: &Request<'_>) -> Result<(), Error> {
    let _lock = lock(request.target_dir)?;
    // Not `cargo clippy`: cargo looks for the subcommand in its home first, where rustup's proxy lies.
    let mut command = command(&toolchain.compiler.clippy(), "clippy", toolchain, request);
    command.args(["--", "-D", "warnings"]);
    run(&mut command).map(|_| ())
}

/// Waits for other builds into the same target folder, and keeps them out as long as the file is open.
fn lock(target_dir: &Path) -> Result<File, Error> {
    fs::create_dir_all(target_dir).map_err(Error::io("create", target_dir))?;
    let path = target_dir.join("fairlead.lock");
    let file = File::create(&path).map_err(Error::io("create", &path))?;
    file.lock().map_err(Error::io("lock", &path))?;
    Ok(file)
}

/// Runs cargo and returns what it wrote to standard error.
fn run(command: &mut Command) -> Result<String, Error> {
    let result = command
        .output()
        .map_err(Error::io("run", command.get_program()))?;
    let stderr = String::from_utf8_lossy(&result.stderr);
    if result.status.success() {
        return Ok(stderr.into_owned());
    }
    let output = format!(
        "{}{stderr}\n{}",
        String::from_utf8_lossy(&result.stdout),
        result.status
    );
    Err(Error::Compile {
        command: show(command),
        output,
    })
}

/// A subcommand of cargo for the kernel programs, with its environment.
fn command(program: &Path, subcommand: &str, toolchain: &Toolchain, request: &Request<'_>) -> Command {
    let compiler = &toolchain.compiler;
    let mut command = Command::new(program);
    command
        .args([
            subcommand,
            "--release",
            "--package",
            PACKAGE,
            "--bin",
            BINARY,
            "-Z",
            "build-std=core",
        ])
        .args(["--features", request.features])
        .args([
            "--color",
            "never",
            "--target",
            request.endian.target(),
            "--target-dir",
        ])
        .arg(request.target_dir)
        .current_dir(request.workspace)
        .stdin(Stdio::null());
    clean_environment(&mut command, std::env::vars_os());
    let mut path: Vec<PathBuf> = compiler.cargo.parent().map(Path::to_owned).into_iter().collect();
    path.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    if let Ok(path) = std::env::join_paths(path) {
        command.env("PATH", path);
    }
    command
        .env("CARGO", &compiler.cargo)
        .env("RUSTC", &compiler.rustc)
        // -Z build-std is not stable; the compiler of a distribution takes it so.
        .env("RUSTC_BOOTSTRAP", "1")
        // A wrapper from the user's configuration (sccache) would run the compiler of another toolchain.
        .env("RUSTC_WRAPPER", "")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(toolchain, request.arch));
    if subcommand != "clippy" {
        command.env("RUSTC_WORKSPACE_WRAPPER", "");
    }
    command
}

/// Program and arguments, without the environment: that may hold secrets.
fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// The flags of the compiler, as `CARGO_ENCODED_RUSTFLAGS` wants them.
pub(crate) fn rustflags(toolchain: &Toolchain, arch: &str) -> OsString {
    let arch = bpf_arch(arch);
    let mut linker = OsString::from("-Clinker=");
    linker.push(&toolchain.linker.path);
    // LLVM's feature `allows-misaligned-mem-access` stays off: it would spare the programs care with packet headers, but
    // LLVM then joins neighbouring stores on the stack as well, where the verifier refuses misaligned words.
    let flags: Vec<OsString> = vec![
        format!("--cfg=bpf_target_arch=\"{arch}\"").into(),
        // BTF, by which the kernel knows the types of maps and functions, is made from debug information.
        "-Cdebuginfo=2".into(),
        linker,
        "-Clink-arg=--btf".into(),
        // rustc hands it to bpf-linker, which generates the code.
        format!("-Ctarget-cpu={CPU}").into(),
    ];
    flags.join(OsStr::new(FLAG_SEPARATOR))
}

/// Gives `command` the environment `outer` without what an outer cargo, rustup or build script put there.
///
/// Cargo sets RUSTC, CARGO_ENCODED_RUSTFLAGS and many more for build scripts, rustup sets RUSTUP_TOOLCHAIN and a
/// LD_LIBRARY_PATH in which the other compiler's LLVM lies. An environment that is the same whoever calls also keeps
/// cargo from building again what another caller has built.
pub(crate) fn clean_environment(
    command: &mut Command,
    outer: impl IntoIterator<Item = (OsString, OsString)>,
) {
    command.env_clear();
    command.envs(
        outer
            .into_iter()
            .filter(|(name, _)| name.to_str().is_some_and(keeps_variable)),
    );
}

/// Whether a variable of the outer environment reaches the inner cargo.
pub(crate) fn keeps_variable(name: &str) -> bool {
    /// Where cargo keeps and fetches crates, and the job slots that it shares with its parent.
    const KEPT: [&str; 4] = ["CARGO_HOME", "CARGO_MAKEFLAGS", "RUSTUP_HOME", "RUST_BACKTRACE"];
    const KEPT_PREFIXES: [&str; 5] = [
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
    ];
    const DROPPED: [&str; 9] = [
        "DEBUG",
        "HOST",
        "LD_LIBRARY_PATH",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "TARGET",
        "__CARGO_DEFAULT_LIB_METADATA",
    ];
    const DROPPED_PREFIXES: [&str; 3] = ["CARGO", "DEP_", "RUST"];
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    KEPT.contains(&name) || begins(&KEPT_PREFIXES) || !(DROPPED.contains(&name) || begins(&DROPPED_PREFIXES))
}

/// The warnings in what cargo printed, without their count.
pub(crate) fn warnings(stderr: &str) -> Vec<String> {
    stderr
        .split("\n\n")
        .filter_map(|block| block.find("warning: ").map(|start| block[start..].trim_end()))
        .filter(|block| !block.contains(" generated "))
        .map(str::to_owned)
        .collect()
}
