//! The agent's own behaviour: what it says and does when something is wrong, and how much it can hold.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr},
    process::Output,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Host, Lab, Server, http_get, output};
use lb_tests::{
    agent::{Agent, Folder, binary, command, eventually},
    manifests::Manifest,
};

const WEB: &str = "10.96.0.10:80";

fn web() -> SocketAddr {
    WEB.parse().unwrap()
}

/// A lab with one server, a manifest of its service, and an agent.
fn stage() -> Result<(Agent, Server, Folder, Manifest, Lab)> {
    let lab = Lab::builder().pods_per_node(2).build()?;
    let folder = Folder::new(&lab)?;
    let manifest = Manifest::new("web", 10)
        .port(80, 8080, Some(31521))
        .endpoint(lab.pod(1, 2), "node1");
    folder.write("web.yaml", &manifest.yaml())?;
    let server = Server::start(lab.pod(1, 2), 8080)?;
    let agent = Agent::start(&lab, 1, folder.path())?;
    Ok((agent, server, folder, manifest, lab))
}

fn still_serves(client: &Host) -> Result<()> {
    for _ in 0..10 {
        http_get(client, web()).context("the dataplane must go on")?;
    }
    Ok(())
}

/// The one line that the agent ends with, if it ends with status 1 and nothing else in standard output.
fn only_error(result: &Output) -> Result<String> {
    let text = String::from_utf8_lossy(&result.stderr).into_owned();
    ensure!(
        result.status.code() == Some(1),
        "ended with {}: {text}",
        result.status
    );
    let errors: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("fairlead: "))
        .collect();
    ensure!(errors.len() == 1, "one line of error expected:\n{text}");
    Ok(errors[0].to_owned())
}

/// Runs `fairlead run` on node 1 with these arguments to its end.
fn run_to_end(lab: &Lab, arguments: &[&str]) -> Result<Output> {
    let mut words = vec!["run"];
    words.extend(arguments);
    let mut command = command(lab.node(1), &words)?;
    Ok(command
        .arg("--cgroup")
        .arg(lab.cgroup())
        .args(["--workload", "veth-*", "--uplink", "eth0"])
        .output()?)
}

#[test]
fn a_start_that_cannot_go_on_says_why_and_touches_nothing() {
    cannot_start().unwrap();
}

fn cannot_start() -> Result<()> {
    let (agent, _server, folder, _manifest, lab) = stage()?;
    let client = lab.pod(1, 1);
    let manifests = folder.path().to_str().context("a path")?;
    let bpffs = lab.bpffs(1);
    let bpffs = bpffs.to_str().context("a path")?;

    let error = only_error(&run_to_end(&lab, &["--manifests", "/nowhere", "--bpffs", bpffs])?)?;
    ensure!(
        error.contains("/nowhere") && error.contains("No such file"),
        "{error}"
    );
    still_serves(client)?;

    let error = only_error(&run_to_end(&lab, &["--manifests", manifests, "--bpffs", bpffs])?)?;
    ensure!(
        error.contains("another agent uses") && error.contains(bpffs) && error.contains("process"),
        "{error}"
    );
    still_serves(client)?;

    drop(agent);
    let sizes = ["--manifests", manifests, "--bpffs", bpffs, "--max-flows", "1000"];
    let error = only_error(&run_to_end(&lab, &sizes)?)?;
    ensure!(
        error.contains("FLOWS4") && error.contains("fairlead cleanup"),
        "{error}"
    );
    still_serves(client)?;

    let node = lab.node(1);
    let mut unprivileged = node.command("setpriv");
    unprivileged
        .args(["--bounding-set=-all", "--inh-caps=-all"])
        .arg(binary()?);
    let result = unprivileged
        .args(["run", "--manifests", manifests, "--bpffs", bpffs, "--cgroup"])
        .arg(lab.cgroup())
        .output()?;
    let error = only_error(&result)?;
    ensure!(
        error.contains("CAP_BPF") && error.contains("CAP_NET_ADMIN"),
        "{error}"
    );
    still_serves(client)?;

    let elsewhere = lab.bpffs(2);
    let no_cgroup = node
        .command(binary()?)
        .args(["run", "--manifests", manifests, "--cgroup", "/proc", "--bpffs"])
        .arg(&elsewhere)
        .args(["--workload", "none-*", "--uplink", "none"])
        .output()?;
    let error = only_error(&no_cgroup)?;
    ensure!(error.contains("/proc is no cgroup v2"), "{error}");

    let usage = node.command(binary()?).args(["run"]).output()?;
    ensure!(usage.status.code() == Some(2), "{usage:?}");
    still_serves(client)
}

