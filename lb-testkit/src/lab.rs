//! Builds a lab.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::mount::{MountFlags, mount};

use crate::{
    cgroup,
    command::{ip_batch, output, run_command},
    error::{Error, Result},
    host::Host,
    ours::{self, Turn},
    stale,
    topology::{self, Wiring, addresses, pod_name},
};

/// Labs that this process has built so far.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// What a lab is to look like.
#[derive(Clone, Copy, Debug)]
pub struct Builder {
    wiring: Wiring,
    nodes: u8,
    pods: u8,
}

impl Builder {
    /// How pods are connected.
    #[must_use]
    pub const fn wiring(mut self, wiring: Wiring) -> Self {
        self.wiring = wiring;
        self
    }

    /// How many nodes there are, 99 at most; with [`Wiring::Overlay`] two.
    #[must_use]
    pub const fn nodes(mut self, nodes: u8) -> Self {
        self.nodes = nodes;
        self
    }

    /// How many pods each node has, 26 at most.
    #[must_use]
    pub const fn pods_per_node(mut self, pods: u8) -> Self {
        self.pods = pods;
        self
    }

    /// Builds the lab, after removing what killed processes left.
    ///
    /// # Errors
    ///
    /// What could not be made; whatever was made until then is removed again. [`Error::SecondLab`] if this thread has a
    /// lab already; while another thread has one, this one waits.
    pub fn build(self) -> Result<Lab> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        if self.wiring == Wiring::Overlay && self.nodes != 2 {
            let problem = format!("joins two nodes, not {}", self.nodes);
            return Err(Error::unexpected("the overlay", problem));
        }
        let turn = Turn::take()?;
        let changing = ours::changing();
        stale::sweep();
        let id = stale::identifier(COUNT.fetch_add(1, Ordering::Relaxed))?;
        let folder = Path::new(stale::RUN).join(&id);
        let cgroup = cgroup::of_lab(&id)?;
        let home = cgroup::own()?;
        ours::note(&id, &home);
        let mut lab = Lab {
            id,
            folder,
            cgroup,
            home,
            wiring: self.wiring,
            nodes: Vec::new(),
            pods: Vec::new(),
            client: None,
            switch: None,
            _turn: turn,
        };
        let made = lab.make(self);
        // Before the lab: to take it down means to change it.
        drop(changing);
        made?;
        Ok(lab)
    }
}

/// A lab of network namespaces.
#[derive(Debug)]
pub struct Lab {
    id: String,
    folder: PathBuf,
    cgroup: PathBuf,
    home: PathBuf,
    wiring: Wiring,
    nodes: Vec<Host>,
    pods: Vec<Vec<Host>>,
    client: Option<Host>,
    switch: Option<Host>,
    // The last field: others may build when all else is gone.
    _turn: Turn,
}

impl Lab {
    /// A lab with routed pods, three on each of two nodes, until told otherwise.
    pub const fn builder() -> Builder {
        Builder {
            wiring: Wiring::Routed,
            nodes: 2,
            pods: 3,
        }
    }

    /// How pods are connected.
    pub const fn wiring(&self) -> Wiring {
        self.wiring
    }

    /// All nodes, the first one first.
    pub fn nodes(&self) -> &[Host] {
        &self.nodes
    }

