//! What packets cost the kernel programs, in ns.
//!
//! A repeated run is given the frame as the run before left it, so the harness programs of `lb-ebpf/src/bench.rs` restore
//! its headers first. The floor program restores, parses and sends on in the same way, and translates nothing.

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    maps::Array,
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use lb_common::{
    abi::{FrontendKind, Traffic},
    bench::Plan,
    datapath::{Hook, Role},
    verdict::Reason,
};
use lb_testkit::packet::addr;

use super::{
    case::Case,
    cases::{
        Addresses, FROM_UPLINK, FROM_WORKLOAD, MATRIX, first, flow, later, redirected, service, untouched,
    },
    kernel::Kernel,
    maps::map_of,
    world::{UPLINK, World},
};

/// Room for the flows of one measurement, and more.
const FLOWS: u32 = 65_536;
/// Clients of a case of new flows: more than runs in one measurement, so that each run meets a new one.
const CLIENTS: u32 = 32_768;
/// Runs of one measurement of new flows.
const RUNS_NEW: u32 = 5_000;

/// Packets whose cost is measured. Only where the packet comes in, and what is counted, is used of a case.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (a, name, proto) in MATRIX {
        let label = |what: &str| format!("{what}, {name} over {}", a.name);
        let mut add = |what: &str, hook, world: World, packet: Vec<u8>, reason| {
            cases.push(untouched(label(what), hook, world, packet, reason));
        };
        let cluster_ip = || service(proto, FrontendKind::ClusterIp, a.cluster_ip, a.local, true);
        let packet = later(proto, a.pod, a.elsewhere).bytes();
        add("pass", FROM_WORKLOAD, cluster_ip(), packet, Reason::NotService);
        let packet = first(proto, a.pod, a.cluster_ip).bytes();
        add("new flow", FROM_WORKLOAD, cluster_ip(), packet, Reason::NewFlow);
        let mut recorded = cluster_ip();
        recorded.flows.push(flow(proto, a.pod, a.cluster_ip, a.local));
        let packet = later(proto, a.pod, a.cluster_ip).bytes();
        add(
            "established",
            FROM_WORKLOAD,
            recorded.clone(),
            packet,
            Reason::Established,
        );
        let packet = later(proto, a.local, a.pod).bytes();
        add("reply", Hook::Egress, recorded, packet, Reason::ReplyRestored);

        let packet = first(proto, a.outside, a.node_port).bytes();
        let new = untouched(
            label("new flow, redirected"),
            FROM_UPLINK,
            node_port(a, proto),
            packet,
            Reason::NewFlow,
        );
        let mut recorded = node_port(a, proto);
        let mut snat = flow(proto, a.outside, a.node_port, a.remote);
        let source = source(a);
        snat.source = Some(addr(&source));
        recorded.flows.push(snat);
        let packet = later(proto, a.outside, a.node_port).bytes();
        let forward = untouched(
            label("established, redirected"),
            FROM_UPLINK,
            recorded.clone(),
            packet,
            Reason::Established,
        );
        let packet = later(proto, a.remote, &source).bytes();
        let reply = untouched(
            label("reply, redirected"),
            FROM_UPLINK,
            recorded,
            packet,
            Reason::ReplyRestored,
        );
        cases.extend([new, forward, reply].map(redirected));
    }
    cases
}

/// A NodePort service with one endpoint on another node.
fn node_port(a: Addresses, proto: u8) -> World {
    let mut world = service(proto, FrontendKind::NodePort, a.node_port, a.remote, false);
    world.sources = vec![(UPLINK, addr(a.node_port).ip())];
    world
}

/// The node's address with a port that flows are given.
fn source(a: Addresses) -> String {
    let mut source = addr(a.node_port);
    source.set_port(5_000);
    source.to_string()
}

/// What a case is measured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The headers are restored, and that is all.
    Restore,
    /// And parsed, and the packet is sent on.
    Floor,
    /// The datapath.
    Real,
    /// The same with `--service-stats=false`.
    Uncounted,
}

/// The kernel programs with the benchmark's.
pub struct Bench {
    kernel: Kernel,
    uncounted: Kernel,
}

