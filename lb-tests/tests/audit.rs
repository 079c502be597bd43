//! Pinned maps that somebody else writes to while an agent runs: what it had put there comes back without a new start, and
//! services that nobody touched lose nothing.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Pod,
    maps::{
        Array, HashMap, Map, MapData,
        lpm_trie::{Key, LpmTrie},
    },
};
use lb_common::abi::{
    Address, Backend, Frontend, FrontendKey, KnownBit, Range, Service, ServiceNets, TableRef, from_ip, map,
    port_to_wire, proto,
};
use lb_testkit::{Lab, Wiring, http_get_within};
use lb_tests::{
    agent::{Agent, eventually},
    http::get,
    stage::{LOCAL_NODE_PORT, NODE_PORT, Stage, at, web},
    traffic::{requests, stream, under_traffic},
};

const SOON: Duration = Duration::from_secs(30);
/// How long an answer may take where another attempt follows.
const ATTEMPT: Duration = Duration::from_millis(500);
const BALANCER: [&str; 2] = ["203.0.113.8", "2001:db8:7::8"];

/// The pinned maps of a node.
struct Pinned(PathBuf);

impl Pinned {
    fn data(&self, name: &str) -> Result<MapData> {
        MapData::from_pin(self.0.join(name)).with_context(|| name.to_owned())
    }

    fn hash<K: Pod, V: Pod>(&self, name: &str) -> Result<HashMap<MapData, K, V>> {
        Ok(HashMap::try_from(Map::HashMap(self.data(name)?))?)
    }

    fn array<V: Pod>(&self, name: &str) -> Result<Array<MapData, V>> {
        Ok(Array::try_from(Map::Array(self.data(name)?))?)
    }

    /// The identifier of the service `web`, and its table.
    fn web(&self) -> Result<(u32, TableRef)> {
        let frontends = self.hash::<FrontendKey<u32>, Frontend>(map::FRONTENDS4)?;
        let id = frontends.get(&frontend(v4(web()[0].ip())), 0)?.service;
        Ok((id, self.array::<Service>(map::SERVICES)?.get(&id, 0)?.table))
    }

    /// The index of a backend of `web`.
    fn backend(&self) -> Result<u32> {
        let offset = self.web()?.1.offset();
        let slots = self.array::<[u32; 2]>(map::MAGLEV)?.get(&(offset / 2), 0)?;
        Ok(slots[(offset % 2) as usize])
    }

    /// Writes over a backend of `web`.
    fn write_backend(&self, backend: Backend<u32>) -> Result<()> {
        let mut backends = self.array(map::BACKENDS4)?;
        Ok(backends.set(self.backend()?, backend, 0)?)
    }
}

fn v4(addr: IpAddr) -> u32 {
    from_ip(addr).v4().expect("an IPv4 address")
}

fn v6(addr: IpAddr) -> [u32; 4] {
    from_ip(addr).v6().expect("an IPv6 address")
}

/// Port 80 of an address.
fn frontend<A>(addr: A) -> FrontendKey<A> {
    FrontendKey::new(addr, port_to_wire(80), proto::TCP)
}

fn free<A: Address>() -> Backend<A> {
    Backend {
        addr: A::UNSPECIFIED,
        generation: 9,
        port: 0,
        flags: 0,
        proto: 0,
    }
}

/// What somebody does, and what the agent says of it.
type Case<'a> = (&'a str, Box<dyn Fn() -> Result<()> + 'a>);

