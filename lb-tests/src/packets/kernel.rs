//! Runs a case in the kernel: through `BPF_PROG_TEST_RUN`, or over a wire.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues},
    programs::{SchedClassifier, TcAttachType, TestRun as _, TestRunOptions, Xdp},
    util::nr_cpus,
};
use ipnet::IpNet;
use lb_common::{
    abi::{
        Affinity, AffinityKey, Backend, EitherPrefix, Flow, FlowKey, Fragment, FragmentKey, Frontend,
        FrontendKey, KnownBit, Meter, Range, Service, ServiceNets, Traffic, Uplink, XdpMode, XdpWhy, map,
    },
    datapath::Hook,
    verdict::{Action, Reason},
};
use lb_userspace::load;

use super::{
    case::{Case, Outcome, describe_flow, describe_fragment},
    maps::{allow, clear, disallow, map_of, put, set},
    native::{SERVICE_CIDRS, SNAT_PORTS},
    wire::{self, Wire},
    world::{Entry, NEIGHBOUR_MAC, NEIGHBOURS, PODS, ROUTES, UPLINK, UPLINK_MAC},
};
use crate::{bpffs::PrivateBpffs, namespace::Namespace};

/// What a tc program returns to say that the packet goes on.
const NEXT: u32 = -1i32 as u32;
/// What a tc program returns to drop a packet.
const SHOT: u32 = 2;
/// What a tc program returns when it has chosen a way out.
const REDIRECT: u32 = 7;
/// What an XDP program returns.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;
/// Meters that cases use.
const MOST_METERS: u16 = 4;
/// Index of the loopback device of every namespace.
const LOOPBACK: u32 = 1;
/// Sizes that the cases need; the whole maps would take 100 MB.
const ENTRIES: u32 = 4096;

/// The kernel programs, loaded and attached to nothing.
pub struct Kernel {
    pub(super) bpf: Ebpf,
    /// Where test runs find their routes; the calling thread is in it.
    _namespace: Option<Namespace>,
    /// Elements of KNOWN that are not 0.
    known: BTreeSet<u32>,
}

impl Kernel {
    /// Loads the object with maps of its own, which nothing else sees, and moves the calling thread into a namespace
    /// with the routes of [`ROUTES`]: test runs use those of the thread's namespace.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the programs, or the caller lacks the privileges.
    pub fn with_routes(object: &[u8]) -> Result<Self> {
        Self::with_routes_and_flows(object, ENTRIES, true)
    }

