//! Which addresses the kernel programs take for those of services or endpoints, as the agent tells them, on real maps that
//! nothing else sees.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData},
};
use lb_common::abi::{Either, FrontendKind, KnownBit, from_ip, map};
use lb_tests::bpffs::PrivateBpffs;
use lb_userspace::{
    apply::KernelMaps,
    object,
    plan::{BackendSlot, Dataplane as _, Family, FrontendAddr, Op, Protocol, Snapshot},
};

/// More than go before the agent works out all bits anew.
const MANY: u32 = 9_000;

struct Stage {
    bpffs: PrivateBpffs,
    _bpf: Ebpf,
    maps: KernelMaps,
}

impl Stage {
    fn new() -> Result<Self> {
        let bpffs = PrivateBpffs::mount()?;
        let mut bpf = EbpfLoader::new()
            .default_map_pin_directory(bpffs.path())
            .load(object::bytes()?)?;
        let maps = KernelMaps::new(&mut bpf)?;
        Ok(Self {
            bpffs,
            _bpf: bpf,
            maps,
        })
    }

    fn words(&self) -> Result<Array<MapData, u64>> {
        let data = MapData::from_pin(self.bpffs.path().join(map::KNOWN))?;
        Array::try_from(Map::Array(data)).context("KNOWN is no array")
    }

    fn knows(&self, addr: IpAddr) -> Result<bool> {
        let bit = match from_ip(addr) {
            Either::V4(addr) => KnownBit::of(addr),
            Either::V6(addr) => KnownBit::of(addr),
        };
        Ok(self.words()?.get(&bit.word, 0)? & bit.mask != 0)
    }

    fn known(&self) -> Result<u32> {
        let words = self.words()?;
        let mut bits = 0;
        for index in 0..KnownBit::WORDS {
            bits += words.get(&index, 0)?.count_ones();
        }
        Ok(bits)
    }
}

fn frontend(number: u32) -> FrontendAddr {
    FrontendAddr {
        addr: Ipv4Addr::from(0x0a60_0000 + number).into(),
        port: 80,
        protocol: Protocol::Tcp,
    }
}

fn put(number: u32) -> Op {
    Op::PutFrontend {
        frontend: frontend(number),
        service: 0,
        kind: FrontendKind::ClusterIp,
        flags: 0,
        meter: 0,
    }
}

fn delete(number: u32) -> Op {
    Op::DeleteFrontend {
        frontend: frontend(number),
    }
}

fn slot(addr: IpAddr) -> BackendSlot {
    BackendSlot {
        addr,
        port: 8080,
        protocol: Protocol::Tcp,
        generation: 1,
        local: false,
        kept: false,
    }
}

#[test]
fn addresses_of_frontends_and_endpoints_are_known_and_no_others() -> Result<()> {
    let mut stage = Stage::new()?;
    let other = IpAddr::from([192, 0, 2, 1]);
    let (endpoint4, endpoint6) = (
        IpAddr::from([10, 244, 1, 2]),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
    );
    let external = IpAddr::from([198, 51, 100, 7]);
    for addr in [frontend(1).addr, endpoint4, endpoint6, external, other] {
        assert!(!stage.knows(addr)?, "{addr} before it came");
    }
    for op in [
        Op::PutBackend {
            index: 0,
            slot: slot(endpoint4),
        },
        Op::PutBackend {
            index: 0,
            slot: slot(endpoint6),
        },
        put(1),
        Op::PutAddress {
            addr: external,
            kind: FrontendKind::ExternalIp,
        },
    ] {
        stage.maps.apply(&op)?;
    }
    for addr in [frontend(1).addr, endpoint4, endpoint6, external] {
        assert!(stage.knows(addr)?, "{addr}");
    }
    assert!(!stage.knows(other)?);
    assert_eq!(stage.known()?, 4);
    Ok(())
}

#[test]
fn bits_of_addresses_that_went_are_cleared_after_a_while_and_others_stay() -> Result<()> {
    let mut stage = Stage::new()?;
    let endpoint = IpAddr::from([10, 244, 1, 2]);
    stage.maps.apply(&Op::PutBackend {
        index: 3,
        slot: slot(endpoint),
    })?;
    for number in 0..MANY {
        stage.maps.apply(&put(number))?;
    }
    let most = stage.known()?;
    for number in 10..MANY {
        stage.maps.apply(&delete(number))?;
    }
    let left = stage.known()?;
    assert!(left < most / 8, "{left} of {most} bits are left");
    for number in 0..10 {
        assert!(stage.knows(frontend(number).addr)?, "frontend {number}");
    }
    assert!(stage.knows(endpoint)?);
    Ok(())
}

/// An agent that starts over a dataplane that runs, which may have been left by one that knew of no such bits.
#[test]
fn an_agent_that_starts_learns_the_addresses_that_are_there() -> Result<()> {
    let mut stage = Stage::new()?;
    let endpoint = IpAddr::from([10, 244, 1, 2]);
    stage.maps.apply(&put(1))?;
    let stray = frontend(2).addr;
    stage.maps.apply(&put(2))?;
    stage.maps.apply(&delete(2))?;
    let mut words = stage.words()?;
    for index in 0..KnownBit::WORDS {
        words.set(index, 0, 0)?;
    }
    let mut snapshot: Snapshot = stage.maps.snapshot()?;
    snapshot.backends.insert(
        (Family::V4, 5),
        lb_userspace::plan::SnapshotBackend::InUse(slot(endpoint)),
    );
    stage.maps.adopt_endpoints(&snapshot)?;
    assert!(stage.knows(frontend(1).addr)? && stage.knows(endpoint)?);
    assert!(!stage.knows(stray)?);
    Ok(())
}