    /// A node, counted from 1.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn node(&self, node: usize) -> &Host {
        &self.nodes[node - 1]
    }

    /// A pod of a node, both counted from 1.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn pod(&self, node: usize, pod: usize) -> &Host {
        &self.pods[node - 1][pod - 1]
    }

    /// The pods of each node, as [`Self::nodes`] has them.
    pub fn pods(&self) -> impl Iterator<Item = &[Host]> {
        self.pods.iter().map(Vec::as_slice)
    }

    /// The client outside.
    ///
    /// # Panics
    ///
    /// Never: a lab that was built has one.
    pub fn client(&self) -> &Host {
        self.client.as_ref().expect("a lab that was built has a client")
    }

    /// The switch that connects nodes and client. Its ports are named after the hosts at their other ends: `node1`,
    /// `client`. It has no addresses.
    ///
    /// # Panics
    ///
    /// Never: a lab that was built has one.
    pub fn switch(&self) -> &Host {
        self.switch.as_ref().expect("a lab that was built has a switch")
    }

    /// A folder for files of the lab; it goes with the lab.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The cgroup that all nodes' processes are below of, and this process too: agents of all nodes attach to it.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The folder on a bpffs for the agent of a node, counted from 1.
    pub fn bpffs(&self, node: usize) -> PathBuf {
        self.folder.join("bpf").join(format!("node{node}"))
    }

    fn netns(&self, name: &str) -> String {
        format!("{}{name}", stale::prefix(&self.id))
    }

    fn make(&mut self, builder: Builder) -> Result<()> {
        self.make_folders(builder.nodes)?;
        let switch = self.netns("switch");
        let client = self.netns("client");
        let mut names = vec![switch.clone(), client.clone()];
        let pods: Vec<Vec<String>> = (1..=builder.nodes)
            .map(|node| {
                (1..=builder.pods)
                    .map(|pod| self.netns(&pod_name(node, pod)))
                    .collect()
            })
            .collect();
        let nodes: Vec<String> = (1..=builder.nodes)
            .map(|node| self.netns(&format!("node{node}")))
            .collect();
        names.extend(nodes.iter().cloned().chain(pods.iter().flatten().cloned()));
        for name in &names {
            ours::go_on()?;
            run_command("ip", &["netns", "add", name])?;
        }
        self.describe(&nodes, &pods, &client, &switch);
        for host in self.hosts() {
            set_sysctls(host)?;
        }
        let mut ends = vec![("client".to_owned(), client.clone())];
        ends.extend(
            (1..)
                .zip(&nodes)
                .map(|(node, netns): (u8, _)| (format!("node{node}"), netns.clone())),
        );
        ip_batch(&switch, &topology::switch(&ends))?;
        ip_batch(&client, &topology::client())?;
        for (node, netns) in (1..).zip(&nodes) {
            let pods = &pods[usize::from(node) - 1];
            ip_batch(netns, &topology::node(node, builder.nodes, pods, builder.wiring))?;
            for (pod, netns) in (1..).zip(pods) {
                ip_batch(netns, &topology::pod(node, pod, builder.wiring))?;
            }
            if builder.wiring == Wiring::Overlay {
                self.masquerade(usize::from(node))?;
            }
        }
        self.offload_off(&switch, &ends)
    }

    fn masquerade(&self, node: usize) -> Result<()> {
        let rules = self.folder.join(format!("node{node}.nft"));
        fs::write(&rules, topology::MASQUERADE).map_err(Error::io("write", rules.display()))?;
        output(self.node(node).command("nft").arg("--file").arg(&rules)).map(drop)
    }

    /// On a wire nothing is left for the receiver's hardware to finish.
    fn offload_off(&self, switch: &str, ends: &[(String, String)]) -> Result<()> {
        for (port, netns) in ends {
            for (netns, device) in [(switch, port.as_str()), (netns.as_str(), "eth0")] {
                let path = format!("--net=/run/netns/{netns}");
                run_command("nsenter", &[&path, "ethtool", "-K", device, "tx", "off"])?;
            }
        }
        Ok(())
    }

    fn make_folders(&self, nodes: u8) -> Result<()> {
        let bpf = self.folder.join("bpf");
        fs::create_dir_all(&bpf).map_err(Error::io("create", bpf.display()))?;
        mount("bpf", &bpf, "bpf", MountFlags::empty(), None::<&std::ffi::CStr>)
            .map_err(Error::io("mount a bpffs at", bpf.display()))?;
        let of_nodes = (1..=nodes).map(|node| format!("node{node}"));
        for folder in of_nodes.chain(["self".to_owned()]) {
            let path = self.cgroup.join(folder);
            fs::create_dir_all(&path).map_err(Error::io("create", path.display()))?;
        }
        cgroup::enter(&self.cgroup.join("self"))
            .map_err(Error::io("move this process into", self.cgroup.display()))
    }

    fn describe(&mut self, nodes: &[String], pods: &[Vec<String>], client: &str, switch: &str) {
        let host = |name: String, v4, v6, netns: &str, cgroup| Host {
            name,
            v4,
            v6,
            netns: netns.to_owned(),
            cgroup,
            run_folder: self.folder.clone(),
        };
        let (mut node_hosts, mut pod_hosts) = (Vec::new(), Vec::new());
        for (node, netns) in (1u8..).zip(nodes) {
            let name = format!("node{node}");
            let cgroup = Some(self.cgroup.join(&name));
            node_hosts.push(host(
                name,
                addresses::node4(node),
                addresses::node6(node),
                netns,
                cgroup,
            ));
            pod_hosts.push(
                (1u8..)
                    .zip(&pods[usize::from(node) - 1])
                    .map(|(pod, netns)| {
                        let name = pod_name(node, pod);
                        host(
                            name,
                            addresses::pod4(node, pod),
                            addresses::pod6(node, pod),
                            netns,
                            None,
                        )
                    })
                    .collect(),
            );
        }
        let client = host(
            "client".to_owned(),
            addresses::CLIENT4,
            addresses::CLIENT6,
            client,
            None,
        );
        self.switch = Some(host(
            "switch".to_owned(),
            Ipv4Addr::UNSPECIFIED,
            Ipv6Addr::UNSPECIFIED,
            switch,
            None,
        ));
        self.nodes = node_hosts;
        self.pods = pod_hosts;
        self.client = Some(client);
    }

    fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.nodes
            .iter()
            .chain(self.pods.iter().flatten())
            .chain(&self.client)
    }
}

/// Settings of a namespace, made before it has devices.
fn set_sysctls(host: &Host) -> Result<()> {
    let mut settings = vec![
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
    ];
    if host.cgroup.is_some() {
        // A node routes, and checks where packets come from: translation must not depend on lax settings.
        settings.extend([
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/default/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "1"),
            ("ipv4/conf/default/rp_filter", "1"),
        ]);
    }
    host.run(|| {
        for (name, value) in settings {
            let path = Path::new("/proc/sys/net").join(name);
            fs::write(&path, value).map_err(Error::io("set", path.display()))?;
        }
        Ok(())
    })?
}

impl Drop for Lab {
    fn drop(&mut self) {
        ours::take_down(&self.id, &self.home);
    }
}
