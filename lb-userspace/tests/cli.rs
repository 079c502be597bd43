//! The command line as a user meets it: help, exit codes and errors, through the real binary. Nothing here gets as far
//! as the kernel.

use std::process::{Command, Output};

fn fairlead(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fairlead"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .env_remove("NODE_NAME")
        .env_remove("KUBECONFIG")
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
    for command in ["run", "config", "cleanup", "status"] {
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

/// A file in a folder of its own.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, text).expect("written");
    let name = path.display().to_string();
    (folder, name)
}

#[test]
fn what_config_prints_is_a_file_that_gives_the_same() {
    let flags = [
        "config",
        "--cgroup=/c",
        "--master=https://192.0.2.1:6443",
        "--udp-timeout=7s",
    ];
    let first = fairlead(&flags);
    assert!(first.status.success(), "{}", stderr(&first));
    let printed = stdout(&first);
    assert!(
        printed.starts_with("apiVersion: fairlead.dev/v1alpha1\nkind: FairleadConfiguration\n"),
        "{printed}"
    );
    assert!(printed.contains("udpTimeout: 7s"), "{printed}");
    let (_folder, path) = file(&printed);
    let again = fairlead(&["config", "--config", &path]);
    assert_eq!(stdout(&again), printed, "{}", stderr(&again));
}

#[test]
fn a_file_of_kube_proxy_is_translated_and_what_has_no_effect_is_told_once() {
    let (_folder, path) = file(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
         clientConnection: {kubeconfig: /k}\nmode: ipvs\n",
    );
    let output = fairlead(&["config", "--cgroup=/c", "--config", &path, "--oom-score-adj=-999"]);
    let (printed, log) = (stdout(&output), stderr(&output));
    assert!(output.status.success(), "{log}");
    assert!(printed.contains("kubeconfig: /k"), "{printed}");
    for name in ["mode", "--oom-score-adj"] {
        assert_eq!(log.matches(&format!("{name} has no effect")).count(), 1, "{log}");
    }
}

#[test]
fn a_file_that_cannot_be_is_one_line_with_exit_code_2() {
    let (_folder, path) =
        file("apiVersion: fairlead.dev/v1alpha1\nkind: FairleadConfiguration\nmaxFlow: 1\n");
    for command in ["run", "config"] {
        let output = fairlead(&[command, "--config", &path]);
        let error = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains(&path) && error.contains("maxFlow"), "{error}");
    }
}

#[test]
fn the_version_is_told() {
    let output = fairlead(&["--version"]);
    assert!(stdout(&output).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_kubeconfig_that_names_no_authority_is_one_clear_error_where_the_system_has_none() {
    let (_folder, path) = file(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n\
         clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: u, user: {token: t}}]\n",
    );
    // As in an image from scratch.
    let output = Command::new(env!("CARGO_BIN_EXE_fairlead"))
        .args([
            "run",
            "--cgroup=/c",
            "--hostname-override=n",
            "--kubeconfig",
            &path,
        ])
        .env("SSL_CERT_FILE", "/nonexistent")
        .env("SSL_CERT_DIR", "/nonexistent")
        .env_remove("RUST_LOG")
        .output()
        .expect("the agent's binary runs");
    let log = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{log}");
    let told = log.lines().last().unwrap_or_default();
    assert!(
        told.contains(&path) && told.contains("certificate-authority"),
        "{log}"
    );
}
