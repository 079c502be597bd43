//! What is compared: proxies that take turns on the first node of one lab.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Host, Lab, output};
use lb_tests::agent::{self, Agent};

use super::{
    iptables, nftables,
    services::{Service, manifests},
};

/// How long an agent may take to end, or a program to load rules.
const PATIENCE: Duration = Duration::from_secs(60);

/// A proxy, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Proxy {
    /// The node's uplink turns frames around at once: what the wire costs. Only where frames leave by the uplink that they
    /// came by.
    Turn,
    /// Clients ask the endpoint itself: the limit.
    None,
    /// Fairlead with tc programs only.
    FairleadTc,
    /// Fairlead with XDP on the uplink.
    FairleadXdp,
    /// kube-proxy's nftables mode.
    Nftables,
    /// kube-proxy's iptables mode, by iptables-nft.
    Iptables,
}

/// Settings that kube-proxy makes, in /proc/sys/net. Its limit on connections (131072 at least) cannot be set in a
/// namespace of its own; the machine's is printed.
pub(crate) const CONNTRACK: [(&str, &str); 2] = [
    ("netfilter/nf_conntrack_tcp_timeout_established", "86400"),
    ("netfilter/nf_conntrack_tcp_timeout_close_wait", "3600"),
];
/// What the iptables mode sets besides, for NodePorts on localhost.
pub(crate) const LOCALNET: (&str, &str) = ("ipv4/conf/all/route_localnet", "1");
/// Settings of the lab, the same for all. Packets from the uplink leave by the uplink again: sending redirects about
/// that would cost the proxies that use the node's stack, and Fairlead nothing.
pub(crate) const LAB: [(&str, &str); 3] = [
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/eth0/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
];

impl Proxy {
    /// All, in the order of the first round.
    pub(crate) const ALL: [Self; 6] = [
        Self::Turn,
        Self::None,
        Self::FairleadXdp,
        Self::FairleadTc,
        Self::Nftables,
        Self::Iptables,
    ];

    /// Name in tables and files.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Turn => "xdp-floor",
            Self::None => "none",
            Self::FairleadTc => "fairlead-tc",
            Self::FairleadXdp => "fairlead-xdp",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// Makes settings in a host's namespace; those that a namespace does not have are told of.
pub(crate) fn set(host: &Host, settings: &[(&str, &str)]) -> Result<()> {
    for (name, value) in settings {
        let path = PathBuf::from("/proc/sys/net").join(name);
        host.run(|| fs::write(&path, value))?
            .with_context(|| format!("set {} on {}", path.display(), host.name))?;
    }
    Ok(())
}

/// A proxy that runs. It is gone when [`Running::stop`] has returned.
pub(crate) struct Running<'a> {
    lab: &'a Lab,
    proxy: Proxy,
    agent: Option<Agent>,
}

impl<'a> Running<'a> {
    /// Starts a proxy on the first node for these services.
    ///
    /// # Errors
    ///
    /// If it does not come to serve, with what it said.
    pub(crate) fn start(lab: &'a Lab, proxy: Proxy, services: &[Service]) -> Result<Self> {
        let node = lab.node(1);
        let mut running = Self {
            lab,
            proxy,
            agent: None,
        };
        match proxy {
            Proxy::Turn | Proxy::None => {}
            Proxy::FairleadTc | Proxy::FairleadXdp => {
                let folder = lab.folder().join(format!("services-{}", services.len()));
                fs::create_dir_all(&folder)?;
                let path = folder.join("services.yaml");
                fs::write(&path, manifests(services)).with_context(|| format!("write {}", path.display()))?;
                let mode = if proxy == Proxy::FairleadXdp {
                    "--xdp=native"
                } else {
                    "--xdp=off"
                };
                // As it is run for real: the lab's own default is debug.
                running.agent = Some(Agent::start_with(
                    lab,
                    1,
                    &folder,
                    &["--log-level", "info", mode],
                )?);
            }
            Proxy::Nftables => {
                set(node, &CONNTRACK)?;
                running.load_rules("nft", &["-f"], &nftables::rules(services))?;
            }
            Proxy::Iptables => {
                set(node, &CONNTRACK)?;
                set(node, &[LOCALNET])?;
                running.load_rules("iptables-nft-restore", &[], &iptables::rules(services))?;
            }
        }
        Ok(running)
    }

    fn load_rules(&self, program: &str, arguments: &[&str], rules: &str) -> Result<()> {
        let path = self.lab.folder().join(format!("{}.rules", self.proxy.name()));
        fs::write(&path, rules).with_context(|| format!("write {}", path.display()))?;
        let mut command = self.lab.node(1).command(program);
        output(command.args(arguments).arg(&path))
            .with_context(|| format!("load the rules of {} with {program}", self.proxy.name()))?;
        Ok(())
    }

