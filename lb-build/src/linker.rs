//! The search for a bpf-linker that understands the compiler's bitcode.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::{Error, Machine, Release, linker_llvm};

/// Names the bpf-linker to use, ahead of every other.
pub const LINKER_VARIABLE: &str = "FAIRLEAD_BPF_LINKER";

/// Name of the program.
const PROGRAM: &str = "bpf-linker";

/// A bpf-linker and the LLVM that it runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linker {
    /// The program.
    pub path: PathBuf,
    /// Release of its LLVM.
    pub llvm: Release,
}

impl fmt::Display for Linker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bpf-linker (LLVM {}) {}", self.llvm, self.path.display())
    }
}

/// Finds a bpf-linker whose LLVM is at least as new as `llvm`, the compiler's.
///
/// Only the first number counts: LLVM keeps the bitcode format within a major release.
///
/// # Errors
///
/// [`Error::Override`] when [`LINKER_VARIABLE`] names a linker that cannot be used, [`Error::NoLinker`] when no
/// candidate fits.
pub fn find_linker(machine: &impl Machine, llvm: Release) -> Result<Linker, Error> {
    if let Some(path) = machine.variable(LINKER_VARIABLE) {
        return inspect(machine, Path::new(&path), llvm).map_err(|reason| Error::Override {
            variable: LINKER_VARIABLE,
            reason,
        });
    }
    let mut tried = Vec::new();
    for path in candidates(machine) {
        if !machine.is_file(&path) {
            continue;
        }
        match inspect(machine, &path, llvm) {
            Ok(linker) => return Ok(linker),
            Err(reason) => tried.push(reason),
        }
    }
    if tried.is_empty() {
        tried.push("neither in cargo's bin folder nor on PATH".to_owned());
    }
    Err(Error::NoLinker { llvm, tried })
}

/// Cargo's bin folder first: setup installs there, and it may be missing from PATH.
fn candidates(machine: &impl Machine) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = machine
        .cargo_home()
        .map(|home| home.join("bin"))
        .into_iter()
        .collect();
    if let Some(path) = machine.variable("PATH") {
        for folder in std::env::split_paths(&path) {
            // A relative entry would mean another file in the folder of the inner cargo.
            if folder.is_absolute() && !folders.contains(&folder) {
                folders.push(folder);
            }
        }
    }
    folders.into_iter().map(|folder| folder.join(PROGRAM)).collect()
}

/// Asks a linker for its LLVM; the error says why it cannot be used.
fn inspect(machine: &impl Machine, path: &Path, llvm: Release) -> Result<Linker, String> {
    if !machine.is_file(path) {
        return Err(format!("{} does not exist", path.display()));
    }
    // The output is named because the command line demands one; LLVM answers and exits before it is written.
    let arguments = ["--llvm-args=--version", "--output=/dev/null", "/dev/null"];
    let text = machine
        .output(path, &arguments)
        .map_err(|error| format!("{} does not tell its LLVM version: {error}", path.display()))?;
    let found = linker_llvm(&text).ok_or_else(|| {
        format!(
            "{} does not tell its LLVM version: {:?}",
            path.display(),
            text.trim()
        )
    })?;
    if found.major < llvm.major {
        return Err(format!(
            "{} runs on LLVM {found}, older than the compiler's {}",
            path.display(),
            llvm.major
        ));
    }
    Ok(Linker {
        path: path.to_owned(),
        llvm: found,
    })
}
