//! docs/standalone.md, followed step by step: the files and commands are those of the page, with another folder in the place
//! of `/etc/fairlead`, and without systemd, whose unit is read instead.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_testkit::{Host, Lab, Process, Wiring, api::ApiServer, output};
use lb_tests::{
    agent::{self, eventually},
    deploy,
};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(20);
/// The folder that the page puts everything into.
const FOLDER: &str = "/etc/fairlead";
/// The address in front of the servers, and the servers.
const ADDRESS: &str = "192.0.2.100:6443";
const SERVERS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(192, 0, 2, 11),
    Ipv4Addr::new(192, 0, 2, 12),
    Ipv4Addr::new(192, 0, 2, 13),
];
/// Requests in a row, so many that each server gets some.
const REQUESTS: usize = 40;

/// What the page says to do.
#[derive(Debug)]
enum Step {
    /// Write a file.
    File(String, String),
    /// Run a command.
    Command(String),
    /// Lines of a manifest.
    Lines(String),
}

fn page() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/standalone.md");
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The steps of a page, from its code blocks: what a shell's prompt stands before, and manifests.
fn steps(page: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else {
            continue;
        };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        match kind {
            "console" => console(&block, &mut steps)?,
            "yaml" => steps.push(Step::Lines(block.join("\n"))),
            other => bail!("a block of {other:?}"),
        }
    }
    Ok(steps)
}

fn console(block: &[&str], steps: &mut Vec<Step>) -> Result<()> {
    let mut lines = block.iter();
    while let Some(line) = lines.next() {
        let command = line
            .strip_prefix("# ")
            .with_context(|| format!("no prompt: {line}"))?;
        let (command, _) = command.split_once("   ").unwrap_or((command, ""));
        match command.strip_prefix("cat > ") {
            Some(file) => {
                let path = file.strip_suffix(" <<'END'").context("a here-document")?;
                let text: Vec<&str> = lines
                    .by_ref()
                    .copied()
                    .take_while(|line| *line != "END")
                    .collect();
                steps.push(Step::File(path.to_owned(), text.join("\n") + "\n"));
            }
            None => steps.push(Step::Command(command.trim_end().to_owned())),
        }
    }
    Ok(())
}

/// The machine that the page is followed on: node 1, with three API servers behind node 2.
struct Machine {
    agent: Option<Process>,
    servers: ApiServer,
    lab: Lab,
}

impl Machine {
    fn new() -> Result<Self> {
        let lab = Lab::builder().wiring(Wiring::Routed).pods_per_node(3).build()?;
        let hosts: Vec<&Host> = (1..=3).map(|pod| lab.pod(2, pod)).collect();
        for (addr, host) in SERVERS.iter().zip(&hosts) {
            let addr = format!("{addr}/32");
            ip(host, &["addr", "add", &addr, "dev", "lo"])?;
            let device = format!("veth-{}", host.name);
            let via = host.v4.to_string();
            ip(
                lab.node(2),
                &["route", "add", &addr, "via", &via, "dev", &device, "onlink"],
            )?;
            ip(
                lab.node(1),
                &["route", "add", &addr, "via", &lab.node(2).v4.to_string()],
            )?;
        }
        // A client in the network, with a route to the address.
        ip(
            lab.client(),
            &[
                "route",
                "add",
                "192.0.2.100/32",
                "via",
                &lab.node(1).v4.to_string(),
            ],
        )?;
        let at = |index: usize| SocketAddr::new(SERVERS[index].into(), 6443);
        let servers = ApiServer::start(hosts[0], at(0))?;
        servers.listen(hosts[1], at(1))?;
        servers.listen(hosts[2], at(2))?;
        let machine = Self {
            agent: None,
            servers,
            lab,
        };
        Ok(machine)
    }

    fn node(&self) -> &Host {
        self.lab.node(1)
    }

    /// Where a file of the page is here.
    fn place(&self, path: &str) -> PathBuf {
        self.lab
            .folder()
            .join("machine")
            .join(path.trim_start_matches('/'))
    }

    /// A text of the page, with the folder that is there instead.
    fn translate(&self, text: &str) -> String {
        text.replace(FOLDER, &self.place(FOLDER).display().to_string())
    }

    /// The agent's binary with the words of a command of the page.
    fn fairlead(&self, words: &str) -> Result<Command> {
        let words = self.translate(words);
        let words: Vec<&str> = words.split(' ').collect();
        let mut command = agent::command(self.node(), &words)?;
        command.arg("--bpffs").arg(self.lab.bpffs(1));
        Ok(command)
    }