/// Damage of each kind, to `web` alone.
fn cases<'a>(pinned: &'a Pinned, lab: &'a Lab) -> Vec<Case<'a>> {
    let [web4, web6] = web().map(|addr| addr.ip());
    let balancer4 = v4(BALANCER[0].parse().expect("an address"));
    let endpoint = FrontendKey::new(v4(lab.pod(1, 2).v4.into()), port_to_wire(8080), proto::TCP);
    vec![
        (
            "2 lost in FRONTENDS4",
            Box::new(move || {
                let mut frontends = pinned.hash::<FrontendKey<u32>, Frontend>(map::FRONTENDS4)?;
                frontends.remove(&frontend(v4(web4)))?;
                Ok(frontends.remove(&FrontendKey::of_address(v4(web4)))?)
            }),
        ),
        (
            "1 changed in FRONTENDS6",
            Box::new(move || {
                let mut frontends = pinned.hash::<FrontendKey<[u32; 4]>, Frontend>(map::FRONTENDS6)?;
                let mut value = frontends.get(&frontend(v6(web6)), 0)?;
                value.service = 4_000;
                Ok(frontends.insert(frontend(v6(web6)), value, 0)?)
            }),
        ),
        (
            "1 added in FRONTENDS4",
            Box::new(move || {
                let mut frontends = pinned.hash::<FrontendKey<u32>, Frontend>(map::FRONTENDS4)?;
                let value = frontends.get(&frontend(v4(web4)), 0)?;
                Ok(frontends.insert(frontend(v4([10, 96, 9, 9].into())), value, 0)?)
            }),
        ),
        (
            "1 lost in SERVICES",
            Box::new(move || {
                let mut services = pinned.array(map::SERVICES)?;
                Ok(services.set(pinned.web()?.0, Service::default(), 0)?)
            }),
        ),
        (
            "1 changed in MAGLEV",
            Box::new(move || {
                let mut slots = pinned.array::<[u32; 2]>(map::MAGLEV)?;
                let offset = pinned.web()?.1.offset() / 2;
                (offset..offset + 32).try_for_each(|at| Ok(slots.set(at, [u32::MAX; 2], 0)?))
            }),
        ),
        (
            "1 lost in BACKENDS4",
            Box::new(move || pinned.write_backend(free())),
        ),
        (
            "1 changed in BACKENDS4",
            Box::new(move || {
                let backends = pinned.array::<Backend<u32>>(map::BACKENDS4)?;
                let backend = backends.get(&pinned.backend()?, 0)?;
                pinned.write_backend(Backend {
                    port: port_to_wire(1),
                    ..backend
                })
            }),
        ),
        (
            "1 added in BACKENDS4",
            Box::new(move || {
                let mut backends = pinned.array::<Backend<u32>>(map::BACKENDS4)?;
                let backend = backends.get(&pinned.backend()?, 0)?;
                Ok(backends.set(3_000, backend, 0)?)
            }),
        ),
        (
            "1 lost in ENDPOINTS4",
            Box::new(move || {
                let mut endpoints = pinned.hash::<FrontendKey<u32>, u32>(map::ENDPOINTS4)?;
                Ok(endpoints.remove(&endpoint)?)
            }),
        ),
        (
            "1 added in ENDPOINTS6",
            Box::new(move || {
                let mut endpoints = pinned.hash::<FrontendKey<[u32; 4]>, u32>(map::ENDPOINTS6)?;
                Ok(endpoints.insert(frontend(v6(web6)), 0, 0)?)
            }),
        ),
        (
            "1 lost in KNOWN",
            Box::new(move || {
                let bit = KnownBit::of(v4(web4));
                let mut words = pinned.array::<u64>(map::KNOWN)?;
                let word = words.get(&bit.word, 0)?;
                Ok(words.set(bit.word, word & !bit.mask, 0)?)
            }),
        ),
        (
            "1 lost in RANGES4, 1 added in RANGES4",
            Box::new(move || {
                let mut ranges: LpmTrie<_, Range<u32>, u32> =
                    LpmTrie::try_from(Map::LpmTrie(pinned.data(map::RANGES4)?))?;
                let frontends = pinned.hash::<FrontendKey<u32>, Frontend>(map::FRONTENDS4)?;
                let service = frontends.get(&frontend(balancer4), 0)?.service;
                let key = |client, len| Key::new(Range::<u32>::BITS + len, Range { service, client });
                ranges.remove(&key(v4([198, 51, 100, 0].into()), 24))?;
                Ok(ranges.insert(&key(0, 0), 0, 0)?)
            }),
        ),
        (
            "1 changed in CIDRS4",
            Box::new(move || {
                let mut cidrs = pinned.array::<ServiceNets<u32>>(map::CIDRS4)?;
                Ok(cidrs.set(0, ServiceNets::default(), 0)?)
            }),
        ),
    ]
}

