//! Version numbers as compilers and linkers print them.

use std::fmt;

/// A release number such as `1.96.0`; what follows the numbers (`-nightly`) is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// First number.
    pub major: u32,
    /// Second number, 0 when absent.
    pub minor: u32,
    /// Third number, 0 when absent.
    pub patch: u32,
}

impl Release {
    /// Reads `22`, `22.1`, `22.1.8` or `1.97.0-nightly`; `None` when the text does not begin with a number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let numbers = text.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
        let mut parts = numbers.split('.');
        let major = parts.next()?.parse().ok()?;
        let mut next = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
        Some(Self {
            major,
            minor: next(),
            patch: next(),
        })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What `rustc -vV` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompilerVersion {
    /// Release of the compiler.
    pub release: Release,
    /// Release of the LLVM that writes its bitcode.
    pub llvm: Release,
    /// Target triple of the compiler itself.
    pub host: String,
}

impl CompilerVersion {
    /// Reads the output of `rustc -vV`; `None` when a line is missing.
    #[must_use]
    pub fn parse(output: &str) -> Option<Self> {
        let field = |name: &str| {
            output
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        Some(Self {
            release: Release::parse(field("release:")?)?,
            llvm: Release::parse(field("LLVM version:")?)?,
            host: field("host:")?.to_owned(),
        })
    }
}

/// Reads the LLVM release from the version text that LLVM's own command line prints.
///
/// bpf-linker hands `--llvm-args=--version` to LLVM, which answers `LLVM version 22.1.8` (a distribution may put its
/// name in front). That is the LLVM which does the work, whether it is linked statically or found at run time.
#[must_use]
pub fn linker_llvm(output: &str) -> Option<Release> {
    output
        .lines()
        .find_map(|line| Release::parse(line.split_once("LLVM version")?.1.trim_start()))
}
