//! Commands with errors that tell what was run and what it said.

use std::{
    env,
    io::Write as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use crate::error::{Error, Result};

/// Runs a command to its end and returns its standard output.
///
/// # Errors
///
/// If it cannot be started or fails; the error has its command line and standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let result = command
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io("start", format!("{command:?}")))?;
    checked(&result, || format!("{command:?}"))?;
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

fn checked(result: &Output, command: impl FnOnce() -> String) -> Result<()> {
    if result.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: command(),
        status: result.status,
        stderr: String::from_utf8_lossy(&result.stderr).trim().to_owned(),
    })
}

/// Runs lines of `ip` commands in one process, in the namespace `netns`.
pub(crate) fn ip_batch(netns: &str, lines: &[String]) -> Result<()> {
    let shown = || format!("ip -n {netns} -batch of\n{}\n", lines.join("\n"));
    let mut child = Command::new(find_program("ip", "iproute2")?)
        .args(["-n", netns, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::io("start", "ip"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // An ip that ends at a wrong line reads no further. What it says of it counts, not that the pipe is closed.
        let _ = stdin.write_all(lines.join("\n").as_bytes());
    }
    let result = child.wait_with_output().map_err(Error::io("wait for", "ip"))?;
    checked(&result, shown)
}

/// Where a program is: on the `PATH` or in the system folders, which the `PATH` of an ordinary user lacks.
///
/// # Errors
///
/// [`Error::Missing`], which names the package.
pub(crate) fn find_program(program: &'static str, package: &'static str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .ok_or(Error::Missing { program, package })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_reported_with_its_package() {
        assert!(find_program("sh", "dash").is_ok());
        let error = find_program("no-such-program", "some-package").unwrap_err();
        assert!(
            error.to_string().contains("install the package some-package"),
            "{error}"
        );
    }

    #[test]
    fn a_failed_command_is_reported_with_what_it_said() {
        let error = run_command("sh", &["-c", "echo the reason >&2; exit 3"]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3: the reason"), "{text}");
        assert!(text.contains("\"sh\" \"-c\""), "{text}");
    }
}
