//! What holds for every packet, whatever it is and whatever the tables hold.

use lb_common::{
    abi::{Address, FlowKey, FlowKind},
    datapath::{Hook, Verdict, Way},
    host::{MemoryTables, PerFamily},
    verdict::{Action, Reason},
};

use super::sound::sound;

/// What was done with a packet.
pub(super) struct Step<'a> {
    pub(super) hook: Hook,
    pub(super) verdict: Verdict,
    pub(super) packet_before: &'a [u8],
    pub(super) packet: &'a [u8],
    pub(super) tables_before: &'a MemoryTables,
    pub(super) tables: &'a MemoryTables,
}

/// The first rule that was broken.
pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    let broken = |rule: &str| {
        Err(format!(
            "{rule}: {:?} at {:?}\n before {:02x?}\n after  {:02x?}",
            step.verdict, step.hook, step.packet_before, step.packet
        ))
    };
    let action = step.verdict.reason.action();
    match step.verdict.way {
        Way::Back => {
            if action != Action::Reject {
                return broken("only an answer goes back");
            }
            let is_sound = |frame| sound(frame).is_some_and(|it| it.header && it.payload == Some(true));
            // The answer to an echo request is the request turned around: as sound as that was.
            let echo = step.verdict.reason == Reason::EchoAnswered;
            return if is_sound(step.packet) || echo && !is_sound(step.packet_before) {
                Ok(())
            } else {
                broken("an answer is a sound packet")
            };
        }
        Way::Route if action != Action::Forward => return broken("only what is forwarded is sent out"),
        _ => {}
    }
    if action != Action::Forward {
        if step.packet != step.packet_before {
            return broken("what is not forwarded stays as it is");
        }
    } else if step.packet.len() != step.packet_before.len() {
        return broken("translation keeps the length");
    } else if let (Some(before), Some(after)) = (sound(step.packet_before), sound(step.packet)) {
        if before.header && !after.header {
            return broken("a header's checksum that held holds afterwards");
        }
        if before.payload == Some(true) && after.payload != Some(true) {
            return broken("a checksum that held holds afterwards");
        }
    }
    if !new_flows_are_whole(&step.tables_before.v4, &step.tables.v4)
        || !new_flows_are_whole(&step.tables_before.v6, &step.tables.v6)
    {
        return broken("a flow is recorded in both directions");
    }
    Ok(())
}

/// Whether each flow that was not there before has both entries, and these name each other.
fn new_flows_are_whole<A: Address>(before: &PerFamily<A>, after: &PerFamily<A>) -> bool {
    let (before, after) = (before.flows.borrow(), after.flows.borrow());
    after
        .iter()
        .filter(|(key, flow)| flow.is(FlowKind::Forward) && !before.contains_key(key))
        .all(|(key, flow)| {
            after
                .get(&FlowKey::new(flow.tuple.reversed(), key.proto()))
                .is_some_and(|reply| reply.is(FlowKind::Reply) && reply.tuple == key.tuple.reversed())
        })
}
