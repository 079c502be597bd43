//! All figures of a run.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{
    load::Load,
    proxies::Proxy,
    stats::{Samples, Summary},
    wire::Path,
};

/// Something that is measured in the lab with every proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scene {
    /// Packets a second on one core.
    Packets(Path),
    /// Connections or requests a second from a pod.
    FromPod(Load),
    /// The same from a process of the node.
    FromNode(Load),
}

impl Scene {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::Packets(Path::Uplink),
        Self::Packets(Path::Pod),
        Self::FromPod(Load::Connections),
        Self::FromPod(Load::Requests),
        Self::FromPod(Load::Datagrams),
        Self::FromNode(Load::Connections),
        Self::FromNode(Load::Requests),
        Self::FromNode(Load::Datagrams),
    ];

    /// Name in files.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Packets(Path::Uplink) => "packets-uplink-nodeport-remote",
            Self::Packets(Path::Pod) => "packets-pod-clusterip-remote",
            Self::FromPod(Load::Connections) => "connections-pod",
            Self::FromPod(Load::Requests) => "requests-pod",
            Self::FromPod(Load::Datagrams) => "datagrams-pod",
            Self::FromNode(Load::Connections) => "connections-node",
            Self::FromNode(Load::Requests) => "requests-node",
            Self::FromNode(Load::Datagrams) => "datagrams-node",
        }
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packets(Path::Uplink) => "packets/s, uplink → NodePort → other node",
            Self::Packets(Path::Pod) => "packets/s, pod → ClusterIP → other node",
            Self::FromPod(Load::Connections) => "TCP connections/s, pod → ClusterIP",
            Self::FromPod(Load::Requests) => "TCP requests/s, pod → ClusterIP",
            Self::FromPod(Load::Datagrams) => "UDP requests/s, pod → ClusterIP",
            Self::FromNode(Load::Connections) => "TCP connections/s, node → ClusterIP",
            Self::FromNode(Load::Requests) => "TCP requests/s, node → ClusterIP",
            Self::FromNode(Load::Datagrams) => "UDP requests/s, node → ClusterIP",
        })
    }
}

/// The scene with a floor.
const UPLINK: Scene = Scene::Packets(Path::Uplink);

/// What is measured: a scene, with so many services, with a proxy.
pub(crate) type Key = (Scene, usize, Proxy);

/// What came of measuring one thing in all rounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// The figures.
    pub(crate) samples: Samples,
    /// Why others could not be measured.
    pub(crate) failures: Vec<String>,
}

/// What a packet costs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cost {
    /// With headers only restored, ns.
    pub(crate) restore: Samples,
    /// With the floor program, ns.
    pub(crate) floor: Samples,
    /// With the datapath, ns.
    pub(crate) real: Samples,
    /// With the datapath and without counting service ports, ns.
    pub(crate) uncounted: Samples,
    /// Why others could not be measured.
    pub(crate) failures: Vec<String>,
}

impl Cost {
    /// The cost as a multiple of the floor's. Both with what restoring the headers costs, which the harness adds; so as
    /// not to hide anything behind it, [`Self::net_ratio`] is without.
    pub(crate) fn ratio(&self) -> Option<f64> {
        Some(self.real.summary()?.median / self.floor.summary()?.median)
    }

    /// The same without what restoring the headers costs.
    pub(crate) fn net_ratio(&self) -> Option<f64> {
        let restore = self.restore.summary()?.median;
        let floor = self.floor.summary()?.median - restore;
        (floor > 0.0).then_some((self.real.summary()?.median - restore) / floor)
    }

    /// The cost as a multiple of that without counting, both without what restoring the headers costs.
    pub(crate) fn counting_ratio(&self) -> Option<f64> {
        let restore = self.restore.summary()?.median;
        let uncounted = self.uncounted.summary()?.median - restore;
        (uncounted > 0.0).then_some((self.real.summary()?.median - restore) / uncounted)
    }
}

/// What the agent takes, MB (10^6 bytes).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// What it has in memory, its program and mapped maps included.
    pub(crate) resident: f64,
    /// Of that, what it has allocated.
    pub(crate) own: f64,
    /// The most that it ever had.
    pub(crate) peak: f64,
}

/// What the agent does with a large cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Control {
    /// Services, of one port each.
    pub(crate) services: usize,
    /// Endpoints of all of them.
    pub(crate) endpoints: usize,
    /// From the start of the agent over an empty kernel until it serves.
    pub(crate) ready: Duration,
    /// What it takes then.
    pub(crate) memory: Memory,
    /// The same for one that takes over what is in the kernel.
    pub(crate) ready_again: Duration,
    /// What that takes.
    pub(crate) memory_again: Memory,
    /// From the API server to the kernel, ms.
    pub(crate) changes: Samples,
}

