//! The collector of flows on real maps, which nothing else sees.

use std::{collections::HashSet, fmt::Debug, hash::Hash, path::Path};

use anyhow::{Context as _, Result, ensure};
use aya::{
    EbpfLoader, Pod,
    maps::{HashMap, Map, MapData},
};
use lb_common::{
    abi::{
        Affinity, AffinityKey, Either, Flow, FlowFlags, FlowKey, FlowKind, Policies, Service, TableRef,
        Tuple, from_ip, map, port_to_wire, proto,
    },
    flow::{Seen, State, Timeouts},
};
use lb_tests::bpffs::PrivateBpffs;
use lb_userspace::{
    flows::{Collector, count},
    object,
};

/// Time of the collector's clock, in ns: ten days after boot.
const NOW: u64 = 10 * 24 * 3_600 * SECOND;
const SECOND: u64 = 1_000_000_000;
/// Flows in the IPv4 table; each has two entries.
const FLOWS: u32 = 50_000;
/// Room for flows.
const ROOM: u32 = 65_536;

/// A bpffs with the maps of the object; no program is loaded.
struct Maps {
    bpffs: PrivateBpffs,
}

impl Maps {
    fn new() -> Result<Self> {
        let this = Self {
            bpffs: PrivateBpffs::mount()?,
        };
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(this.path());
        for name in map::PINNED {
            if name.starts_with("FLOWS") {
                loader.map_max_entries(name, 2 * ROOM);
            }
        }
        loader.load(object::bytes()?)?;
        Ok(this)
    }

    fn path(&self) -> &Path {
        self.bpffs.path()
    }

    fn lru<K: Pod, V: Pod>(&self, name: &str) -> Result<HashMap<MapData, K, V>> {
        Ok(HashMap::try_from(Map::LruHashMap(MapData::from_pin(
            self.path().join(name),
        )?))?)
    }

    fn keys<K: Pod + Eq + Hash, V: Pod>(&self, name: &str) -> Result<HashSet<K>> {
        Ok(self.lru::<K, V>(name)?.keys().collect::<Result<_, _>>()?)
    }
}

/// What both directions of a flow in that state have seen, and its protocol.
fn seen(state: State) -> (u8, u8, u8) {
    let data = Seen::SYN | Seen::DATA;
    match state {
        State::Syn => (proto::TCP, Seen::SYN, 0),
        State::Established => (proto::TCP, data, data),
        State::Closing => (proto::TCP, data, data | Seen::FIN),
        State::Closed => (proto::TCP, data | Seen::FIN, data | Seen::FIN),
        State::Udp => (proto::UDP, Seen::DATA, 0),
        State::UdpStream => (proto::UDP, Seen::DATA, Seen::DATA),
        State::SctpOpening => (proto::SCTP, Seen::SYN, 0),
        State::SctpEstablished => (proto::SCTP, data, data),
        State::SctpClosing => (proto::SCTP, data, data | Seen::FIN),
    }
}

/// The two entries of the flow of that number, each last seen so long ago (ns).
fn flow<A: Copy>(addresses: [A; 3], number: u32, state: State, ages: [u64; 2]) -> [(FlowKey<A>, Flow<A>); 2] {
    let [client, frontend, backend] = addresses;
    let (proto, forward_seen, reply_seen) = seen(state);
    let port = port_to_wire(number as u16);
    // More flows than ports: the services differ.
    let service = port_to_wire(80 + (number >> 16) as u16);
    let asked = Tuple::new(client, frontend, port, service);
    let sent = Tuple::new(client, backend, port, port_to_wire(8_080 + (number >> 16) as u16));
    let entry = |tuple, kind: FlowKind, seen, age| Flow {
        tuple,
        seen,
        meter: 0,
        flags: FlowFlags::of(kind, FlowFlags::REDIRECT),
        backend: 3,
        generation: 1,
        last_seen: NOW - age,
    };
    [
        (
            FlowKey::new(asked, proto),
            entry(sent, FlowKind::Forward, forward_seen, ages[0]),
        ),
        (
            FlowKey::new(sent.reversed(), proto),
            entry(asked.reversed(), FlowKind::Reply, reply_seen, ages[1]),
        ),
    ]
}

/// Fills a table; returns the keys that a walk must leave, and how many flows it must remove.
fn fill<A>(maps: &Maps, name: &str, addresses: [A; 3], flows: u32) -> Result<(HashSet<FlowKey<A>>, u64)>
where
    A: Copy + Eq + Hash + 'static,
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    let mut map = maps.lru::<FlowKey<A>, Flow<A>>(name)?;
    let (mut left, mut over) = (HashSet::new(), 0);
    for number in 0..flows {
        let state = State::ALL[number as usize % State::ALL.len()];
        let timeout = Timeouts::default().of(state);
        // Both directions are old, one of them, the other, or none.
        let (dead, ages) = match number / 7 % 4 {
            0 => (true, [timeout + SECOND, timeout + 2 * SECOND]),
            1 => (false, [timeout + SECOND, timeout - SECOND]),
            2 => (false, [timeout - SECOND, timeout + SECOND]),
            _ => (false, [timeout, 0]),
        };
        over += u64::from(dead);
        for (key, flow) in flow(addresses, number, state, ages) {
            map.insert(key, flow, 0)?;
            if !dead {
                left.insert(key);
            }
        }
    }
    Ok((left, over))
}

fn v4(text: &str) -> u32 {
    match from_ip(text.parse().expect("an address")) {
        Either::V4(addr) => addr,
        Either::V6(_) => panic!("{text} is not IPv4"),
    }
}