#[test]
fn a_bad_manifest_is_told_with_file_document_and_field_and_the_last_good_one_stays() {
    bad_manifest().unwrap();
}

fn bad_manifest() -> Result<()> {
    let (agent, _server, folder, manifest, lab) = stage()?;
    let client = lab.pod(1, 1);
    let good = manifest.yaml();
    for (bad, words) in [
        (
            good.replacen("port: 80,", "port: eighty,", 1),
            ["web.yaml", "document 1", "port"],
        ),
        (
            good.replacen("port: 80,", "port: 0,", 1),
            ["web.yaml", "document 1", "port"],
        ),
        (
            good.replacen("10.96.0.10", "10.96.0.1000", 2),
            ["web.yaml", "document 1", "clusterIP"],
        ),
        (
            good.replacen("addressType: IPv4", "addressType: IPX", 1),
            ["web.yaml", "document 2", "addressType"],
        ),
        (format!("{good}---\n{{[\n"), ["web.yaml", "document", "4"]),
    ] {
        let seen = agent.log().len();
        folder.write("web.yaml", &bad)?;
        eventually(Duration::from_secs(2), || {
            let log = agent.log();
            let told = log[seen..]
                .lines()
                .any(|line| line.contains("ERROR") && words.iter().all(|word| line.contains(word)));
            ensure!(told, "no line with {words:?}:\n{}", &log[seen..]);
            Ok(())
        })?;
        still_serves(client)?;
    }
    folder.write(
        "other.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n",
    )?;
    eventually(Duration::from_secs(2), || {
        ensure!(
            agent
                .log()
                .lines()
                .filter(|line| line.contains("Deployment"))
                .count()
                == 1,
            "{}",
            agent.log()
        );
        Ok(())
    })?;
    folder.write("web.yaml", &good)?;
    std::thread::sleep(Duration::from_millis(100));
    still_serves(client)
}

#[test]
fn devices_that_come_and_go_in_a_hurry_do_no_harm() {
    hurried_devices().unwrap();
}

fn hurried_devices() -> Result<()> {
    let (mut agent, _server, _folder, _manifest, lab) = stage()?;
    let node = lab.node(1);
    let script = "for i in $(seq 60); do ip link add veth-x$i type veth peer name y$i; ip link set veth-x$i up; \
                  ip link set veth-x$i name veth-z$i 2>/dev/null; ip link del y$i; done";
    output(node.command("sh").args(["-c", script]))?;
    still_serves(lab.pod(1, 1))?;
    eventually(Duration::from_secs(20), || {
        let status = output(command(node, &["status"])?.arg("--bpffs").arg(lab.bpffs(1)))?;
        ensure!(
            !status.contains("veth-x") && !status.contains("veth-z"),
            "{status}"
        );
        ensure!(
            status.contains("veth-n1-a") && status.contains("new_flow"),
            "{status}"
        );
        Ok(())
    })?;
    let log = agent.log();
    ensure!(!log.contains("ERROR") && !log.contains(" WARN "), "{log}");
    agent.process().signal(rustix::process::Signal::INT)?;
    ensure!(
        agent.process().wait(Duration::from_secs(5))?.success(),
        "{}",
        agent.log()
    );
    Ok(())
}

#[test]
fn cleanup_waits_for_the_agent_and_leaves_nothing() {
    clean_up(&[]).unwrap();
}

/// The same with clsact filters, which kernels before 6.6 need.
#[test]
fn clsact_filters_serve_outlive_the_agent_and_are_cleaned_up() {
    clean_up(&["--no-tcx"]).unwrap();
}

