//! The few questions that finding a toolchain asks of a machine, behind a trait so that tests can answer them.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Environment, files and programs of a machine.
pub trait Machine {
    /// The value of an environment variable; an empty value counts as unset.
    fn variable(&self, name: &str) -> Option<OsString>;

    /// Whether `path` is a file (links are followed).
    fn is_file(&self, path: &Path) -> bool;

    /// Whether `path` is a folder (links are followed).
    fn is_dir(&self, path: &Path) -> bool;

    /// Names of the entries of a folder; empty when it cannot be read.
    fn entries(&self, path: &Path) -> Vec<String>;

    /// Runs a program and returns what it printed.
    ///
    /// # Errors
    ///
    /// When the program cannot be started, fails, or prints something that is not UTF-8.
    fn output(&self, program: &Path, arguments: &[&str]) -> io::Result<String>;

    /// The folder of cargo's own files: `CARGO_HOME`, else `~/.cargo`.
    fn cargo_home(&self) -> Option<PathBuf> {
        self.home_folder("CARGO_HOME", ".cargo")
    }

    /// The folder of rustup's toolchains: `RUSTUP_HOME`, else `~/.rustup`.
    fn rustup_home(&self) -> Option<PathBuf> {
        self.home_folder("RUSTUP_HOME", ".rustup")
    }

    /// The folder that `variable` names, else `name` in the home folder.
    fn home_folder(&self, variable: &str, name: &str) -> Option<PathBuf> {
        self.variable(variable)
            .map(PathBuf::from)
            .or_else(|| Some(Path::new(&self.variable("HOME")?).join(name)))
    }
}

/// The machine that this program runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host;

impl Machine for Host {
    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name).filter(|value| !value.is_empty())
    }

    fn is_file(&self, path: &Path) -> bool {
        path.is_file()
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn entries(&self, path: &Path) -> Vec<String> {
        let Ok(entries) = path.read_dir() else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect()
    }

    fn output(&self, program: &Path, arguments: &[&str]) -> io::Result<String> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        crate::compile::clean_environment(&mut command, std::env::vars_os());
        let output = command.output()?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let reason = stderr.lines().next().unwrap_or_default();
            return Err(io::Error::other(format!("{}: {reason}", output.status)));
        }
        String::from_utf8(output.stdout).map_err(io::Error::other)
    }
}