    fn follow(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::File(path, text) => {
                // Aside, then by a rename, as the page says for later.
                let path = self.place(path);
                let aside = path.with_extension("new");
                fs::write(&aside, self.translate(text))?;
                Ok(fs::rename(aside, path)?)
            }
            Step::Command(command) => self.run(command),
            Step::Lines(lines) => bail!("lines that belong to no file: {lines}"),
        }
    }

    fn run(&mut self, command: &str) -> Result<()> {
        match command {
            "install -m 755 target/release/fairlead /usr/local/bin/fairlead" => {}
            "install -d /etc/fairlead/services" => fs::create_dir_all(self.place("/etc/fairlead/services"))?,
            "fairlead config --config /etc/fairlead/config.yaml" => {
                let shown = output(&mut self.fairlead("config --config /etc/fairlead/config.yaml")?)?;
                let folder = self.place("/etc/fairlead/services");
                ensure!(
                    shown.contains(&format!("manifests: {}", folder.display())),
                    "{shown}"
                );
            }
            "install -m 644 deploy/systemd/fairlead.service /etc/systemd/system/" => {
                ensure!(deploy::folder("systemd/fairlead.service").is_file());
            }
            "systemctl daemon-reload" => verify_unit(self.lab.folder())?,
            "systemctl enable --now fairlead" => {
                let words = exec_start()?;
                let mut command = self.fairlead(&words)?;
                command.arg("--cgroup").arg(self.lab.cgroup()).args([
                    "--hostname-override",
                    "node1",
                    "--uplink",
                    "eth0",
                ]);
                let mut agent = self.node().spawn("fairlead", &mut command)?;
                agent.wait_for("fairlead is ready", SOON)?;
                self.agent = Some(agent);
            }
            "curl --insecure https://192.0.2.100:6443/livez" => ask(self.node())?,
            "fairlead status" => {
                let status = output(&mut self.fairlead("status")?)?;
                ensure!(status.contains("socket_rewritten"), "{status}");
            }
            other => bail!("the page has a command that this test does not know: {other}"),
        }
        Ok(())
    }

    /// The clients: processes of the machine, and a machine in the network.
    fn clients(&self) -> [&Host; 2] {
        [self.node(), self.lab.client()]
    }

    /// Requests of all clients in a row, and how many of them failed.
    fn failures(&self) -> usize {
        let clients = self.clients();
        let asked = (0..REQUESTS).flat_map(|_| clients);
        asked.filter(|client| ask(client).is_err()).count()
    }
}

fn ip(host: &Host, words: &[&str]) -> Result<()> {
    output(host.command("ip").args(words))?;
    Ok(())
}

/// Asks whether an API server is alive, at the address in front of them.
fn ask(client: &Host) -> Result<()> {
    let url = format!("https://{ADDRESS}/livez");
    let words = [
        "--insecure",
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "5",
        &url,
    ];
    let answer = output(client.command("curl").args(words))?;
    ensure!(answer == "ok", "{answer}");
    Ok(())
}

fn unit() -> Result<String> {
    Ok(fs::read_to_string(deploy::folder("systemd/fairlead.service"))?)
}

/// What the unit starts the agent with.
fn exec_start() -> Result<String> {
    let unit = unit()?;
    let mut lines = unit.lines();
    let words = lines.find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/fairlead "));
    Ok(words.context("ExecStart")?.to_owned())
}

/// Has systemd look at the unit, where it is installed. The binary is where it was built, since nothing is installed here.
fn verify_unit(folder: &Path) -> Result<()> {
    let path = folder.join("fairlead.service");
    let binary = agent::binary()?;
    fs::write(
        &path,
        unit()?.replace("/usr/local/bin/fairlead", &binary.display().to_string()),
    )?;
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&path)
        .output();
    match verified {
        Ok(verified) => {
            let said = String::from_utf8_lossy(&verified.stderr).into_owned();
            ensure!(
                verified.status.success() && said.is_empty(),
                "systemd-analyze: {said}"
            );
        }
        Err(_) => eprintln!("there is no systemd-analyze here: the unit is not verified"),
    }
    Ok(())
}

#[test]
fn the_page_leads_to_one_address_in_front_of_three_servers_and_one_of_them_may_die() {
    followed().unwrap();
}

fn followed() -> Result<()> {
    let steps = steps(&page()?)?;
    let (changes, steps): (Vec<_>, Vec<_>) =
        steps.into_iter().partition(|step| matches!(step, Step::Lines(_)));
    let mut machine = Machine::new()?;
    for step in &steps {
        machine.follow(step).with_context(|| format!("{step:?}"))?;
    }
    ensure!(
        machine.failures() == 0,
        "three servers, and not all requests are answered"
    );

    // One dies. Nobody has told yet, and the page says that Fairlead does not find out.
    machine.servers.refuse_at(1);
    machine.servers.cut_at(1)?;
    ensure!(machine.failures() > 0, "it was among those that are asked");
    let [Step::Lines(lines)] = &changes[..] else {
        bail!("one change is shown: {changes:?}")
    };
    let file = steps.iter().find_map(|step| match step {
        Step::File(path, text) if text.contains("EndpointSlice") => Some((path, text)),
        _ => None,
    });
    let (path, text) = file.context("the servers are in a file")?;
    let server = lines.lines().next().context("a line")?;
    ensure!(
        server.contains(&SERVERS[1].to_string()) && text.contains(server),
        "{lines}"
    );
    machine.follow(&Step::File(path.clone(), text.replace(server, lines)))?;
    eventually(SOON, || {
        let failures = machine.failures();
        ensure!(failures == 0, "{failures} requests failed");
        Ok(())
    })?;
    // It comes back.
    machine.servers.accept_again()?;
    machine.follow(&Step::File(path.clone(), text.clone()))?;
    ensure!(machine.failures() == 0);

    // And the end.
    let page = page()?;
    ensure!(page.contains("`systemctl stop fairlead`") && page.contains("`fairlead cleanup`"));
    let mut agent = machine.agent.take().context("an agent")?;
    agent.signal(Signal::TERM)?;
    ensure!(agent.wait(SOON)?.success(), "{}", agent.log());
    ensure!(machine.failures() == 0, "forwarding goes on");
    output(&mut machine.fairlead("cleanup")?)?;
    let mut clients = machine.clients().into_iter();
    ensure!(
        clients.all(|client| ask(client).is_err()),
        "nobody has the address any more"
    );
    Ok(())
}