fn clean_up(more: &[&str]) -> Result<()> {
    let (mut agent, _server, folder, _manifest, lab) = stage()?;
    let (node, client) = (lab.node(1), lab.pod(1, 1));
    if !more.is_empty() {
        agent.process().signal(rustix::process::Signal::TERM)?;
        agent.process().wait(Duration::from_secs(5))?;
        cleanup(&lab)?;
        agent = Agent::start_with(&lab, 1, folder.path(), more)?;
        still_serves(client)?;
        // Started again, it takes the place of its own filters.
        agent.process().signal(rustix::process::Signal::KILL)?;
        agent.process().wait(Duration::from_secs(5))?;
        still_serves(client)?;
        agent = Agent::start_with(&lab, 1, folder.path(), more)?;
    }
    still_serves(client)?;
    let mut early = command(node, &["cleanup"])?;
    let error = only_error(&early.arg("--bpffs").arg(lab.bpffs(1)).output()?)?;
    ensure!(error.contains("another agent uses"), "{error}");
    still_serves(client)?;

    agent.process().signal(rustix::process::Signal::TERM)?;
    agent.process().wait(Duration::from_secs(5))?;
    still_serves(client)?;
    cleanup(&lab)?;
    ensure!(http_get(client, web()).is_err(), "the service must be gone");
    ensure!(!lab.bpffs(1).exists(), "{} must be gone", lab.bpffs(1).display());
    let filters = output(
        node.command("tc")
            .args(["filter", "show", "dev", "veth-n1-a", "ingress"]),
    )?;
    ensure!(filters.trim().is_empty(), "{filters}");
    // Again: nothing is there, which is fine.
    cleanup(&lab)
}

fn cleanup(lab: &Lab) -> Result<()> {
    Ok(output(
        command(lab.node(1), &["cleanup"])?
            .arg("--bpffs")
            .arg(lab.bpffs(1)),
    )
    .map(drop)?)
}

/// 10,000 services of 3 endpoints, one of which leads to a real server.
#[test]
fn ten_thousand_services_of_three_endpoints_load() {
    ten_thousand().unwrap();
}

fn ten_thousand() -> Result<()> {
    const SERVICES: usize = 10_000;
    const REAL: usize = 7_777;
    const FILES: usize = 20;
    let lab = Lab::builder().pods_per_node(2).build()?;
    let folder = Folder::new(&lab)?;
    for file in 0..FILES {
        let mut text = String::new();
        for number in (file..SERVICES).step_by(FILES) {
            service_of_three(&mut text, number, (number == REAL).then(|| lab.pod(1, 2)));
        }
        folder.write(&format!("services-{file}.yaml"), &text)?;
    }
    let _server = Server::start(lab.pod(1, 2), 8080)?;
    let mut agent = Agent::start(&lab, 1, folder.path())?;
    let log = agent.log();
    let ready = log
        .lines()
        .find(|line| line.contains("fairlead is ready"))
        .context("no line")?
        .to_owned();
    let value = |name: &str| -> Result<u64> {
        let rest = ready
            .split_once(&format!("{name}="))
            .with_context(|| format!("{name} in {ready}"))?
            .1;
        Ok(rest.split(' ').next().unwrap_or_default().parse()?)
    };
    ensure!(!log.contains("ERROR"), "{log}");
    ensure!(value("services")? == SERVICES as u64, "{ready}");
    ensure!(value("maglev_bytes")? < 16 * 1024 * 1024, "{ready}");
    let status = fs::read_to_string(format!("/proc/{}/status", agent.process().id()))?;
    let rss = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap_or_default();
    println!(
        "10,000 services of 3 endpoints: {} ms, {} bytes of tables, {rss}",
        value("ms")?,
        value("maglev_bytes")?
    );
    let addr = SocketAddr::new(cluster_ip(REAL), 80);
    for client in [lab.pod(1, 1), lab.node(1)] {
        ensure!(http_get(client, addr)?.server == "n1-b");
    }
    Ok(())
}

fn cluster_ip(number: usize) -> IpAddr {
    IpAddr::from([10, 96 + (number >> 16) as u8, (number >> 8) as u8, number as u8])
}

/// A service with three endpoints, or with one real one.
fn service_of_three(text: &mut String, number: usize, real: Option<&Host>) {
    let addresses: Vec<String> = match real {
        Some(pod) => vec![pod.v4.to_string()],
        None => (0..3)
            .map(|nth| format!("10.{}.{}.{}", 128 + nth, number >> 8, number & 255))
            .collect(),
    };
    let _ = write!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{number}}}\nspec:\n  clusterIP: {}\n  ports:\n  - {{port: 80, \
         targetPort: 8080}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{number}-1, labels: \
         {{kubernetes.io/service-name: s{number}}}}}\naddressType: IPv4\nports: [{{port: 8080}}]\nendpoints:\n",
        cluster_ip(number)
    );
    for address in addresses {
        let _ = writeln!(text, "- {{addresses: [{address}], nodeName: node1}}");
    }
}
