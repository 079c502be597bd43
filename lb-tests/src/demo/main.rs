//! `cargo xtask demo`: the examples, served by agents on two nodes, asked by real clients.
//!
//! Exits with 1 if anything did not go as it should.

mod servers;
mod table;

use std::{collections::BTreeMap, fs, path::Path, process::ExitCode, thread, time::Duration};

use anyhow::{Context as _, Result};
use lb_testkit::{Host, Lab, Wiring};
use lb_tests::agent::{Agent, Folder};

use self::{
    servers::Servers,
    table::{Expected, Table},
};

/// How often each client asks.
const REQUESTS: u32 = 30;
/// How long a change of the manifests may take to show, at most.
const CHANGE: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let mut failures = 0;
    for (wiring, name) in [
        (Wiring::Routed, "one routed veth per pod"),
        (Wiring::Bridged, "a bridge with veth ports"),
    ] {
        println!("\n── pods wired by {name} ──");
        match play(wiring) {
            Ok(failed) => failures += failed,
            Err(error) => {
                eprintln!("demo: {error:#}");
                failures += 1;
            }
        }
    }
    if failures > 0 {
        println!("\n{failures} checks failed");
        return ExitCode::FAILURE;
    }
    println!("\neverything was answered as it should be");
    ExitCode::SUCCESS
}

/// The demo in one wiring; how many checks failed.
fn play(wiring: Wiring) -> Result<u32> {
    let lab = Lab::builder().wiring(wiring).build()?;
    let _servers = Servers::start(&lab)?;
    let folder = Folder::new(&lab)?;
    for entry in
        fs::read_dir("examples").context("read the folder examples (run this from the workspace's root)")?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .context("a file name")?;
            folder.write(name, &fs::read_to_string(&path)?)?;
        }
    }
    let agents = [
        Agent::start(&lab, 1, folder.path())?,
        Agent::start(&lab, 2, folder.path())?,
    ];
    println!("two nodes, an agent on each: {}", ready_line(&agents[0]));

    let mut table = Table::new();
    ask_everything(&lab, &mut table);
    table.print();

    let mut failures = table.failures();
    failures += change_endpoints(&lab, &folder)?;
    Ok(failures)
}

/// The line in which the agent says what it serves.
fn ready_line(agent: &Agent) -> String {
    agent
        .log()
        .lines()
        .find_map(|line| Some(line.split_once("fairlead is ready ")?.1.to_owned()))
        .unwrap_or_default()
}

/// Every kind of client to every kind of frontend.
fn ask_everything(lab: &Lab, table: &mut Table) {
    let both = || Expected::spread(&["n1-b", "n2-a"]);
    let only = |name: &str| Expected::spread(&[name]);
    let (pod, node, client) = (lab.pod(1, 1), lab.node(1), lab.client());
    let node_addr = format!("{}", node.v4);
    let rows: [(&str, &Host, String, Expected); 12] = [
        ("pod → ClusterIP", pod, url("10.96.0.10", 80), both()),
        ("pod → ClusterIP, IPv6", pod, url("[fd00:10:96::a]", 80), both()),
        (
            "pod on node2 → ClusterIP",
            lab.pod(2, 2),
            url("10.96.0.10", 80),
            both(),
        ),
        ("pod → NodePort", pod, url(&node_addr, 31521), both()),
        ("pod → named port http", pod, url("10.96.0.20", 80), only("n1-c")),
        (
            "pod → named port admin",
            pod,
            url("10.96.0.20", 8000),
            only("n1-c admin"),
        ),
        ("outside → NodePort", client, url(&node_addr, 31580), only("n1-c")),
        ("node → ClusterIP", node, url("10.96.0.10", 80), both()),
        ("node → ClusterIP, IPv6", node, url("[fd00:10:96::a]", 80), both()),
        ("node → localhost:nodePort", node, url("localhost", 31521), both()),
        ("node → 127.0.0.1:nodePort", node, url("127.0.0.1", 31521), both()),
        ("node → [::1]:nodePort", node, url("[::1]", 31521), both()),
    ];
    for (who, host, url, expected) in rows {
        table.row(who, &url, count(|| curl(host, &url)), &expected);
    }
    for (who, host, how) in [
        ("pod → DNS over UDP", pod, "+notcp"),
        ("pod → DNS over TCP", pod, "+tcp"),
        ("node → DNS over UDP", node, "+notcp"),
        ("node → DNS over TCP", node, "+tcp"),
    ] {
        table.row(
            who,
            "10.96.0.53:53",
            count(|| dig(host, how)),
            &Expected::spread(&[servers::RECORD_ADDRESS]),
        );
    }
}

fn url(host: &str, port: u16) -> String {
    format!("http://{host}:{port}/")
}

/// Who answered how often; failures by what went wrong.
fn count(mut ask: impl FnMut() -> Result<String, String>) -> BTreeMap<String, u32> {
    let mut answers = BTreeMap::new();
    for _ in 0..REQUESTS {
        match ask() {
            Ok(name) => *answers.entry(name).or_default() += 1,
            Err(failure) => {
                // One is enough to know, and many would take their time.
                *answers.entry(format!("FAILED: {failure}")).or_default() += 1;
                break;
            }
        }
    }
    answers
}

fn curl(host: &Host, url: &str) -> Result<String, String> {
    let mut command = host.command("curl");
    command.args([
        "--silent",
        "--show-error",
        "--max-time",
        "3",
        "--noproxy",
        "*",
        url,
    ]);
    run(command)
}

fn dig(host: &Host, how: &str) -> Result<String, String> {
    let mut command = host.command("dig");
    command.args([
        "@10.96.0.53",
        "+short",
        "+time=2",
        "+tries=1",
        how,
        servers::RECORD_NAME,
    ]);
    run(command)
}

fn run(mut command: std::process::Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

/// Takes an endpoint away while everything runs, shows the effect, and brings it back.
fn change_endpoints(lab: &Lab, folder: &Folder) -> Result<u32> {
    let pod = lab.pod(1, 1);
    let whole = fs::read_to_string(Path::new("examples").join("web.yaml"))?;
    let without = without_endpoint(&whole, &["10.244.2.11", "fd00:10:244:2::11"]);
    let ask = || count(|| curl(pod, &url("10.96.0.10", 80)));
    let mut table = Table::new();
    folder.write("web.yaml", &without)?;
    thread::sleep(CHANGE);
    table.row(
        "endpoint n2-a removed",
        "after 100 ms",
        ask(),
        &Expected::spread(&["n1-b"]),
    );
    folder.write("web.yaml", &whole)?;
    thread::sleep(CHANGE);
    table.row(
        "endpoint n2-a back",
        "after 100 ms",
        ask(),
        &Expected::spread(&["n1-b", "n2-a"]),
    );
    table.print();
    Ok(table.failures())
}

/// The manifest without the endpoints that have these addresses: their `- addresses:` items with what belongs to them.
fn without_endpoint(manifest: &str, addresses: &[&str]) -> String {
    let mut kept = String::new();
    let mut dropping = false;
    for line in manifest.lines() {
        if line.starts_with("- addresses:") {
            dropping = addresses.iter().any(|address| line.contains(address));
        } else if !line.starts_with(' ') {
            dropping = false;
        }
        if !dropping {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}