/// All figures of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// What packets cost, in the order of the cases.
    pub(crate) costs: Vec<(String, Cost)>,
    /// What the lab gave.
    pub(crate) lab: BTreeMap<Key, Outcome>,
    /// What the agent does with a large cluster, if that was measured.
    pub(crate) control: Option<Control>,
}

impl Figures {
    /// What is said of one thing, if it was measured at all.
    pub(crate) fn summary(&self, key: Key) -> Option<Summary> {
        self.lab.get(&key)?.samples.summary()
    }

    /// How many times as much as another proxy one has, by their medians.
    pub(crate) fn ratio(&self, scene: Scene, services: usize, one: Proxy, other: Proxy) -> Option<f64> {
        let of = |proxy| Some(self.summary((scene, services, proxy))?.median);
        Some(of(one)? / of(other)?)
    }

    /// How many times as much as one proxy another one costs a packet from the uplink, both without what the wire and its
    /// ends cost.
    pub(crate) fn net_ratio(&self, services: usize, one: Proxy, other: Proxy) -> Option<f64> {
        let ns = |proxy| Some(1e9 / self.summary((UPLINK, services, proxy))?.median);
        let floor: f64 = ns(Proxy::Turn)?;
        let own = ns(one)? - floor;
        (own > 0.0).then_some((ns(other)? - floor) / own)
    }

    /// Things without a single figure, with the reason.
    pub(crate) fn missing(&self) -> Vec<String> {
        let why = |failures: &[String]| failures.first().cloned().unwrap_or_else(|| "not run".to_owned());
        let lab = self
            .lab
            .iter()
            .filter(|(_, outcome)| outcome.samples.values().is_empty())
            .map(|((scene, services, proxy), outcome)| {
                format!(
                    "{scene}, {services} services, {}: {}",
                    proxy.name(),
                    why(&outcome.failures)
                )
            });
        let costs = self
            .costs
            .iter()
            .filter(|(_, cost)| cost.ratio().is_none())
            .map(|(name, cost)| format!("{name}: {}", why(&cost.failures)));
        costs.chain(lab).collect()
    }
}

/// A goal of the project and how far it is met.
pub(crate) struct Target {
    /// What is wanted.
    pub(crate) goal: String,
    /// The figure; none if it was not measured.
    pub(crate) figure: Option<f64>,
    /// Whether it is met.
    pub(crate) met: bool,
}

/// What the project wants of itself at this stage.
pub(crate) fn targets(figures: &Figures) -> Vec<Target> {
    /// Established packets may cost so many times the floor.
    const FLOORS: f64 = 2.5;
    /// Packets from the uplink by XDP.
    const XDP: f64 = 3.0;
    /// Connections from pods.
    const CONNECTIONS: f64 = 1.1;
    /// An endpoint's change from the API server to the kernel, ms.
    const CHANGE: f64 = 20.0;
    /// The agent with 10,000 services of 10 endpoints, MB.
    const MEMORY: f64 = 100.0;
    let mut targets = Vec::new();
    if let Some(control) = &figures.control {
        let change = control.changes.percentile(99);
        targets.push(Target {
            goal: format!("endpoint change in the kernel, p99: at most {CHANGE} ms"),
            figure: change,
            met: change.is_some_and(|change| change <= CHANGE),
        });
        let most = control.memory.resident.max(control.memory_again.resident);
        targets.push(Target {
            goal: format!("agent, {} endpoints: less than {MEMORY} MB", control.endpoints),
            figure: Some(most),
            met: most < MEMORY,
        });
    }
    for (name, cost) in &figures.costs {
        if name.starts_with("established") {
            let figure = cost.ratio();
            targets.push(Target {
                goal: format!("{name}: at most {FLOORS} × the floor"),
                figure,
                met: figure.is_some_and(|figure| figure <= FLOORS),
            });
        }
    }
    let counts: std::collections::BTreeSet<usize> = figures.lab.keys().map(|(_, count, _)| *count).collect();
    let wanted = [
        (UPLINK, Proxy::FairleadXdp, XDP),
        (Scene::FromPod(Load::Connections), Proxy::FairleadTc, CONNECTIONS),
    ];
    for (scene, own, factor) in wanted {
        if !figures.lab.keys().any(|(of, ..)| *of == scene) {
            continue;
        }
        for count in &counts {
            for other in [Proxy::Nftables, Proxy::Iptables] {
                let figure = figures.ratio(scene, *count, own, other);
                targets.push(Target {
                    goal: format!(
                        "{scene}, {count} services: {} at least {factor} × {}",
                        own.name(),
                        other.name()
                    ),
                    figure,
                    met: figure.is_some_and(|figure| figure >= factor),
                });
                if scene == UPLINK {
                    let figure = figures.net_ratio(*count, own, other);
                    targets.push(Target {
                        goal: format!(
                            "the same without the floor: {} costs at least {factor} × {}",
                            other.name(),
                            own.name()
                        ),
                        figure,
                        met: figure.is_some_and(|figure| figure >= factor),
                    });
                }
            }
        }
    }
    targets
}
