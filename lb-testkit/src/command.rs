//! Commands with errors that tell what was run and what it said.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Runs a command to its end and returns its standard output.
///
/// # Errors
///
/// If it cannot be started or fails; the error has its command line and standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let result = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {command:?}"))?;
    if !result.status.success() {
        bail!(
            "{command:?}: {}: {}",
            result.status,
            String::from_utf8_lossy(&result.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}

/// Runs a program with arguments to its end.
///
/// # Errors
///
/// As [`output`].
pub fn run_command(program: &str, arguments: &[&str]) -> Result<String> {
    output(Command::new(program).args(arguments))
}

/// Runs lines of `ip` commands in one process, in the namespace `netns`.
pub(crate) fn ip_batch(netns: &str, lines: &[String]) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-n", netns, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start ip (package iproute2)")?;
    child
        .stdin
        .take()
        .context("ip takes no input")?
        .write_all(lines.join("\n").as_bytes())?;
    let result = child.wait_with_output()?;
    if !result.status.success() {
        bail!(
            "ip -n {netns}: {}\nof\n{}",
            String::from_utf8_lossy(&result.stderr).trim(),
            lines.join("\n")
        );
    }
    Ok(())
}
