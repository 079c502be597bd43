//! Packets: any bytes, at any hook, in any state of the tables.
//!
//! An input describes a world and some packets that meet it one after the other. Both are made from the cases of the
//! packet tables, so that inputs get past the first checks; then whatever the input says is changed about them.

use std::sync::OnceLock;

use arbitrary::{Arbitrary, Result as Decoded, Unstructured};
use lb_common::{
    datapath::{self, Hook, Role, Works},
    host::Frame,
};

use super::rules::{self, Step};
use crate::packets::{
    case::Case,
    cases, native,
    world::{Halves, World},
};

/// Packets of one input at most.
const MOST_PACKETS: usize = 6;
/// Bytes of a packet at most.
const MOST_BYTES: usize = 1_600;
/// The time of the first packet, in ns. Long after boot.
const BEGIN: u64 = 1 << 50;

/// A packet on its way.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Where it meets the datapath.
    pub hook: Hook,
    /// The frame.
    pub frame: Frame,
    /// How long (ns) after the one before.
    pub after: u64,
}

/// What an input says.
#[derive(Clone, Debug)]
pub struct Input {
    /// What the tables hold before the first packet.
    pub world: World,
    /// The packets.
    pub arrivals: Vec<Arrival>,
}

fn all_cases() -> &'static [Case] {
    static CASES: OnceLock<Vec<Case>> = OnceLock::new();
    CASES.get_or_init(cases::all)
}

/// What an input says. Every input says something.
pub fn decode(input: &[u8]) -> Input {
    let mut source = Unstructured::new(input);
    read(&mut source).unwrap_or_else(|_| Input {
        world: World::default(),
        arrivals: Vec::new(),
    })
}

fn read(source: &mut Unstructured<'_>) -> Decoded<Input> {
    let case = source.choose(all_cases())?;
    let mut world = case.world.clone();
    if source.ratio(1, 4)? {
        world
            .flows
            .extend(source.choose(all_cases())?.world.flows.clone());
    }
    for flow in &mut world.flows {
        if source.ratio(1, 4)? {
            flow.index = source.int_in_range(0..=8)?;
            flow.generation = source.int_in_range(5..=8)?;
            flow.forward_seen = source.int_in_range(0..=15)?;
            flow.reply_seen = source.int_in_range(0..=15)?;
            flow.age = u64::from(u32::arbitrary(source)?) << source.int_in_range(0..=16)?;
            flow.halves = *source.choose(&[Halves::Both, Halves::ForwardOnly, Halves::ReplyOnly])?;
        }
    }
    let mut arrivals = vec![arrival(source, case)?];
    while !source.is_empty() && arrivals.len() < MOST_PACKETS {
        let case = if source.ratio(3, 4)? {
            case
        } else {
            source.choose(all_cases())?
        };
        arrivals.push(arrival(source, case)?);
    }
    Ok(Input { world, arrivals })
}

fn arrival(source: &mut Unstructured<'_>, case: &Case) -> Decoded<Arrival> {
    let hook = match source.int_in_range(0..=5)? {
        0 => Hook::Ingress(Role::Workload),
        1 => Hook::Ingress(Role::Uplink),
        2 => Hook::Egress,
        _ => case.hook,
    };
    let mut bytes = case.packet.clone();
    bytes.truncate(MOST_BYTES);
    for _ in 0..source.int_in_range(0..=5)? {
        let at = source.int_in_range(0..=u16::MAX)? as usize;
        let byte = u8::arbitrary(source)?;
        if let Some(len) = core::num::NonZero::new(bytes.len()) {
            bytes[at % len] = byte;
        }
    }
    if source.ratio(1, 8)? {
        bytes.truncate(source.int_in_range(0..=u8::MAX)?.into());
    }
    if source.ratio(1, 16)? {
        bytes = source.bytes(source.len().min(200))?.to_vec();
    }
    let mut frame = Frame::new(bytes);
    frame.vlan_tag = source.ratio(1, 32)?;
    frame.for_other_host = source.ratio(1, 32)?;
    let after = u64::from(u16::arbitrary(source)?) << source.int_in_range(0..=32)?;
    Ok(Arrival { hook, frame, after })
}

/// Plays an input natively; the first rule that it breaks.
///
/// # Errors
///
/// The rule, and the packet that broke it.
pub fn check(input: &[u8]) -> Result<(), String> {
    let Input { world, arrivals } = decode(input);
    let tables = native::tables(&world, BEGIN);
    let mut now = BEGIN;
    // As in the kernel: what a packet leaves there, the next one finds.
    let mut works = Works::default();
    for arrival in arrivals {
        now += arrival.after;
        let before = tables.clone();
        let mut frame = arrival.frame.clone();
        let env = native::env(now);
        let verdict = datapath::process(&mut frame, &tables, &env, arrival.hook, &mut works);
        rules::check(&Step {
            hook: arrival.hook,
            verdict,
            packet_before: &arrival.frame.bytes,
            packet: &frame.bytes,
            tables_before: &before,
            tables: &tables,
        })?;
    }
    Ok(())
}
