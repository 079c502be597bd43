//! Tests of kube-proxy's flags.

use std::collections::BTreeSet;

use clap::Parser as _;

use super::*;
use crate::cli::args::{Cli, Command};

fn judge(flags: &[&str]) -> Result<Vec<String>, String> {
    let cli =
        Cli::try_parse_from(["fairlead", "run"].iter().chain(flags)).map_err(|error| error.to_string())?;
    let Command::Run(args) = cli.command else {
        panic!("not run")
    };
    let notices = args
        .config
        .kube_proxy
        .judge()
        .map_err(|refused| refused.to_string())?;
    Ok(notices.iter().map(ToString::to_string).collect())
}

/// A way to give a flag, with a value other than its default.
fn given(known: &Known) -> String {
    let value = match known.verdict {
        Verdict::OnlyTrue(_) => "=false",
        _ if known.switch => "",
        _ => "=7",
    };
    format!("--{}{value}", known.flag)
}

#[test]
fn each_flag_of_kube_proxy_is_taken_with_one_warning_or_refused_with_the_remedy() {
    for known in KNOWN.iter().filter(|known| !known.flag.is_empty()) {
        let flag = given(known);
        let name = format!("--{}", known.flag);
        match known.verdict {
            Verdict::Ignored(why) | Verdict::OnlyFalse(why) => {
                assert_eq!(judge(&[&flag]).unwrap(), [format!("{name} has no effect: {why}")]);
            }
            Verdict::Refused(why) | Verdict::OnlyTrue(why) => {
                let error = judge(&[&flag]).unwrap_err();
                assert!(error.starts_with(&name) && error.ends_with(why), "{error}");
            }
        }
    }
}

#[test]
fn what_holds_anyway_is_not_worth_a_word() {
    let flags = [
        "--iptables-localhost-nodeports",
        "--masquerade-all=false",
        "--profiling=false",
        "--bind-address-hard-fail=false",
    ];
    assert_eq!(judge(&flags).unwrap(), [""; 0]);
}

#[test]
fn a_command_line_of_kube_proxy_is_understood() {
    let flags = [
        "--kubeconfig=/var/lib/kube-proxy/kubeconfig",
        "--cluster-cidr=10.64.0.0/14",
        "--oom-score-adj=-998",
        "-v",
        "2",
        "--iptables-sync-period=1m",
        "--hostname-override=n1",
        "--conntrack-tcp-timeout-established=0",
        "--nodeport-addresses=primary",
        "--logging-format=json",
        "--healthz-bind-address=0.0.0.0",
        "--proxy-mode=nftables",
    ];
    let told = judge(&flags).unwrap();
    let names: BTreeSet<&str> = told.iter().filter_map(|text| text.split(' ').next()).collect();
    let expected = ["--cluster-cidr", "--oom-score-adj", "--proxy-mode", "--v"];
    assert_eq!(names, expected.into());
    assert!(judge(&["--no-such-flag"]).is_err());
}

#[test]
fn the_table_of_the_documentation_is_this_list() {
    let doc = include_str!("../../../../docs/configuration.md");
    let found: Vec<&str> = doc.lines().filter(|line| line.ends_with(". |")).collect();
    let expected: Vec<String> = KNOWN.iter().map(row).collect();
    assert_eq!(
        found,
        expected,
        "docs/configuration.md has to hold:\n{}",
        expected.join("\n")
    );
}

/// A flag's line in the table of docs/configuration.md.
fn row(known: &Known) -> String {
    let (what, why) = match known.verdict {
        Verdict::Ignored(why) => ("taken", why),
        Verdict::Refused(why) => ("refused", why),
        Verdict::OnlyTrue(why) => ("refused unless true", why),
        Verdict::OnlyFalse(why) => ("taken; a word only if true", why),
    };
    let flag = match known.flag {
        "" => String::new(),
        "v" => "`--v`, `-v`".to_owned(),
        flag => format!("`--{flag}`"),
    };
    let fields: Vec<String> = known.fields.iter().map(|field| format!("`{field}`")).collect();
    format!("| {flag} | {} | {what} | {why}. |", fields.join(", "))
}