    /// The same with room for so many flow entries; service ports are counted or not.
    pub(super) fn with_routes_and_flows(object: &[u8], flows: u32, service_stats: bool) -> Result<Self> {
        let namespace = Namespace::enter()?;
        for knob in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            fs::write(format!("/proc/sys/net/{knob}"), "1").context(knob)?;
        }
        let uplink_mac = mac_text(UPLINK_MAC);
        for (name, index, mac) in [
            ("uplink", UPLINK, uplink_mac.as_str()),
            ("pods", PODS, "02:00:00:00:00:70"),
        ] {
            namespace.run(
                "ip",
                &format!("link add name {name} index {index} address {mac} type veth peer name far-{name}"),
            )?;
            namespace.run("ip", &format!("link set {name} up"))?;
            namespace.run("ip", &format!("link set far-{name} up"))?;
        }
        namespace.run("ip", "link set lo up")?;
        for (net, index) in ROUTES {
            let device = if index == UPLINK { "uplink" } else { "pods" };
            namespace.run("ip", &format!("route add {net} dev {device}"))?;
        }
        for host in NEIGHBOURS {
            let mac = mac_text(NEIGHBOUR_MAC);
            namespace.run(
                "ip",
                &format!("neigh add {host} lladdr {mac} dev uplink nud permanent"),
            )?;
        }
        Ok(Self {
            _namespace: Some(namespace),
            ..Self::with_flows(object, flows, service_stats)?
        })
    }

    /// Loads the object with maps of its own, which nothing else sees.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the programs, or the caller lacks the privileges.
    pub fn load(object: &[u8]) -> Result<Self> {
        Self::with_flows(object, ENTRIES, true)
    }

    /// The same with room for so many flow entries.
    pub(super) fn with_flows(object: &[u8], flows: u32, service_stats: bool) -> Result<Self> {
        let pins = PrivateBpffs::mount()?;
        let service_stats = u8::from(service_stats);
        let mut loader = EbpfLoader::new();
        loader
            .default_map_pin_directory(pins.path())
            .override_global("AYA_LOG_LEVEL", &0u8, true)
            .override_global("SERVICE_STATS", &service_stats, true)
            .override_global("SNAT_FIRST", &SNAT_PORTS.first, true)
            .override_global("SNAT_COUNT", &SNAT_PORTS.count, true);
        for name in map::PINNED {
            if ![
                map::COUNTERS,
                map::SOURCES4,
                map::SOURCES6,
                map::UPLINKS,
                map::KNOWN,
                map::CIDRS4,
                map::CIDRS6,
            ]
            .contains(&name)
            {
                let entries = if [map::FLOWS4, map::FLOWS6].contains(&name) {
                    flows
                } else {
                    ENTRIES
                };
                loader.map_max_entries(name, entries);
            }
        }
        let mut bpf = loader.load(object).context("load the BPF object")?;
        tell_service_cidrs(&mut bpf)?;
        for name in load::TC_PROGRAMS {
            let program: &mut SchedClassifier = bpf.program_mut(name).context(name)?.try_into()?;
            program.load().with_context(|| format!("load program {name}"))?;
        }
        for name in load::XDP_PROGRAMS {
            let program: &mut Xdp = bpf.program_mut(name).context(name)?.try_into()?;
            program.load().with_context(|| format!("load program {name}"))?;
        }
        Ok(Self {
            bpf,
            _namespace: None,
            known: BTreeSet::new(),
        })
    }

    /// What the kernel makes of a case.
    ///
    /// # Errors
    ///
    /// If a map cannot be written or the run fails.
    pub fn run(&mut self, case: &Case) -> Result<Outcome> {
        self.prepare(case)?;
        self.run_before(case)?;
        let before = self.counters()?;
        let (verdict, packet) = self.test_run(case, &case.packet)?;
        let reason = only_change(&before, &self.counters()?, case)?;
        let redirected = verdict == REDIRECT && matches!(reason.action(), Action::Forward | Action::Reject);
        let expected = if matches!(reason.action(), Action::Drop | Action::Reject) {
            SHOT
        } else {
            NEXT
        };
        ensure!(
            verdict == expected || redirected,
            "{reason:?} must return {}, not {}",
            expected as i32,
            verdict as i32
        );
        Ok(Outcome {
            reason,
            packet,
            redirected,
            flows: self.flows()?,
            counted: self.counted()?,
        })
    }

    /// The frames that come before a case's packet, which tc works on.
    fn run_before(&mut self, case: &Case) -> Result<()> {
        for frame in &case.before {
            self.test_run(case, frame)?;
        }
        self.clear_meters()
    }

    /// What an XDP program makes of a case's packet: none if it goes up. Test runs come in by the loopback device, which
    /// is made an uplink, and the Ethernet addresses of what goes out are checked and made those of the case.
    ///
    /// # Errors
    ///
    /// If the run fails, or the program neither finishes the packet nor leaves it as it was.
    pub fn run_early(&mut self, case: &Case, program: &'static str) -> Result<Option<Outcome>> {
        self.prepare(case)?;
        put(
            &mut self.bpf,
            map::UPLINKS,
            &LOOPBACK,
            &Uplink::new([0; 6], XdpMode::Native, XdpWhy::Asked),
        )?;
        put(
            &mut self.bpf,
            map::UPLINKS,
            &UPLINK,
            &Uplink::new(UPLINK_MAC, XdpMode::Native, XdpWhy::Asked),
        )?;
        self.run_before(case)?;
        let before = (self.counters()?, self.flows()?);
        let xdp: &mut Xdp = self.bpf.program_mut(program).context(program)?.try_into()?;
        let mut packet = vec![0; case.packet.len() + 256];
        let result = xdp.test_run(TestRunOptions {
            data_in: Some(&case.packet),
            data_out: Some(&mut packet),
            ..TestRunOptions::new()
        })?;
        packet.truncate(result.data_size_out as usize);
        let after = (self.counters()?, self.flows()?);
        if result.return_value == XDP_PASS {
            ensure!(packet == case.packet, "went up, but not as it came");
            ensure!(
                before == after && self.counted()?.is_empty(),
                "went up, but was counted or recorded"
            );
            return Ok(None);
        }
        let reason = only_change(&before.0, &after.0, case)?;
        let expected = match reason.action() {
            Action::Forward => XDP_REDIRECT,
            Action::Reject => XDP_TX,
            Action::Drop | Action::Pass => XDP_DROP,
        };
        ensure!(
            result.return_value == expected
                || (reason.action() == Action::Reject && result.return_value == XDP_DROP),
            "{reason:?} must return {expected}, not {}",
            result.return_value
        );
        if result.return_value == XDP_REDIRECT {
            ensure!(
                packet[..12] == [NEIGHBOUR_MAC, UPLINK_MAC].concat(),
                "goes from and to other machines: {:x?}",
                &packet[..12]
            );
            packet[..12].copy_from_slice(&case.packet[..12]);
        }
        Ok(Some(Outcome {
            reason,
            packet,
            redirected: result.return_value != XDP_DROP,
            flows: after.1,
            counted: self.counted()?,
        }))
    }

    /// Attaches the program for a hook to the wire's device.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn attach(&mut self, hook: Hook) -> Result<()> {
        let name = load::tc_program(hook);
        let program: &mut SchedClassifier = self.bpf.program_mut(name).context(name)?.try_into()?;
        program.attach(wire::DEVICE, TcAttachType::Ingress)?;
        Ok(())
    }

    /// What the kernel makes of a case whose frame is sent over a wire, with the program for its hook attached there.
    ///
    /// # Errors
    ///
    /// If a map cannot be written, the frame does not come out, or anything but it was counted.
    pub fn run_over(&mut self, wire: &Wire, case: &Case) -> Result<Outcome> {
        self.prepare(case)?;
        self.clear_meters()?;
        let before = self.counters()?;
        let packet = wire.send(&case.packet)?;
        Ok(Outcome {
            reason: only_change(&before, &self.counters()?, case)?,
            packet,
            redirected: false,
            flows: self.flows()?,
            counted: self.counted()?,
        })
    }

    pub(super) fn prepare(&mut self, case: &Case) -> Result<()> {
        self.reset()?;
        for entry in case.world.entries(monotonic_ns()) {
            self.write(&entry).with_context(|| format!("write {entry:x?}"))?;
        }
        Ok(())
    }

    fn test_run(&mut self, case: &Case, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        let name = load::tc_program(case.hook);
        let program: &mut SchedClassifier = self.bpf.program_mut(name).context(name)?.try_into()?;
        let mut out = vec![0; frame.len() + 256];
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        })?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
    }

    /// An address is one of a frontend or an endpoint.
    fn know(&mut self, bit: KnownBit) -> Result<()> {
        let mut words = Array::<&mut MapData, u64>::try_from(map_of(&mut self.bpf, map::KNOWN)?)?;
        let word = words.get(&bit.word, 0)?;
        words.set(bit.word, word | bit.mask, 0)?;
        self.known.insert(bit.word);
        Ok(())
    }

    /// Forgets everything that an earlier case left. Arrays need no cleaning: what nothing refers to is not read.
    fn reset(&mut self) -> Result<()> {
        for word in std::mem::take(&mut self.known) {
            set::<u64>(&mut self.bpf, map::KNOWN, word, &0)?;
        }
        clear::<FrontendKey<u32>, Frontend>(&mut self.bpf, map::FRONTENDS4)?;
        clear::<FrontendKey<[u32; 4]>, Frontend>(&mut self.bpf, map::FRONTENDS6)?;
        clear::<FrontendKey<u32>, u32>(&mut self.bpf, map::ENDPOINTS4)?;
        clear::<FrontendKey<[u32; 4]>, u32>(&mut self.bpf, map::ENDPOINTS6)?;
        clear::<FlowKey<u32>, Flow<u32>>(&mut self.bpf, map::FLOWS4)?;
        clear::<FlowKey<[u32; 4]>, Flow<[u32; 4]>>(&mut self.bpf, map::FLOWS6)?;
        clear::<AffinityKey<u32>, Affinity>(&mut self.bpf, map::AFFINITY4)?;
        clear::<AffinityKey<[u32; 4]>, Affinity>(&mut self.bpf, map::AFFINITY6)?;
        clear::<FragmentKey<u32>, Fragment<u32>>(&mut self.bpf, map::FRAGMENTS4)?;
        clear::<FragmentKey<[u32; 4]>, Fragment<[u32; 4]>>(&mut self.bpf, map::FRAGMENTS6)?;
        clear::<u32, Uplink>(&mut self.bpf, map::UPLINKS)?;
        disallow::<Range<u32>>(&mut self.bpf, map::RANGES4)?;
        disallow::<Range<[u32; 4]>>(&mut self.bpf, map::RANGES6)?;
        clear::<u32, u32>(&mut self.bpf, map::SOURCES4)?;
        clear::<u32, [u32; 4]>(&mut self.bpf, map::SOURCES6)
    }

    fn write(&mut self, entry: &Entry) -> Result<()> {
        match entry {
            Entry::Frontend4(key, value) => {
                self.know(KnownBit::of(key.addr))?;
                put(&mut self.bpf, map::FRONTENDS4, key, value)
            }
            Entry::Frontend6(key, value) => {
                self.know(KnownBit::of(key.addr))?;
                put(&mut self.bpf, map::FRONTENDS6, key, value)
            }
            Entry::Endpoint4(key) => {
                self.know(KnownBit::of(key.addr))?;
                put(&mut self.bpf, map::ENDPOINTS4, key, &0u32)
            }
            Entry::Endpoint6(key) => {
                self.know(KnownBit::of(key.addr))?;
                put(&mut self.bpf, map::ENDPOINTS6, key, &0u32)
            }
            Entry::Flow4(key, value) => put(&mut self.bpf, map::FLOWS4, key, value),
            Entry::Flow6(key, value) => put(&mut self.bpf, map::FLOWS6, key, value),
            Entry::Affinity4(key, value) => put(&mut self.bpf, map::AFFINITY4, key, value),
            Entry::Affinity6(key, value) => put(&mut self.bpf, map::AFFINITY6, key, value),
            Entry::Fragment4(key, value) => put(&mut self.bpf, map::FRAGMENTS4, key, value),
            Entry::Fragment6(key, value) => put(&mut self.bpf, map::FRAGMENTS6, key, value),
            Entry::Range4(range, len) => allow(&mut self.bpf, map::RANGES4, *range, *len),
            Entry::Range6(range, len) => allow(&mut self.bpf, map::RANGES6, *range, *len),
            Entry::Source4(device, addr) => put(&mut self.bpf, map::SOURCES4, device, addr),
            Entry::Source6(device, addr) => put(&mut self.bpf, map::SOURCES6, device, addr),
            Entry::Service(id, value) => set::<Service>(&mut self.bpf, map::SERVICES, *id, value),
            Entry::Backend4(index, value) => {
                set::<Backend<u32>>(&mut self.bpf, map::BACKENDS4, *index, value)
            }
            Entry::Backend6(index, value) => {
                set::<Backend<[u32; 4]>>(&mut self.bpf, map::BACKENDS6, *index, value)
            }
            Entry::Slot(slot, value) => {
                let mut slots =
                    Array::<&mut MapData, [u32; 2]>::try_from(map_of(&mut self.bpf, map::MAGLEV)?)?;
                let mut pair = slots.get(&(slot / 2), 0)?;
                pair[(slot % 2) as usize] = *value;
                Ok(slots.set(slot / 2, pair, 0)?)
            }
        }
    }

    pub(super) fn counters(&self) -> Result<Vec<Traffic>> {
        let counters =
            PerCpuArray::<&MapData, Traffic>::try_from(self.bpf.map(map::COUNTERS).context("COUNTERS")?)?;
        (0..Reason::COUNT)
            .map(|number| {
                let mut sum = Traffic::default();
                let of_cpus = counters.get(&number, 0)?;
                of_cpus.iter().for_each(|of_cpu| sum.add(*of_cpu));
                Ok(sum)
            })
            .collect()
    }

    fn meters(&mut self) -> Result<PerCpuArray<&mut MapData, Meter>> {
        Ok(PerCpuArray::try_from(map_of(&mut self.bpf, map::METERS)?)?)
    }

    fn clear_meters(&mut self) -> Result<()> {
        let mut meters = self.meters()?;
        for number in 0..=MOST_METERS {
            let zero = vec![Meter::default(); nr_cpus().map_err(|(_, error)| error)?];
            meters.set(number.into(), PerCpuValues::try_from(zero)?, 0)?;
        }
        Ok(())
    }

    /// What the meters hold, as far as anything was counted.
    fn counted(&mut self) -> Result<BTreeMap<u16, Meter>> {
        let meters = self.meters()?;
        let mut counted = BTreeMap::new();
        for number in 0..=MOST_METERS {
            let mut sum = Meter::default();
            for of_cpu in meters.get(&number.into(), 0)?.iter() {
                sum.add(of_cpu);
            }
            if sum != Meter::default() {
                counted.insert(number, sum);
            }
        }
        Ok(counted)
    }

    fn flows(&self) -> Result<BTreeSet<String>> {
        let v4 = HashMap::<&MapData, FlowKey<u32>, Flow<u32>>::try_from(
            self.bpf.map(map::FLOWS4).context("FLOWS4")?,
        )?;
        let v6 = HashMap::<&MapData, FlowKey<[u32; 4]>, Flow<[u32; 4]>>::try_from(
            self.bpf.map(map::FLOWS6).context("FLOWS6")?,
        )?;
        let mut flows = BTreeSet::new();
        for entry in &v4 {
            let (key, flow) = entry?;
            flows.insert(describe_flow(&key, &flow));
        }
        for entry in &v6 {
            let (key, flow) = entry?;
            flows.insert(describe_flow(&key, &flow));
        }
        let v4 = HashMap::<&MapData, FragmentKey<u32>, Fragment<u32>>::try_from(
            self.bpf.map(map::FRAGMENTS4).context("FRAGMENTS4")?,
        )?;
        let v6 = HashMap::<&MapData, FragmentKey<[u32; 4]>, Fragment<[u32; 4]>>::try_from(
            self.bpf.map(map::FRAGMENTS6).context("FRAGMENTS6")?,
        )?;
        for entry in &v4 {
            let (key, fragment) = entry?;
            flows.insert(describe_fragment(&key, &fragment));
        }
        for entry in &v6 {
            let (key, fragment) = entry?;
            flows.insert(describe_fragment(&key, &fragment));
        }
        Ok(flows)
    }
}

