//! What can go wrong. Written by hand: a derive would cost more compile time than the rest of the crate.

use std::{fmt, io, path::PathBuf};

use crate::Release;

/// Why the kernel programs could not be built.
#[derive(Debug)]
pub enum Error {
    /// No compiler fits; each line names a candidate and why it was passed over.
    NoCompiler {
        /// The candidates that were looked at.
        tried: Vec<String>,
    },
    /// No bpf-linker fits; each line names a candidate and why it was passed over.
    NoLinker {
        /// LLVM release that the linker must have at least.
        llvm: Release,
        /// The candidates that were looked at.
        tried: Vec<String>,
    },
    /// A variable names a program that cannot be used.
    Override {
        /// Name of the environment variable.
        variable: &'static str,
        /// What is wrong with its value.
        reason: String,
    },
    /// The compiler ran and did not produce an object.
    Compile {
        /// The command that was run.
        command: String,
        /// What it printed.
        output: String,
    },
    /// A file operation failed.
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    /// Whether the toolchain is missing, as opposed to broken or failing.
    #[must_use]
    pub fn is_missing_toolchain(&self) -> bool {
        matches!(self, Self::NoCompiler { .. } | Self::NoLinker { .. })
    }

    /// For `map_err`: wraps the failure of `operation` on `path`.
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCompiler { tried } => {
                write!(f, "no compiler for the kernel programs ({})", tried.join("; "))
            }
            Self::NoLinker { llvm, tried } => {
                write!(
                    f,
                    "no bpf-linker with LLVM {} or newer ({})",
                    llvm.major,
                    tried.join("; ")
                )
            }
            Self::Override { variable, reason } => write!(f, "{variable}: {reason}"),
            Self::Compile { command, output } => {
                write!(
                    f,
                    "the kernel programs do not compile\n{}\n(by: {command})",
                    output.trim_end()
                )
            }
            Self::Io {
                operation,
                path,
                source,
            } => {
                write!(f, "cannot {operation} {}: {source}", path.display())
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
