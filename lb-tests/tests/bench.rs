//! The benchmark runs, and has for everything that it says it measures a figure or the reason why there is none.
//!
//! How many figures a run yields depends on how busy the machine is, so just one of each kind is asked for.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Packets whose cost is measured: seven kinds for TCP and UDP over IPv4 and IPv6.
const PACKETS: usize = 28;
/// Scenes of the lab.
const SCENES: usize = 8;
/// Proxies: none, Fairlead by XDP and by tc, nftables, iptables. In one scene there is the floor besides.
const PROXIES: usize = 5;

#[test]
fn a_quick_run_accounts_for_everything() {
    run().unwrap();
}

fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (json, markdown) = (
        folder.path().join("figures.json"),
        folder.path().join("tables.md"),
    );
    let rules = folder.path().join("rules");
    let result = Command::new(env!("CARGO_BIN_EXE_fairlead-bench"))
        .arg("--quick")
        .arg("--json")
        .arg(&json)
        .arg("--markdown")
        .arg(&markdown)
        .arg("--rules")
        .arg(&rules)
        .output()
        .context("start the benchmark")?;
    let said = format!(
        "{}\n{}",
        String::from_utf8_lossy(&result.stderr),
        String::from_utf8_lossy(&result.stdout)
    );
    ensure!(
        result.status.success(),
        "the benchmark ended with {}:\n{said}",
        result.status
    );
    let figures: Value = serde_json::from_str(&fs::read_to_string(&json)?)?;
    let list = |name: &str| -> Result<Vec<Value>> {
        let list = figures.get(name).and_then(Value::as_array);
        list.cloned()
            .with_context(|| format!("no list {name:?} in {figures:#}"))
    };

    let packets = list("ns_per_packet")?;
    ensure!(
        packets.len() == PACKETS,
        "{} packets were measured:\n{said}",
        packets.len()
    );
    accounted(&packets, "ns").with_context(|| said.clone())?;
    let lab = list("lab")?;
    ensure!(
        lab.len() == SCENES * PROXIES + 1,
        "{} figures of the lab:\n{said}",
        lab.len()
    );
    accounted(&lab, "per_second").with_context(|| said.clone())?;
    let control = &figures["control"];
    for name in [
        "/ready_s",
        "/ready_again_s",
        "/memory_mb/resident",
        "/memory_again_mb/peak",
        "/change_p99_ms",
    ] {
        let value = control.pointer(name).and_then(Value::as_f64).unwrap_or_default();
        ensure!(value > 0.0, "the agent's {name} is missing:\n{said}");
    }
    for name in ["date", "command", "machine", "kernel"] {
        let value = figures["machine"][name].as_str().unwrap_or_default();
        ensure!(!value.is_empty(), "the machine's {name} is missing:\n{said}");
    }
    for (file, word) in [
        ("nftables-10.nft", "numgen random mod 3"),
        ("iptables-10.rules", "--mode random --probability 0.3333333333"),
        ("services-10.yaml", "kind: EndpointSlice"),
        ("sysctls.txt", "nf_conntrack_tcp_timeout_established"),
    ] {
        let text = fs::read_to_string(rules.join(file)).with_context(|| file.to_owned())?;
        ensure!(text.contains(word), "{file} lacks {word:?}");
    }
    let tables = fs::read_to_string(&markdown)?;
    ensure!(
        tables.contains("### Targets"),
        "the tables lack the targets:\n{tables}"
    );
    Ok(())
}

/// Each has a median above 0 or tells why it has none, and at least one has a median.
fn accounted(list: &[Value], what: &str) -> Result<()> {
    let mut figures = 0;
    for one in list {
        let median = one[what]["summary"]["median"].as_f64();
        let failures = one["failures"].as_array().map_or(0, Vec::len);
        ensure!(
            median.map_or(failures > 0, |median| median > 0.0),
            "neither {what} nor a reason: {one:#}"
        );
        figures += usize::from(median.is_some());
    }
    ensure!(figures > 0, "not one figure");
    Ok(())
}
