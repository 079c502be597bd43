//! What the kernel programs cost the verifier: instructions that it walked through, and stack.
//!
//! The kernel refuses programs that take it more than a million instructions to verify, or whose chains of calls need
//! more than 512 bytes of stack. Both are recorded in `lb-tests/budget.json`, so that a change that comes near a limit is
//! seen when it is made.

mod stack;

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use aya::{
    EbpfLoader,
    programs::{Program, ProgramInfo},
};
use serde::{Deserialize, Serialize};

use crate::{bpffs::PrivateBpffs, packets::native::SNAT_PORTS};
use lb_common::abi::map;

/// Most instructions that the kernel verifies (`BPF_COMPLEXITY_LIMIT_INSNS`).
pub const MOST_INSTRUCTIONS: u32 = 1_000_000;
/// Most bytes of stack that a chain of calls may take (`MAX_BPF_STACK`).
pub const MOST_STACK: u32 = 512;

/// What a program costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Instructions that the verifier walked through, all branches together.
    pub verified_instructions: u32,
    /// Bytes of stack of the deepest chain of calls, each frame rounded up to 16 bytes as the verifier does for programs
    /// that are compiled.
    pub stack: u32,
    /// The same rounded up to 32 bytes, as kernels before 6.8 do (kernel commit 6b4a64bafd10).
    pub stack_before_6_8: u32,
}

/// The costs of all programs, and what they were measured with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Release of the kernel: another verifier walks other ways.
    pub kernel: String,
    /// By name.
    pub programs: BTreeMap<String, Cost>,
}

/// Where the budget is kept.
pub fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("budget.json")
}

/// The budget that is kept.
///
/// # Errors
///
/// If there is none, or it cannot be read.
pub fn recorded() -> Result<Budget> {
    let path = path();
    let text = fs::read_to_string(&path)
        .with_context(|| format!("read {}; `cargo xtask budget --write` makes it", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))
}

/// Keeps a budget.
///
/// # Errors
///
/// If it cannot be written.
pub fn record(budget: &Budget) -> Result<()> {
    let text = serde_json::to_string_pretty(budget)? + "\n";
    fs::write(path(), text).with_context(|| format!("write {}", path().display()))
}

/// What the programs of this build cost on this kernel.
///
/// # Errors
///
/// If the kernel refuses a program, or bpftool is missing.
pub fn measure() -> Result<Budget> {
    const ENTRIES: u32 = 64;
    let pins = PrivateBpffs::mount()?;
    let mut loader = EbpfLoader::new();
    // As the agent sets them by default, on a kernel that has everything.
    loader
        .default_map_pin_directory(pins.path())
        .override_global("AYA_LOG_LEVEL", &0u8, true)
        .override_global("HAS_SET_RETVAL", &1u8, true)
        .override_global("SNAT_FIRST", &SNAT_PORTS.first, true)
        .override_global("SNAT_COUNT", &SNAT_PORTS.count, true);
    for name in map::PINNED {
        if name != map::COUNTERS {
            loader.map_max_entries(name, ENTRIES);
        }
    }
    let mut bpf = loader.load(lb_userspace::object::bytes()?)?;
    let scratch = tempfile::tempdir()?;
    let dump = scratch.path().join("xlated");
    let mut programs = BTreeMap::new();
    for (name, program) in bpf.programs_mut() {
        let info = load(program).with_context(|| format!("load {name}"))?;
        let cost = cost(&info, &dump).with_context(|| format!("look at {name}"))?;
        programs.insert(name.to_owned(), cost);
    }
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    Ok(Budget { kernel, programs })
}

fn load(program: &mut Program) -> Result<ProgramInfo> {
    match program {
        Program::SchedClassifier(program) => program.load()?,
        Program::CgroupSockAddr(program) => program.load()?,
        Program::Xdp(program) => program.load()?,
        other => anyhow::bail!("programs of the type {:?} are not known here", other.prog_type()),
    }
    Ok(program.info()?)
}

/// The kernel removes what is never reached from a program: what is left is what runs.
fn cost(info: &ProgramInfo, dump: &std::path::Path) -> Result<Cost> {
    let output = Command::new("bpftool")
        .args(["prog", "dump", "xlated", "id", &info.id().to_string(), "file"])
        .arg(dump)
        .output()
        .context("cannot run bpftool; `cargo xtask setup` installs it")?;
    ensure!(
        output.status.success(),
        "bpftool prog dump: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let code = fs::read(dump).context("read the dump of bpftool")?;
    Ok(Cost {
        verified_instructions: info
            .verified_instruction_count()
            .context("the kernel does not tell (5.16)")?,
        stack: stack::deepest(&code, 16)?,
        stack_before_6_8: stack::deepest(&code, 32)?,
    })
}
