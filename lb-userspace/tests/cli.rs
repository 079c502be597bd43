//! The command line as a user meets it: help, exit codes and errors, through the real binary. Nothing here gets as far
//! as the kernel.

use std::process::{Command, Output};

fn fairlead(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fairlead"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .env_remove("NODE_NAME")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .expect("the agent's binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[test]
fn every_command_has_help_with_an_example() {
    let help = stdout(&fairlead(&["--help"]));
    for command in ["run", "cleanup", "status"] {
        assert!(help.contains(command), "{help}");
        let output = fairlead(&[command, "--help"]);
        let help = stdout(&output);
        assert!(output.status.success(), "{command}");
        assert!(help.contains(&format!("Example: fairlead {command}")), "{help}");
        assert!(help.contains("--bpffs"), "{help}");
    }
}

#[test]
fn arguments_that_cannot_be_are_named_with_exit_code_2() {
    for (arguments, words) in [
        (
            &["run", "--cgroup", "/c"][..],
            &[
                "--kubeconfig",
                "--master",
                "--manifests",
                "KUBERNETES_SERVICE_HOST",
            ][..],
        ),
        (&["fly"], &["fly"]),
        (&["status", "--log-level", "inof"], &["--log-level inof", "info"]),
        (
            &["run", "--manifests", "/m", "--cgroup", "/c", "--max-flows", "0"],
            &["--max-flows 0", "from 1"],
        ),
        (
            &[
                "run",
                "--manifests",
                "/m",
                "--cgroup",
                "/c",
                "--hostname-override",
                " ",
            ],
            &["--hostname-override", "NODE_NAME"],
        ),
    ] {
        let output = fairlead(arguments);
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        for word in words {
            assert!(error.contains(word), "{arguments:?}: {error}");
        }
    }
}

#[test]
fn what_is_missing_is_one_line_with_exit_code_1() {
    let missing = "/nonexistent/fairlead";
    for (arguments, words) in [
        (
            &["run", "--manifests", missing, "--cgroup", missing][..],
            [missing, "--manifests"],
        ),
        (&["status", "--bpffs", missing], [missing, "fairlead run"]),
    ] {
        let output = fairlead(arguments);
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{arguments:?}: {error}");
        for word in words {
            assert!(error.contains(word), "{arguments:?}: {error}");
        }
    }
}

#[test]
fn the_version_is_told() {
    let output = fairlead(&["--version"]);
    assert!(stdout(&output).contains(env!("CARGO_PKG_VERSION")));
}
