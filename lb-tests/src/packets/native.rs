//! Runs a case on the datapath in ordinary memory.

use std::collections::BTreeSet;

use ipnet::IpNet;
use lb_common::{
    abi::{Either, EitherPrefix, to_ip},
    datapath::{self, Hook, Ports, Role, RouteError, Way, Works},
    host::{FixedEnv, Frame, MemoryTables},
};

use super::{
    case::{Case, Outcome, describe_flow, describe_fragment},
    world::{Entry, ROUTES, World},
};

/// The ports that flows may be given in all cases.
pub const SNAT_PORTS: Ports = Ports {
    first: 1_024,
    count: 28_976,
};

/// Networks that are for services alone, in all cases.
pub const SERVICE_CIDRS: [&str; 3] = ["10.97.0.0/16", "10.98.0.0/24", "fd00:10:97::/112"];

/// Time of the native clock, in ns. Long after boot, so that any age can be taken off.
const NOW: u64 = 30 * 24 * 3600 * 1_000_000_000;

/// The memory tables that hold a world.
pub fn tables(world: &World, now: u64) -> MemoryTables {
    let mut tables = MemoryTables::default();
    for net in SERVICE_CIDRS.iter().filter_map(|text| text.parse::<IpNet>().ok()) {
        match EitherPrefix::new(net.addr(), net.prefix_len()) {
            EitherPrefix::V4(prefix) => tables.v4.service_cidrs.push(prefix),
            EitherPrefix::V6(prefix) => tables.v6.service_cidrs.push(prefix),
        }
    }
    for entry in world.entries(now) {
        match entry {
            Entry::Frontend4(key, value) => drop(tables.v4.frontends.borrow_mut().insert(key, value)),
            Entry::Frontend6(key, value) => drop(tables.v6.frontends.borrow_mut().insert(key, value)),
            Entry::Service(id, value) => drop(tables.services.borrow_mut().insert(id, value)),
            Entry::Slot(slot, value) => drop(tables.slots.borrow_mut().insert(slot, value)),
            Entry::Backend4(index, value) => drop(tables.v4.backends.borrow_mut().insert(index, value)),
            Entry::Backend6(index, value) => drop(tables.v6.backends.borrow_mut().insert(index, value)),
            Entry::Endpoint4(key) => drop(tables.v4.endpoints.borrow_mut().insert(key)),
            Entry::Endpoint6(key) => drop(tables.v6.endpoints.borrow_mut().insert(key)),
            Entry::Flow4(key, value) => drop(tables.v4.flows.borrow_mut().insert(key, value)),
            Entry::Flow6(key, value) => drop(tables.v6.flows.borrow_mut().insert(key, value)),
            Entry::Affinity4(key, value) => drop(tables.v4.affinities.borrow_mut().insert(key, value)),
            Entry::Affinity6(key, value) => drop(tables.v6.affinities.borrow_mut().insert(key, value)),
            Entry::Fragment4(key, value) => drop(tables.v4.fragments.borrow_mut().insert(key, value)),
            Entry::Fragment6(key, value) => drop(tables.v6.fragments.borrow_mut().insert(key, value)),
            Entry::Range4(range, len) => {
                let prefix = EitherPrefix::new(to_ip(Either::V4(range.client)), len);
                if let EitherPrefix::V4(prefix) = prefix {
                    let mut ranges = tables.v4.ranges.borrow_mut();
                    ranges.entry(range.service).or_default().push(prefix);
                }
            }
            Entry::Range6(range, len) => {
                let prefix = EitherPrefix::new(to_ip(Either::V6(range.client)), len);
                if let EitherPrefix::V6(prefix) = prefix {
                    let mut ranges = tables.v6.ranges.borrow_mut();
                    ranges.entry(range.service).or_default().push(prefix);
                }
            }
            Entry::Source4(device, addr) => drop(tables.v4.sources.borrow_mut().insert(device, addr)),
            Entry::Source6(device, addr) => drop(tables.v6.sources.borrow_mut().insert(device, addr)),
        }
    }
    tables
}

/// What surrounds a case at the time `now` (ns): the routes of [`ROUTES`].
pub fn env(now: u64) -> FixedEnv {
    FixedEnv::new(now, SNAT_PORTS, |to| {
        let leads_there = |net: &str| net.parse::<IpNet>().is_ok_and(|net| net.contains(&to));
        let route = ROUTES.iter().find(|(net, _)| leads_there(net));
        route.map(|(_, device)| *device).ok_or(RouteError::None)
    })
}

/// What the native datapath makes of a case.
pub fn run(case: &Case) -> Outcome {
    run_at(case, case.hook).1
}

/// What it makes of the case's packet at another hook, and the way that the packet takes.
pub fn run_at(case: &Case, hook: Hook) -> (Way, Outcome) {
    let tables = tables_before(case);
    let env = env(NOW);
    let mut frame = Frame::new(case.packet.clone());
    frame.for_other_host = is_for_other_host(case, hook);
    let verdict = datapath::process(&mut frame, &tables, &env, hook, &mut Works::default());
    let flows = flows(&tables);
    let outcome = Outcome {
        reason: verdict.reason,
        packet: frame.bytes,
        redirected: verdict.way != Way::Stack,
        flows,
        counted: tables
            .meters
            .borrow()
            .iter()
            .map(|(n, meter)| (*n, *meter))
            .collect(),
    };
    (verdict.way, outcome)
}

/// The flow entries that a case starts with, as text.
pub fn flows_before(case: &Case) -> BTreeSet<String> {
    flows(&tables_before(case))
}

/// The tables of a case's world, after the frames that come before its packet.
fn tables_before(case: &Case) -> MemoryTables {
    let tables = tables(&case.world, NOW);
    for before in &case.before {
        let mut frame = Frame::new(before.clone());
        datapath::process(&mut frame, &tables, &env(NOW), case.hook, &mut Works::default());
    }
    tables.meters.borrow_mut().clear();
    tables
}

fn flows(tables: &MemoryTables) -> BTreeSet<String> {
    let v4 = tables.v4.flows.borrow();
    let v6 = tables.v6.flows.borrow();
    let mut flows: BTreeSet<String> = v4
        .iter()
        .map(|(key, flow)| describe_flow(key, flow))
        .chain(v6.iter().map(|(key, flow)| describe_flow(key, flow)))
        .collect();
    let (v4, v6) = (tables.v4.fragments.borrow(), tables.v6.fragments.borrow());
    flows.extend(v4.iter().map(|(key, fragment)| describe_fragment(key, fragment)));
    flows.extend(v6.iter().map(|(key, fragment)| describe_fragment(key, fragment)));
    flows
}

/// What `BPF_PROG_TEST_RUN` makes of the frame: it arrives on the loopback device, whose hardware address is zero, and
/// the kernel takes unicast frames for any other address as another machine's.
fn is_for_other_host(case: &Case, hook: Hook) -> bool {
    let unicast = case.packet.first().is_some_and(|first| first & 1 == 0);
    matches!(hook, Hook::Ingress(Role::Uplink) | Hook::Early)
        && unicast
        && case.packet.iter().take(6).any(|byte| *byte != 0)
}
