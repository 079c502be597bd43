//! A case of a packet table, what came of it, and how two of these are compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use lb_common::{
    abi::{Flow, FlowKey, Fragment, FragmentKey, Meter},
    datapath::Hook,
    verdict::Reason,
};

use super::world::World;

/// One row of a packet table.
#[derive(Clone, Debug)]
pub struct Case {
    /// The rule that the case shows.
    pub name: String,
    /// Where the packet meets the datapath.
    pub hook: Hook,
    /// What the datapath knows.
    pub world: World,
    /// Frames that came just before, by the same hook.
    pub before: Vec<Vec<u8>>,
    /// The frame.
    pub packet: Vec<u8>,
    /// What must be done with it, and why.
    pub reason: Reason,
    /// The frame afterwards; none if it must be as it was.
    pub rewritten: Option<Vec<u8>>,
    /// Whether the node must send it out itself.
    pub redirected: bool,
}

/// What came of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The reason that was counted.
    pub reason: Reason,
    /// The frame afterwards.
    pub packet: Vec<u8>,
    /// Whether the node sends it out itself.
    pub redirected: bool,
    /// The entries of flows and fragments afterwards, without their times, as text.
    pub flows: BTreeSet<String>,
    /// What was counted of the packet, by the number of the meter.
    pub counted: BTreeMap<u16, Meter>,
}

/// A flow entry as text, without its time: native and kernel clocks differ.
pub fn describe_flow<A: std::fmt::Debug + Copy>(key: &FlowKey<A>, flow: &Flow<A>) -> String {
    format!(
        "{key:x?} -> {:x?}",
        Flow {
            last_seen: 0,
            ..*flow
        }
    )
}

/// What is remembered of a datagram's fragments as text, without its time.
pub fn describe_fragment<A: std::fmt::Debug + Copy>(key: &FragmentKey<A>, fragment: &Fragment<A>) -> String {
    format!(
        "{key:x?} -> {:x?}",
        Fragment {
            seen_at: 0,
            ..*fragment
        }
    )
}

impl Case {
    /// Whether `BPF_PROG_TEST_RUN` takes the frame: the kernel refuses one whose EtherType says IP and which is shorter
    /// than the IP header (seen on 6.18: EINVAL). Such frames are sent over a wire instead.
    pub fn is_runnable(&self) -> bool {
        let ip_header = match self.packet.get(12..14) {
            Some([0x08, 0x00]) => 20,
            Some([0x86, 0xdd]) => 40,
            _ => 1,
        };
        self.packet.len() >= 14 + ip_header
    }

    /// The oldest flow that the case starts with, in ns: the kernel's clock counts from boot, and nothing can be older.
    pub fn oldest_flow(&self) -> u64 {
        self.world.flows.iter().map(|flow| flow.age).max().unwrap_or(0)
    }

    /// What is wrong with an outcome, or nothing.
    pub fn complaints(&self, side: &str, outcome: &Outcome) -> String {
        let mut text = String::new();
        if outcome.reason != self.reason {
            let _ = writeln!(text, "{side}: {:?} instead of {:?}", outcome.reason, self.reason);
        }
        if outcome.redirected != self.redirected {
            let _ = writeln!(
                text,
                "{side}: sent out by the node itself: {}",
                outcome.redirected
            );
        }
        let expected = self.rewritten.as_ref().unwrap_or(&self.packet);
        if &outcome.packet != expected {
            let _ = writeln!(
                text,
                "{side}: packet differs\n{}",
                hex_diff(expected, &outcome.packet)
            );
        }
        text
    }
}

/// The bytes in which two frames differ, with their offsets.
pub fn hex_diff(expected: &[u8], got: &[u8]) -> String {
    let mut text = String::new();
    if expected.len() != got.len() {
        let _ = writeln!(text, "  length {} instead of {}", got.len(), expected.len());
    }
    for (at, (want, have)) in expected.iter().zip(got).enumerate() {
        if want != have {
            let _ = writeln!(text, "  byte {at}: {have:02x} instead of {want:02x}");
        }
    }
    text
}