fn v6(text: &str) -> [u32; 4] {
    match from_ip(text.parse().expect("an address")) {
        Either::V6(addr) => addr,
        Either::V4(_) => panic!("{text} is not IPv6"),
    }
}

/// Which keys are missing or too many, a few of them.
fn same<K: Eq + Hash + Debug>(left: &HashSet<K>, expected: &HashSet<K>) -> Result<()> {
    let missing: Vec<_> = expected.difference(left).take(3).collect();
    let extra: Vec<_> = left.difference(expected).take(3).collect();
    ensure!(
        left == expected,
        "{} entries instead of {}: missing {missing:x?}, too many {extra:x?}",
        left.len(),
        expected.len()
    );
    Ok(())
}

#[test]
fn exactly_the_flows_that_are_over_are_removed_from_full_tables() {
    full_tables().unwrap();
}

fn full_tables() -> Result<()> {
    let maps = Maps::new()?;
    let addresses4 = ["10.244.1.5", "10.96.0.10", "10.244.2.7"].map(v4);
    let addresses6 = ["fd00::5", "fd00:96::10", "fd00::7"].map(v6);
    let (left4, over4) = fill(&maps, map::FLOWS4, addresses4, FLOWS)?;
    let (left6, over6) = fill(&maps, map::FLOWS6, addresses6, 2_000)?;
    let before = count(maps.path())?;
    ensure!(before[0].entries == u64::from(2 * FLOWS), "counted {before:?}");
    let mut pauses = 0;
    let mut collector = Collector::open(maps.path(), Timeouts::default(), || NOW)?;
    let found = collector.walk(|| pauses += 1)?;
    ensure!(pauses > 50, "only {pauses} steps");
    same(&maps.keys::<FlowKey<u32>, Flow<u32>>(map::FLOWS4)?, &left4)?;
    same(
        &maps.keys::<FlowKey<[u32; 4]>, Flow<[u32; 4]>>(map::FLOWS6)?,
        &left6,
    )?;
    ensure!(
        [found[0].removed, found[1].removed] == [over4, over6],
        "{found:?}"
    );
    // What is left is counted: by state, and by the source ports that it takes.
    let after = count(maps.path())?;
    let flows: u64 = after[0].states.iter().map(|(_, flows)| flows).sum();
    ensure!(flows == u64::from(FLOWS) - over4, "{after:?}");
    ensure!(
        after[0].entries == 2 * flows && after[0].with_ports == flows,
        "{after:?}"
    );
    let fullest = after[0].fullest.as_ref().context("flows have ports")?;
    ensure!(fullest.endpoint == "10.244.2.7:8080".parse()?, "{fullest:?}");
    let again = collector.walk(|| ())?;
    ensure!(again.iter().all(|found| found.removed == 0), "{again:?}");
    Ok(())
}

/// Of a flow whose other entry was evicted, the rest is judged by itself.
#[test]
fn a_lonely_entry_lives_as_long_as_its_own_word_says() {
    lonely().unwrap();
}

fn lonely() -> Result<()> {
    let maps = Maps::new()?;
    let mut map = maps.lru::<FlowKey<u32>, Flow<u32>>(map::FLOWS4)?;
    let addresses = ["10.244.1.5", "10.96.0.10", "10.244.2.7"].map(v4);
    let timeout = Timeouts::default().udp;
    let mut left = HashSet::new();
    for (number, age, dead) in [(1, timeout + SECOND, true), (2, timeout - SECOND, false)] {
        for half in [0, 1] {
            let (key, flow) = flow(addresses, 2 * number + half, State::UdpStream, [age; 2])[half as usize];
            map.insert(key, flow, 0)?;
            if !dead {
                left.insert(key);
            }
        }
    }
    let found = Collector::open(maps.path(), Timeouts::default(), || NOW)?.walk(|| ())?;
    ensure!(found[0].removed == 2, "{found:?}");
    same(&maps.keys::<FlowKey<u32>, Flow<u32>>(map::FLOWS4)?, &left)
}

/// Clients are forgotten an hour after their affinity has expired, and at once where there is none any more.
#[test]
fn affinities_that_have_long_expired_are_removed() {
    affinities().unwrap();
}

fn affinities() -> Result<()> {
    let maps = Maps::new()?;
    let mut services = aya::maps::Array::<_, Service>::try_from(Map::Array(MapData::from_pin(
        maps.path().join(map::SERVICES),
    )?))?;
    let table = TableRef::new(64, 64).with_policies(Policies {
        affinity: 10_800,
        ..Policies::default()
    });
    services.set(7, Service { table }, 0)?;
    let mut map = maps.lru::<AffinityKey<u32>, Affinity>(map::AFFINITY4)?;
    let mut left = HashSet::new();
    for (number, service, age, kept) in [
        (1u32, 7, 0, true),
        (2, 7, 10_800 + 3_599, true),
        (3, 7, 10_800 + 3_601, false),
        (4, 8, 1, false),
    ] {
        let key = AffinityKey {
            client: number,
            service,
        };
        let affinity = Affinity {
            last_used: NOW - age * SECOND,
            ..Affinity::default()
        };
        map.insert(key, affinity, 0)?;
        if kept {
            left.insert(key);
        }
    }
    Collector::open(maps.path(), Timeouts::default(), || NOW)?.walk(|| ())?;
    same(&maps.keys::<AffinityKey<u32>, Affinity>(map::AFFINITY4)?, &left)
}
