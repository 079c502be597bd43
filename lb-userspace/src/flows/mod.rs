//! Flows that are over are removed from the kernel's tables, and what is there is counted.
//!
//! ```text
//!   a batch of entries ─► alive, by both halves? ──yes──► count
//!                            └no─► look again ─► still dead: remove the reply entry, then the forward entry
//! ```
//!
//! The collector has a thread of its own and pauses between small steps, so that neither the main loop nor the datapath
//! waits for it. It is not needed for forwarding: a full table forgets what was not used for longest, and the kernel
//! programs never go by a dead entry. It keeps dead entries from driving out live ones.

mod survey;
mod table;
mod watch;

use std::{io, path::Path, thread, time::Duration};

use aya::{
    Pod,
    maps::{Array, Map, MapData, MapError},
};
use lb_common::{
    abi::{Affinity, AffinityKey, Flow, FlowKey, FlowKind, Service, map},
    datapath::Ports,
    flow::{State, Timeouts, is_dead},
};
use thiserror::Error;
use tracing::{debug, error};

pub use self::survey::Fullest;
use self::{
    survey::{Addr, Survey, is_pair, other_key},
    table::Table,
    watch::Watch,
};
use crate::apply::ApplyError;

type V4 = u32;
type V6 = [u32; 4];

/// Pause after each step.
const PAUSE: Duration = Duration::from_millis(1);
/// The longest pause between two walks through the tables, when they are empty.
const LONGEST: Duration = Duration::from_secs(10);
/// The shortest, when they are full.
const SHORTEST: Duration = Duration::from_millis(500);
/// How long (ns) what is known of a client is kept after its affinity has expired. When it comes back it may meet
/// another endpoint then, which is told from the entry; who comes back later still is as good as new.
const AFFINITY_GRACE: u64 = 3_600 * NS_PER_S;

const NS_PER_S: u64 = 1_000_000_000;

