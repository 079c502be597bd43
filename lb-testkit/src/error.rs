//! What can go wrong in a lab.

use std::{io, process::ExitStatus, time::Duration};

/// What went wrong, at which object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused an operation.
    #[error("{operation} {object}: {source}")]
    Io {
        /// What was tried: a verb.
        operation: &'static str,
        /// On what.
        object: String,
        /// What the system said.
        source: io::Error,
    },
    /// A command failed.
    #[error("{command}: {status}: {stderr}")]
    Command {
        /// Its command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// A program is not installed.
    #[error("the program {program} is missing; install the package {package}, or run `cargo xtask setup`")]
    Missing {
        /// The program.
        program: &'static str,
        /// The package of Debian that has it.
        package: &'static str,
    },
    /// A process of the lab ended before it did what was waited for.
    #[error("{process} ended ({status}) before {awaited}:\n{log}")]
    Ended {
        /// The process and its host.
        process: String,
        /// How it ended.
        status: ExitStatus,
        /// What was waited for.
        awaited: String,
        /// What it wrote.
        log: String,
    },
    /// A process of the lab did not do what was waited for.
    #[error("{process}: not within {limit:?}: {awaited}:\n{log}")]
    TimedOut {
        /// The process and its host.
        process: String,
        /// What was waited for.
        awaited: String,
        /// For how long.
        limit: Duration,
        /// What it wrote.
        log: String,
    },
    /// An answer, a capture or a transfer is not what it must be.
    #[error("{object}: {problem}")]
    Unexpected {
        /// Where it comes from.
        object: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Only root can make namespaces.
    #[error("a lab of network namespaces needs root; run the tests as root")]
    NotRoot,
    /// There is no hierarchy for the lab's cgroup.
    #[error("no cgroup v2 is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup")]
    NoCgroup,
    /// The thread that asks for a lab has one: waiting for the end of that one would be waiting for ever.
    #[error(
        "this thread has a lab already, and a process has one at a time; drop the first, then build the second"
    )]
    SecondLab,
    /// A signal ends the process while it builds a lab.
    #[error("stopped by a signal")]
    Stopped,
}

/// What a lab's operations return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err`: the system refused `operation` on `object`.
    pub(crate) fn io<E: Into<io::Error>>(
        operation: &'static str,
        object: impl ToString,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            operation,
            object: object.to_string(),
            source: source.into(),
        }
    }

    /// What comes from `object` is wrong.
    pub(crate) fn unexpected(object: &(impl ToString + ?Sized), problem: impl Into<String>) -> Self {
        Self::Unexpected {
            object: object.to_string(),
            problem: problem.into(),
        }
    }
}
