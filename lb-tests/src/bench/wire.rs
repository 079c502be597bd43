//! Packets a second through the first node on one core.
//!
//! ```text
//!   generator ─► the peer of the node's device ═ veth ═ the node ─► its uplink ═ veth ═ the switch's port: sink
//! ```
//!
//! The generator is an XDP program whose frames `BPF_PROG_TEST_RUN` sends for real (live frames): it writes a whole frame, with
//! another source port each time, and redirects it into the peer of the node's device. The sink is an XDP program on the
//! switch's port that counts and drops what the node sends to the endpoint. Both ends and the node run on one CPU, in the
//! context of the thread that generates; what counts is what arrives. The two ends cost each proxy the same.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray},
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode},
};
use lb_common::bench::{GENERATED_WORDS, Plan};
use lb_testkit::{Host, Lab, addresses, output, packet};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::services::{FAR, FAR_NODE_PORT, PORTS, TARGETS, node_address};

/// Clients that take turns.
const CLIENTS: u32 = 4096;
/// Frames that the kernel makes at once: its own default, and less than a veth's ring takes.
const BATCH: u32 = 64;
/// Frames of one call.
const CALL: u32 = 32 * 1024;
/// How long frames may be on their way.
const SETTLE: Duration = Duration::from_millis(20);
/// The uplink's device on the node, and a pod's.
const UPLINK: &str = "eth0";
/// The port of the switch that leads to the first node.
const PORT: &str = "node1";

/// Where frames enter the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Path {
    /// From outside to a NodePort with an endpoint on the other node.
    Uplink,
    /// From a pod to a ClusterIP with an endpoint on the other node.
    Pod,
}

/// Both ends.
pub(crate) struct Ends<'a> {
    lab: &'a Lab,
    switch: Host,
    bpf: Ebpf,
    cpu: usize,
}

impl<'a> Ends<'a> {
    /// Loads both ends and attaches the sink; it is there as long as the value.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the programs.
    pub(crate) fn attach(lab: &'a Lab, object: &[u8], cpu: usize) -> Result<Self> {
        let switch = lab.switch().clone();
        let pins = lab.bpffs(1).with_file_name("bench");
        std::fs::create_dir_all(&pins).with_context(|| format!("create {}", pins.display()))?;
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(&pins);
        for name in lb_common::abi::map::PINNED {
            // They are in the object, and nobody uses them here.
            if name != lb_common::abi::map::COUNTERS {
                loader.map_max_entries(name, 4096);
            }
        }
        let mut bpf = loader.load(object).context("load the generator and the sink")?;
        std::fs::remove_dir_all(&pins).with_context(|| format!("remove {}", pins.display()))?;
        for name in ["bench_generate", "bench_sink", "bench_turn"] {
            let program: &mut Xdp = bpf.program_mut(name).context(name)?.try_into()?;
            program.load().with_context(|| format!("load program {name}"))?;
        }
        let sink: &mut Xdp = bpf.program_mut("bench_sink").context("bench_sink")?.try_into()?;
        switch
            .run(|| sink.attach(PORT, XdpMode::Driver))?
            .with_context(|| format!("attach the sink to {PORT} of the switch"))?;
        Ok(Self {
            lab,
            switch,
            bpf,
            cpu,
        })
    }

    /// Has frames turned around by the node's uplink as soon as they come in.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the program.
    pub(crate) fn turn_at_once(&mut self) -> Result<()> {
        let turn: &mut Xdp = self
            .bpf
            .program_mut("bench_turn")
            .context("bench_turn")?
            .try_into()?;
        self.lab
            .node(1)
            .run(|| turn.attach(UPLINK, XdpMode::Driver))?
            .with_context(|| format!("attach bench_turn to {UPLINK} of the node"))?;
        Ok(())
    }

    /// Packets a second that arrive, measured for about so long. `proxied` says whether the clients ask the service, or
    /// the endpoint itself.
    ///
    /// # Errors
    ///
    /// If nothing arrives, or the kernel refuses.
    pub(crate) fn rate(&mut self, path: Path, proxied: bool, time: Duration) -> Result<f64> {
        let (from, device) = match path {
            Path::Uplink => (self.switch.clone(), PORT),
            Path::Pod => (self.lab.pod(1, 1).clone(), UPLINK),
        };
        let plan = self.plan(path, proxied, link(&from, device)?.index)?;
        Array::<_, [u32; 32]>::try_from(self.bpf.map_mut("BENCH_PLAN").context("BENCH_PLAN")?)?.set(
            0,
            plan.as_words(),
            0,
        )?;
        // Every client's flow is opened, and its neighbour found.
        self.generate(&from, Duration::ZERO)?;
        thread::sleep(SETTLE);
        let before = self.counts()?;
        let took = self.generate(&from, time)?;
        let mut after = self.counts()?;
        loop {
            thread::sleep(SETTLE);
            let now = self.counts()?;
            if now == after {
                break;
            }
            after = now;
        }
        let (made, arrived) = (after[0] - before[0], after[1] - before[1]);
        ensure!(
            arrived > 0,
            "none of {made} frames came out of the node's uplink; on its way in: {}; on its way out: {}",
            statistics(&self.lab.node(1).clone(), UPLINK),
            statistics(&self.switch, PORT)
        );
        Ok(arrived as f64 / took.as_secs_f64())
    }