/// Why the tables cannot be walked through.
#[derive(Debug, Error)]
pub enum FlowsError {
    /// A map cannot be opened or written.
    #[error("use the pinned map {name}: {source}")]
    Map {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// A map cannot be read.
    #[error("read a batch of the pinned map {name}: {source}")]
    Read {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A map holds something else.
    #[error("the pinned map {name} is not of this version; run `fairlead cleanup`")]
    Layout {
        /// Its name.
        name: &'static str,
    },
    /// The counters cannot be read.
    #[error(transparent)]
    Counters(#[from] ApplyError),
    /// There is no thread.
    #[error("start the thread of the collector: {0}")]
    Thread(#[source] io::Error),
}

/// What a walk has found in the table of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Name of the map.
    pub name: &'static str,
    /// Entries, of both directions.
    pub entries: u64,
    /// Entries that there is room for.
    pub capacity: u64,
    /// Flows by state; states without flows are left out.
    pub states: Vec<(State, u64)>,
    /// Flows that have a source port of the node's range.
    pub with_ports: u64,
    /// The endpoint towards which most of these ports are taken.
    pub fullest: Option<Fullest>,
    /// Flows that were removed.
    pub removed: u64,
}

impl Found {
    /// How full the table is, in percent.
    pub fn percent(&self) -> u64 {
        self.entries * 100 / self.capacity.max(1)
    }
}

/// Removes flows that are over, and affinities that have long expired.
pub struct Collector {
    flows4: Table<FlowKey<V4>, Flow<V4>>,
    flows6: Table<FlowKey<V6>, Flow<V6>>,
    affinity4: Table<AffinityKey<V4>, Affinity>,
    affinity6: Table<AffinityKey<V6>, Affinity>,
    services: Array<MapData, Service>,
    timeouts: Timeouts,
    now: fn() -> u64,
}

impl Collector {
    /// A collector for the maps that are pinned in `maps`. `now` reads the clock of the kernel programs, in ns.
    ///
    /// # Errors
    ///
    /// If a map cannot be opened.
    pub fn open(maps: &Path, timeouts: Timeouts, now: fn() -> u64) -> Result<Self, FlowsError> {
        let name = map::SERVICES;
        let failed = |source| FlowsError::Map { name, source };
        let services = MapData::from_pin(maps.join(name)).map_err(failed)?;
        Ok(Self {
            flows4: open_flows(maps, map::FLOWS4)?,
            flows6: open_flows(maps, map::FLOWS6)?,
            affinity4: open_affinity(maps, map::AFFINITY4)?,
            affinity6: open_affinity(maps, map::AFFINITY6)?,
            services: Array::try_from(Map::Array(services)).map_err(failed)?,
            timeouts,
            now,
        })
    }

    /// Walks through all tables once and removes what is over. `pause` is called after each step.
    ///
    /// # Errors
    ///
    /// If a map cannot be read or written.
    pub fn walk(&mut self, mut pause: impl FnMut()) -> Result<[Found; 2], FlowsError> {
        let judge = Some(Judge {
            timeouts: &self.timeouts,
            now: self.now,
        });
        let found = [
            walk_flows(&mut self.flows4, judge, &mut pause)?,
            walk_flows(&mut self.flows6, judge, &mut pause)?,
        ];
        let services = &self.services;
        let timeout = |service| {
            let affinity = services
                .get(&service, 0)
                .map_or(0, |service| service.table.policies().affinity);
            u64::from(affinity) * NS_PER_S
        };
        let removed = walk_affinity(&mut self.affinity4, timeout, self.now, &mut pause)?
            + walk_affinity(&mut self.affinity6, timeout, self.now, &mut pause)?;
        if removed > 0 {
            debug!(removed, "forgot clients of services with session affinity");
        }
        Ok(found)
    }

    /// Walks again and again in a thread of its own, until the process ends. `publish` is told what each walk has found.
    ///
    /// # Errors
    ///
    /// If there is no thread.
    pub fn start(
        mut self,
        maps: &Path,
        ports: Ports,
        publish: impl Fn(&[Found; 2]) + Send + 'static,
    ) -> Result<(), FlowsError> {
        let mut watch = Watch::open(maps, ports)?;
        let shortest = State::ALL.map(|state| self.timeouts.of(state)).into_iter().min();
        let longest = LONGEST.min(Duration::from_nanos(shortest.unwrap_or(0)));
        let work = move || {
            let mut told = false;
            loop {
                let mut interval = longest;
                match self.walk(|| thread::sleep(PAUSE)) {
                    Ok(found) => {
                        told = false;
                        let percent = found.iter().map(Found::percent).max().unwrap_or(0).min(100);
                        interval = longest * (100 - percent as u32) / 100;
                        watch.look(&found);
                        publish(&found);
                    }
                    Err(failure) if told => debug!("{failure}"),
                    Err(failure) => {
                        error!(
                            "{failure}; flows that are over stay in the tables until others need their room"
                        );
                        told = true;
                    }
                }
                thread::sleep(interval.max(SHORTEST));
            }
        };
        let builder = thread::Builder::new().name("flows".to_owned());
        builder.spawn(work).map(drop).map_err(FlowsError::Thread)
    }
}

/// Counts the flows of the maps that are pinned in `maps`, and changes nothing.
///
/// # Errors
///
/// If a map cannot be read.
pub fn count(maps: &Path) -> Result<[Found; 2], FlowsError> {
    Ok([
        walk_flows(&mut open_flows::<V4>(maps, map::FLOWS4)?, None, &mut || ())?,
        walk_flows(&mut open_flows::<V6>(maps, map::FLOWS6)?, None, &mut || ())?,
    ])
}

/// The clock of the kernel programs, in ns.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * NS_PER_S + now.tv_nsec.cast_unsigned()
}

fn open_flows<A: Addr>(maps: &Path, name: &'static str) -> Result<Table<FlowKey<A>, Flow<A>>, FlowsError>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    Table::open(maps, name, FlowKey::default(), Flow::default())
}

fn open_affinity<A: Addr>(
    maps: &Path,
    name: &'static str,
) -> Result<Table<AffinityKey<A>, Affinity>, FlowsError>
where
    AffinityKey<A>: Pod,
{
    Table::open(maps, name, AffinityKey::default(), Affinity::default())
}

/// What a flow is judged by.
#[derive(Clone, Copy)]
struct Judge<'a> {
    timeouts: &'a Timeouts,
    now: fn() -> u64,
}

impl Judge<'_> {
    /// Whether a packet was seen so lately that the flow is alive in any state. Looking for the other entry is a call of the
    /// kernel, which a busy node's reply entries need not cost.
    fn is_young<A>(self, flow: &Flow<A>) -> bool {
        let shortest = State::ALL.map(|state| self.timeouts.of(state)).into_iter().min();
        (self.now)().saturating_sub(flow.last_seen) <= shortest.unwrap_or(0)
    }

