//! Where and when figures were measured.

use std::{env, fs, process::Command, thread};

use lb_testkit::output;

/// A run's circumstances, as names and values in the order in which they are shown.
pub(crate) fn describe() -> Vec<(&'static str, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let said = |program: &str, arguments: &[&str]| {
        output(Command::new(program).args(arguments)).map_or_else(
            |error| format!("unknown ({error})"),
            |text| text.lines().next().unwrap_or_default().trim().to_owned(),
        )
    };
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown", |(_, model)| model.trim());
    let cpus = thread::available_parallelism().map_or(0, usize::from);
    let command: Vec<String> = env::args().skip(1).collect();
    let command = if command.is_empty() {
        "cargo xtask bench".to_owned()
    } else {
        format!("cargo xtask bench -- {}", command.join(" "))
    };
    vec![
        ("date", said("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
        ("command", command),
        (
            "build",
            if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            }
            .to_owned(),
        ),
        ("machine", format!("{model}, {cpus} CPUs")),
        (
            "kernel",
            format!(
                "{} {}",
                read("/proc/sys/kernel/ostype"),
                read("/proc/sys/kernel/osrelease")
            ),
        ),
        ("load before", read("/proc/loadavg")),
        ("nftables", said("nft", &["--version"])),
        ("iptables", said("iptables-nft", &["--version"])),
        (
            "conntrack limit",
            read("/proc/sys/net/netfilter/nf_conntrack_max"),
        ),
    ]
}