impl Bench {
    /// Loads the object, which must be built with the feature `bench`, and moves the calling thread into a namespace with
    /// routes. Tables hold nothing but what a case needs, so this is what packets cost with everything in the CPU's caches.
    /// What the maps of the programs that count and of those that do not cost differs by when they were made: load anew, with
    /// the other ones first (`counted_first`).
    ///
    /// # Errors
    ///
    /// If the kernel refuses the programs, or the caller lacks the privileges.
    pub fn load(object: &[u8], counted_first: bool) -> Result<Self> {
        let mut first = Kernel::with_routes_and_flows(object, FLOWS, counted_first)?;
        // It finds the routes of the namespace that the thread is in now.
        let mut second = Kernel::with_flows(object, FLOWS, !counted_first)?;
        for bpf in [&mut first.bpf, &mut second.bpf] {
            for name in [
                "bench_restore",
                "bench_floor",
                "bench_workload",
                "bench_uplink",
                "bench_egress",
            ] {
                let program: &mut SchedClassifier = bpf.program_mut(name).context(name)?.try_into()?;
                program.load().with_context(|| format!("load program {name}"))?;
            }
        }
        let (kernel, uncounted) = if counted_first {
            (first, second)
        } else {
            (second, first)
        };
        Ok(Self { kernel, uncounted })
    }

    /// How long a packet takes, in ns: the mean over `runs` runs (fewer for new flows, which fill tables).
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or counts anything else than the case says.
    pub fn time(&mut self, case: &Case, program: Program, runs: u32) -> Result<u32> {
        let new = case.reason == Reason::NewFlow;
        let runs = if new { runs.min(RUNS_NEW) } else { runs };
        let datapath = matches!(program, Program::Real | Program::Uncounted);
        let (kernel, other) = match program {
            Program::Uncounted => (&mut self.uncounted, &mut self.kernel),
            _ => (&mut self.kernel, &mut self.uncounted),
        };
        // Both, so that the CPU's caches know as much of either.
        other.prepare(case)?;
        kernel.prepare(case)?;
        let mut plans = Array::<_, [u32; 32]>::try_from(map_of(&mut kernel.bpf, "BENCH_PLAN")?)?;
        plans.set(0, plan(case, new).as_words(), 0)?;
        let name = match program {
            Program::Restore => "bench_restore",
            Program::Floor => "bench_floor",
            Program::Real | Program::Uncounted => match case.hook {
                Hook::Ingress(Role::Workload) => "bench_workload",
                Hook::Ingress(Role::Uplink) => "bench_uplink",
                Hook::Egress => "bench_egress",
                Hook::Early => bail!("{}: frames before the stack are measured on a wire", case.name),
            },
        };
        let before = kernel.counters()?;
        let classifier: &mut SchedClassifier = kernel.bpf.program_mut(name).context(name)?.try_into()?;
        let result = classifier.test_run(TestRunOptions {
            data_in: Some(&case.packet),
            repeat: runs,
            ..TestRunOptions::new()
        })?;
        let after = kernel.counters()?;
        let counted = after[case.reason as usize].packets - before[case.reason as usize].packets;
        let expected = if datapath { u64::from(runs) } else { 0 };
        ensure!(
            counted == expected,
            "{}: {:?} was counted {counted} times in {runs} runs of {name}; all: {}",
            case.name,
            case.reason,
            described(&before, &after)
        );
        let redirects = result.return_value == 7;
        ensure!(
            program == Program::Restore || redirects == case.redirected,
            "{}: {name} returned {}",
            case.name,
            result.return_value as i32
        );
        Ok(result.duration.as_nanos() as u32)
    }
}

/// Which reasons were counted, and how often.
fn described(before: &[Traffic], after: &[Traffic]) -> String {
    let counted = before.iter().zip(after).enumerate();
    counted
        .filter(|(_, (before, after))| before != after)
        .map(|(number, (before, after))| {
            let reason = u32::try_from(number).ok().and_then(Reason::from_number);
            let name = reason.map_or_else(|| number.to_string(), |reason| reason.name().to_owned());
            format!("{name} {}", after.packets - before.packets)
        })
        .collect::<Vec<_>>()
        .join(", ")
}

/// What the programs restore for a case.
fn plan(case: &Case, new: bool) -> Plan {
    let packet = &case.packet;
    let ipv6 = packet[12] == 0x86;
    let (transport, client, proto) = if ipv6 {
        (54, 34, packet[20])
    } else {
        (34, 26, packet[23])
    };
    // The transport header up to its checksum.
    let len = transport
        + if proto == lb_common::abi::proto::TCP {
            18
        } else {
            8
        };
    let word = |at: usize| {
        packet
            .get(at..at + 4)
            .map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
    };
    let mut words = [0; 24];
    for (nth, word) in words.iter_mut().enumerate() {
        let mut bytes = [0; 4];
        for (byte, from) in bytes.iter_mut().zip(packet[..len].iter().skip(4 * nth)) {
            *byte = *from;
        }
        *word = u32::from_ne_bytes(bytes);
    }
    Plan {
        words,
        len: len as u32,
        flows: if new { CLIENTS } else { 0 },
        ports_offset: transport as u32,
        ports: word(transport),
        client_offset: client,
        client: word(client as usize),
        redirect: if case.redirected { UPLINK } else { 0 },
        sunk_port: 0,
    }
}