    /// Sends frames for at least so long; returns how long it took.
    fn generate(&self, from: &Host, time: Duration) -> Result<Duration> {
        let program: &Xdp = self
            .bpf
            .program("bench_generate")
            .context("bench_generate")?
            .try_into()?;
        let frame = [0; 4 * GENERATED_WORDS];
        let cpu = self.cpu;
        from.run(|| {
            stay_on(cpu)?;
            let begin = Instant::now();
            loop {
                program
                    .test_run(TestRunOptions {
                        data_in: Some(&frame),
                        repeat: CALL,
                        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                        ..TestRunOptions::new()
                    })
                    .context("send live frames")?;
                if begin.elapsed() >= time {
                    return Ok(begin.elapsed());
                }
            }
        })?
    }

    /// Frames made and frames that arrived so far.
    fn counts(&self) -> Result<[u64; 2]> {
        let counts = PerCpuArray::<&MapData, [u64; 2]>::try_from(
            self.bpf.map("BENCH_COUNTS").context("BENCH_COUNTS")?,
        )?;
        let mut sum = [0; 2];
        for [made, arrived] in counts.get(&0, 0)?.iter() {
            sum[0] += made;
            sum[1] += arrived;
        }
        Ok(sum)
    }

    /// The frame and where it is sent.
    fn plan(&self, path: Path, proxied: bool, redirect: u32) -> Result<Plan> {
        let endpoint = self.lab.pod(2, 1).v4;
        let target = TARGETS[0];
        let (client, service) = match path {
            Path::Uplink => (addresses::CLIENT4, (node_address(), FAR_NODE_PORT)),
            Path::Pod => (self.lab.pod(1, 1).v4, (FAR, PORTS[0])),
        };
        let (addr, port) = if proxied { service } else { (endpoint, target) };
        let (to, from) = match path {
            Path::Uplink => (
                link(self.lab.node(1), UPLINK)?.mac,
                link(self.lab.client(), UPLINK)?.mac,
            ),
            Path::Pod => (
                link(self.lab.node(1), "veth-n1-a")?.mac,
                link(self.lab.pod(1, 1), UPLINK)?.mac,
            ),
        };
        let mut frame = packet::udp(&format!("{client}:32768"), &format!("{addr}:{port}"))
            .payload(&[0; 4 * GENERATED_WORDS - 42])
            // Receiving hardware checks it; conntrack would do so here in software.
            .no_checksum()
            .bytes();
        ensure!(
            frame.len() == 4 * GENERATED_WORDS,
            "a frame of {} bytes",
            frame.len()
        );
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&from);
        let mut plan = Plan {
            flows: CLIENTS,
            redirect,
            sunk_port: u32::from(target.to_be()),
            ..Plan::default()
        };
        for (word, bytes) in plan.words.iter_mut().zip(frame.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Ok(plan)
    }
}

/// Makes the lab's wires like those of a network card: frames are taken from them by NAPI, whoever runs on the node, and
/// the neighbours that frames go to are known.
pub(crate) fn prepare(lab: &Lab) -> Result<()> {
    let node = lab.node(1);
    for device in [UPLINK, "veth-n1-a"] {
        output(node.command("ethtool").args(["-K", device, "gro", "on"]))
            .with_context(|| format!("have {device} of the node take frames by NAPI"))?;
    }
    let mac = link(lab.node(2), UPLINK)?
        .mac
        .map(|byte| format!("{byte:02x}"))
        .join(":");
    let neighbour = addresses::node4(2).to_string();
    output(node.command("ip").args([
        "neigh",
        "replace",
        &neighbour,
        "lladdr",
        &mac,
        "dev",
        UPLINK,
        "nud",
        "permanent",
    ]))?;
    Ok(())
}

/// Keeps the calling thread on one CPU.
pub(crate) fn stay_on(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(None, &cpus).with_context(|| format!("stay on CPU {cpu}"))
}

/// A device's index and hardware address.
struct Link {
    index: u32,
    mac: [u8; 6],
}

fn link(host: &Host, device: &str) -> Result<Link> {
    let text = output(host.command("ip").args(["-o", "link", "show", "dev", device]))?;
    let parsed = || {
        let index = text.split(':').next()?.trim().parse().ok()?;
        let mac = text.split("link/ether ").nth(1)?.split(' ').next()?;
        let mut bytes = [0; 6];
        for (byte, text) in bytes.iter_mut().zip(mac.split(':')) {
            *byte = u8::from_str_radix(text, 16).ok()?;
        }
        Some(Link { index, mac: bytes })
    };
    match parsed() {
        Some(link) => Ok(link),
        None => bail!(
            "cannot read index and address of {device} on {} in {text:?}",
            host.name
        ),
    }
}

/// What a device has counted, for errors.
fn statistics(host: &Host, device: &str) -> String {
    output(host.command("ip").args(["-s", "link", "show", "dev", device]))
        .unwrap_or_else(|error| error.to_string())
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}