/// Waits until the agent has told of it, and everybody is served again.
fn comes_back(agent: &Agent, told_before: usize, told: &str, lab: &Lab) -> Result<()> {
    eventually(SOON, || {
        let log = agent.log();
        let news = log.get(told_before..).unwrap_or_default();
        ensure!(
            news.contains(&format!("had written them: {told}.")),
            "{told}:\n{news}"
        );
        Ok(())
    })?;
    let node_port = at(lab.node(1).v4, NODE_PORT);
    let [web4, web6] = web();
    for (host, addr) in [
        (lab.pod(1, 1), web4),
        (lab.pod(1, 1), web6),
        (lab.node(1), web4),
        (lab.node(1), web6),
        (lab.client(), node_port),
    ] {
        eventually(SOON, || Ok(http_get_within(host, addr, ATTEMPT).map(drop)?))
            .with_context(|| format!("{} to {addr} after {told}", host.name))?;
    }
    Ok(())
}

#[test]
fn what_somebody_else_writes_into_pinned_maps_is_put_right_under_traffic() {
    put_right().unwrap();
}

fn put_right() -> Result<()> {
    let more = [
        "--audit-period=1s",
        "--service-cidr=10.96.0.0/16",
        "--max-backends=4096",
    ];
    let stage = Stage::with(Lab::builder().wiring(Wiring::Routed).build()?, &more)?;
    let lab = &stage.lab;
    let limited = stage.web.clone().balancer(&BALANCER);
    let limited = limited.with("loadBalancerSourceRanges: [198.51.100.0/24, 192.0.2.0/24]");
    stage.folder.write("web.yaml", &limited.yaml())?;
    let agent = &stage.agents[0];
    let pinned = Pinned(lab.bpffs(1).join("v1/maps"));
    let balancer = frontend(v4(BALANCER[0].parse()?));
    eventually(SOON, || {
        let frontends = pinned.hash::<FrontendKey<u32>, Frontend>(map::FRONTENDS4)?;
        Ok(frontends.get(&balancer, 0).map(drop)?)
    })?;
    let calm = at([10, 96, 0, 11], 80);
    let clients = [
        requests(lab.pod(1, 1), calm),
        stream(lab.pod(1, 1), calm),
        requests(lab.node(1), calm),
        stream(lab.client(), at(lab.node(1).v4, LOCAL_NODE_PORT)),
        // Recorded flows know their endpoint.
        stream(lab.pod(1, 1), web()[0]),
    ];
    under_traffic(clients.into(), 50, |failed| {
        for (told, write) in cases(&pinned, lab) {
            if failed() {
                break;
            }
            let before = agent.log().len();
            write().with_context(|| told.to_owned())?;
            comes_back(agent, before, told, lab)?;
        }
        Ok(())
    })?;
    // Nothing was told that nobody had done, and all of it was counted.
    let told = agent.log().matches("had written them:").count();
    ensure!(
        told == cases(&pinned, lab).len(),
        "{told} times:\n{}",
        agent.log()
    );
    let metrics = get(lab.node(1), "127.0.0.1:10249".parse()?, "/metrics")?.body;
    for (name, repairs) in [("FRONTENDS4", 3), ("BACKENDS4", 3), ("MAGLEV", 1), ("RANGES6", 0)] {
        let line = format!("fairlead_map_repairs_total{{map=\"{name}\"}} {repairs}\n");
        ensure!(metrics.contains(&line), "{line} in\n{metrics}");
    }
    Ok(())
}