    /// Whom a failure was with, and of an agent the end of its log and what it says of packets.
    pub(crate) fn context(&self) -> String {
        const LINES: usize = 2;
        let name = self.proxy.name();
        let Some(agent) = &self.agent else {
            return format!("with {name}");
        };
        let log = agent.log();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(LINES)..].join(" / ");
        let status = agent::command(self.lab.node(1), &["status"])
            .and_then(|mut command| Ok(output(command.arg("--bpffs").arg(self.lab.bpffs(1)))?))
            .unwrap_or_else(|error| format!("{error:#}"));
        let status = status.split_whitespace().collect::<Vec<_>>().join(" ");
        format!("with {name}, whose log ends {end:?} and whose status is {status:?}")
    }

    /// Takes away what a proxy left that did not start.
    ///
    /// # Errors
    ///
    /// As [`Self::stop`].
    pub(crate) fn sweep(lab: &'a Lab, proxy: Proxy) -> Result<()> {
        if matches!(proxy, Proxy::FairleadTc | Proxy::FairleadXdp) {
            clean_up(lab)?;
        }
        Self {
            lab,
            proxy,
            agent: None,
        }
        .stop()
    }

    /// Takes the proxy away with all that it left in the kernel.
    ///
    /// # Errors
    ///
    /// If anything of it stays: the next proxy would be measured with it.
    pub(crate) fn stop(mut self) -> Result<()> {
        let node = self.lab.node(1);
        if let Some(mut agent) = self.agent.take() {
            agent.process().signal(rustix::process::Signal::TERM)?;
            agent.process().wait(PATIENCE)?;
            clean_up(self.lab)?;
        }
        if matches!(self.proxy, Proxy::Nftables | Proxy::Iptables) {
            output(node.command("nft").args(["flush", "ruleset"])).context("remove the rules")?;
            let left = output(node.command("nft").args(["list", "ruleset"]))?;
            ensure!(left.trim().is_empty(), "rules are left: {left}");
            set(node, &[(LOCALNET.0, "0")])?;
        }
        forget_connections(node)
    }
}

/// Removes what an agent on the first node left.
fn clean_up(lab: &Lab) -> Result<()> {
    output(
        agent::command(lab.node(1), &["cleanup"])?
            .arg("--bpffs")
            .arg(lab.bpffs(1)),
    )
    .context("clean up after the agent")?;
    Ok(())
}

/// Removes what conntrack remembers, so that no proxy finds connections of the one before it, and none fills the table.
pub(crate) fn forget_connections(host: &Host) -> Result<()> {
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
    };
    /// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`: without a tuple, of all connections.
    const DELETE: u16 = 1 << 8 | 2;
    /// `NLM_F_REQUEST | NLM_F_ACK`.
    const FLAGS: u16 = 1 | 4;
    let flush = || -> rustix::io::Result<i32> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::NETFILTER),
        )?;
        let mut message = Vec::new();
        message.extend(20u32.to_ne_bytes());
        message.extend(DELETE.to_ne_bytes());
        message.extend(FLAGS.to_ne_bytes());
        message.extend([0; 12]);
        send(&socket, &message, SendFlags::empty())?;
        let mut answer = [0; 256];
        let (_, len) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
        // Behind the header of 16 bytes: 0 or the negative error.
        let code = answer[..len]
            .get(16..20)
            .map_or(-1, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
        Ok(code)
    };
    let code = host
        .run(flush)?
        .context("remove the connections that conntrack remembers")?;
    ensure!(
        code == 0,
        "conntrack did not forget its connections: error {}",
        -code
    );
    Ok(())
}

/// Writes the rules and settings of the baselines to a folder.
pub(crate) fn write_baselines(folder: &std::path::Path, services: &[Service]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let count = services.len();
    let lines = |settings: &[(&str, &str)]| -> String {
        settings
            .iter()
            .map(|(name, value)| format!("net/{name} = {value}\n"))
            .collect()
    };
    let sysctls = format!(
        "# the lab, for all\n{}# nftables and iptables\n{}# iptables\n{}",
        lines(&LAB),
        lines(&CONNTRACK),
        lines(&[LOCALNET])
    );
    for (name, text) in [
        (format!("nftables-{count}.nft"), nftables::rules(services)),
        (format!("iptables-{count}.rules"), iptables::rules(services)),
        (format!("services-{count}.yaml"), manifests(services)),
        ("sysctls.txt".to_owned(), sysctls),
    ] {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