/// The one reason whose counter moved by one.
fn only_change(before: &[Traffic], after: &[Traffic], case: &Case) -> Result<Reason> {
    let by = |(old, new): (&Traffic, &Traffic)| (new.packets - old.packets, new.bytes - old.bytes);
    let changed: Vec<(u32, (u64, u64))> = (0u32..)
        .zip(before.iter().zip(after).map(by))
        .filter(|(_, by)| *by != (0, 0))
        .collect();
    let len = case.packet.len() as u64;
    match changed[..] {
        [(number, (1, bytes))] if bytes == len => {
            Reason::from_number(number).with_context(|| format!("no reason has the number {number}"))
        }
        _ => bail!("one counter must move by a packet of {len} bytes, but these moved: {changed:?}"),
    }
}

/// The networks of cluster IPs that all cases have.
fn tell_service_cidrs(bpf: &mut Ebpf) -> Result<()> {
    let (mut nets4, mut nets6) = (Vec::new(), Vec::new());
    for net in SERVICE_CIDRS {
        let net: IpNet = net.parse()?;
        match EitherPrefix::new(net.addr(), net.prefix_len()) {
            EitherPrefix::V4(prefix) => nets4.push(prefix),
            EitherPrefix::V6(prefix) => nets6.push(prefix),
        }
    }
    set(bpf, map::CIDRS4, 0, &ServiceNets::new(nets4))?;
    set(bpf, map::CIDRS6, 0, &ServiceNets::new(nets6))
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The clock that the programs read, in ns since boot.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