    fn is_dead<A>(self, key: &FlowKey<A>, flow: &Flow<A>, other: Option<&Flow<A>>) -> bool {
        is_dead(key.proto(), flow, other, (self.now)(), |state| {
            self.timeouts.of(state)
        })
    }
}

/// What became of an attempt to remove a flow.
enum Removal {
    Done,
    /// It was removed with its other entry, or evicted.
    GoneBefore,
    /// A packet came.
    CameAlive,
}

/// Walks through the flows of a family; without a judge nothing is removed.
fn walk_flows<A: Addr>(
    table: &mut Table<FlowKey<A>, Flow<A>>,
    judge: Option<Judge<'_>>,
    pause: &mut impl FnMut(),
) -> Result<Found, FlowsError>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    let mut survey = Survey::default();
    let (mut removed, mut place) = (0, None);
    loop {
        let (entries, next) = table.step(place)?;
        for (key, flow) in entries {
            if !flow.is(FlowKind::Forward) && judge.is_some_and(|judge| judge.is_young(&flow)) {
                survey.add_entry();
                continue;
            }
            let other = table
                .get(&other_key(&key, &flow))
                .filter(|other| is_pair(&key, other));
            if let Some(judge) = judge
                && judge.is_dead(&key, &flow, other.as_ref())
            {
                match remove(table, &key, judge)? {
                    Removal::Done => removed += 1,
                    Removal::GoneBefore => {}
                    Removal::CameAlive => survey.add_entry(),
                }
                continue;
            }
            survey.add_entry();
            // A pair is counted by its forward entry.
            if flow.is(FlowKind::Forward) || other.is_none() {
                survey.add_flow(&key, &flow, other.as_ref());
            }
        }
        place = next;
        if place.is_none() {
            break;
        }
        pause();
    }
    let states = State::ALL.map(|state| (state, survey.in_state(state)));
    Ok(Found {
        name: table.name,
        entries: survey.entries(),
        capacity: table.capacity.into(),
        states: states.into_iter().filter(|(_, flows)| *flows > 0).collect(),
        with_ports: survey.with_ports(),
        fullest: survey.fullest(),
        removed,
    })
}

/// Removes both entries of the flow that has an entry under `key`, if it is still dead.
///
/// Both entries are read again for that, and the forward entry once more before it is removed: it goes last, because a
/// packet without it would be hashed again. One that came meanwhile is noted there, and makes the reply entry again.
fn remove<A: Addr>(
    table: &mut Table<FlowKey<A>, Flow<A>>,
    key: &FlowKey<A>,
    judge: Judge<'_>,
) -> Result<Removal, FlowsError>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    let Some(flow) = table.get(key) else {
        return Ok(Removal::GoneBefore);
    };
    let other_key = other_key(key, &flow);
    let other = table.get(&other_key).filter(|other| is_pair(key, other));
    if !judge.is_dead(key, &flow, other.as_ref()) {
        return Ok(Removal::CameAlive);
    }
    let is_forward = flow.is(FlowKind::Forward);
    if is_forward && other.is_some() {
        table.remove(&other_key)?;
    } else if !is_forward {
        table.remove(key)?;
    }
    let forward = if is_forward {
        Some((*key, flow))
    } else {
        other.map(|other| (other_key, other))
    };
    let Some((key, before)) = forward else {
        return Ok(Removal::Done);
    };
    if table
        .get(&key)
        .is_some_and(|after| after.last_seen != before.last_seen)
    {
        return Ok(Removal::CameAlive);
    }
    table.remove(&key)?;
    Ok(Removal::Done)
}

/// Removes the clients whose affinity has long expired. `timeout` tells a service's (ns), 0 for none.
fn walk_affinity<A: Addr>(
    table: &mut Table<AffinityKey<A>, Affinity>,
    timeout: impl Fn(u32) -> u64,
    now: fn() -> u64,
    pause: &mut impl FnMut(),
) -> Result<u64, FlowsError>
where
    AffinityKey<A>: Pod,
{
    let (mut removed, mut place) = (0, None);
    loop {
        let (entries, next) = table.step(place)?;
        for (key, _) in entries {
            let timeout = timeout(key.service);
            let is_over = |affinity: Affinity| {
                let away = now().saturating_sub(affinity.last_used);
                timeout == 0 || away > timeout + AFFINITY_GRACE
            };
            if table.get(&key).is_some_and(is_over) {
                removed += u64::from(table.remove(&key)?);
            }
        }
        place = next;
        if place.is_none() {
            return Ok(removed);
        }
        pause();
    }
}
