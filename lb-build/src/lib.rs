//! Finds the eBPF toolchain of a machine and builds Fairlead's kernel programs with it.
//!
//! Two callers share this crate: the build script of the agent, which embeds the object, and `cargo xtask`, which
//! installs what is missing. Both compile it before anything else, so it has no dependencies but `std`.
//!
//! Compilers are looked for in three places, best first: the one that `FAIRLEAD_EBPF_RUSTC` names, rustup's `nightly`
//! with the component `rust-src`, and the distribution's `/usr/bin/rustc` with its source package. One that lacks the
//! source of `core` is passed over, because no target for BPF comes with `core` compiled; so is one whose LLVM is newer
//! than that of every bpf-linker here. Everything about a compiler (release, LLVM, host) is read from `rustc -vV`.

mod compile;
mod compiler;
mod error;
mod linker;
mod machine;
mod version;

pub use compile::{Endian, Object, Request, bpf_arch, build, lint};
pub use compiler::{CARGO_VARIABLE, Compiler, Origin, RUSTC_VARIABLE, find_compilers};
pub use error::Error;
pub use linker::{LINKER_VARIABLE, Linker, find_linker};
pub use machine::{Host, Machine};
pub use version::{CompilerVersion, Release, linker_llvm};

/// A compiler and a linker that fit each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// The compiler of the kernel programs.
    pub compiler: Compiler,
    /// The linker that generates their code.
    pub linker: Linker,
}

/// Finds the eBPF toolchain of `machine`: the first compiler, in order of preference, for which there is a linker.
///
/// # Errors
///
/// [`Error::NoCompiler`] and [`Error::NoLinker`] say which candidates were passed over and why;
/// [`Error::Override`] is returned when a variable names something that cannot be used.
pub fn find(machine: &impl Machine) -> Result<Toolchain, Error> {
    let mut first_failure = None;
    for compiler in find_compilers(machine)? {
        match find_linker(machine, compiler.version.llvm) {
            Ok(linker) => return Ok(Toolchain { compiler, linker }),
            Err(error @ Error::Override { .. }) => return Err(error),
            Err(error) => first_failure = first_failure.or(Some(error)),
        }
    }
    Err(first_failure.unwrap_or(Error::NoCompiler { tried: Vec::new() }))
}

#[cfg(test)]
mod tests;
