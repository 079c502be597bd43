//! The same algorithm before the stack: XDP on uplinks.
//!
//! ```text
//!   parse ─► recorded flow that the node sends out itself? ──► way out ─► note ─► rewrite ─► out
//!              │no
//!            frontend? ─► endpoint on another node? ─► way out ─► record ─► rewrite ─► out
//!                           (no endpoint or no such port: ICMP port unreachable ─► back)
//!   anything else ─► up, as it came: tc decides
//! ```
//!
//! What goes up is counted by tc, and must meet tables there that an early look has not spoiled: so the way out is found
//! before anything is recorded. From then on the packet is finished here, be it that it is dropped. (Session affinity is
//! written down earlier; tc then finds the client with the endpoint that it would choose itself.)

use super::{
    Env, Family, Headers, Packet, Part, Role, Step, Tables, Verdict, Work, address, answer, choose, flows,
    leads_out, meter, node_address, parse, rewrite,
};
use crate::{
    abi::{Address, FlowFlags, FlowKind, proto},
    packet::{checksum, transport},
    verdict::{Action, Reason},
};

/// Finishes a packet, or leaves it and everything else as it was.
#[inline(always)]
pub(super) fn process<F, P, T, E>(packet: &mut P, tables: &T, env: &E, work: &mut Work<F::Addr>) -> Verdict
where
    F: answer::Answers,
    P: Packet,
    T: Tables<F>,
    E: Env<F>,
{
    if let Err(reason) = parse::<F, _>(packet, work) {
        return Verdict::up(reason);
    }
    if !is_plain(&work.headers) {
        return Verdict::up(Reason::OtherProtocol);
    }
    let reason = match known::<F, _, _, _>(packet, tables, env, work) {
        Some(Step::Translate(reason)) => reason,
        Some(Step::Keep(reason)) => return Verdict::up(reason),
        None => match opening::<F, _, _, _>(packet, tables, env, work) {
            Ok(()) => match flows::record(tables, env, work) {
                Ok(reason) if is_as_planned(work) => reason,
                // Another CPU recorded the flow meanwhile: to tc it is an established one.
                Ok(reason) => return Verdict::up(reason),
                Err(reason) => return Verdict::plain(reason),
            },
            Err(reason @ (Reason::NoEndpoints | Reason::UnknownPort)) => {
                return refuse::<F, _, _>(packet, env, work, reason);
            }
            Err(reason) => return Verdict::up(reason),
        },
    };
    let reason = rewrite::apply::<F, _>(packet, work, true, reason);
    if matches!(reason.action(), Action::Forward) {
        meter::count::<F, _, _>(packet, tables, work, reason);
    }
    Verdict::rewritten(reason, true)
}

/// Whether it is a whole packet of TCP or UDP. Fragments follow each other by what tc remembers of the first.
#[inline(always)]
fn is_plain<A>(headers: &Headers<A>) -> bool {
    let whole = matches!(headers.part, Part::Whole);
    whole && matches!(headers.key.proto(), proto::TCP | proto::UDP)
}

/// The flow being recorded: as before, if the node sends it out itself. None if it has to be opened (again).
#[inline(never)]
fn known<F, P, T, E>(packet: &P, tables: &T, env: &E, work: &mut Work<F::Addr>) -> Option<Step>
where
    F: Family,
    P: Packet,
    T: Tables<F>,
    E: Env<F>,
{
    if !tables.flow(&work.headers.key, &mut work.flow) {
        return None;
    }
    let reason = if work.flow.is(FlowKind::Forward) {
        if !flows::keeps_endpoint(tables, env, work) {
            return None;
        }
        Reason::Established
    } else {
        Reason::ReplyRestored
    };
    if !work.flow.is_redirected() || is_unfinished::<F, _>(packet, work) {
        return Some(Step::Keep(reason));
    }
    let to = work.flow.tuple.dst;
    if let Err(reason) = leads_out::<F, _, _>(packet, env, work, to) {
        return Some(Step::Keep(reason));
    }
    flows::refresh(tables, env, work);
    Some(Step::Translate(reason))
}

/// The flow being unknown or at its end: choose an endpoint. Only one on another node is for here.
#[inline(never)]
fn opening<F, P, T, E>(packet: &P, tables: &T, env: &E, work: &mut Work<F::Addr>) -> Result<(), Reason>
where
    F: Family,
    P: Packet,
    T: Tables<F>,
    E: Env<F>,
{
    if !tables.may_be_known(work.headers.key.tuple.dst) {
        return Err(Reason::NotService);
    }
    let chosen = choose::endpoint::<F, _, _>(tables, env, work, Role::Uplink);
    if is_unfinished::<F, _>(packet, work) {
        // Any reason that is not answered.
        return Err(Reason::NotService);
    }
    chosen?;
    if work.backend.is_local() {
        return Err(Reason::NewFlow);
    }
    let to = work.backend.addr;
    leads_out::<F, _, _>(packet, env, work, to)?;
    work.source = node_address::<F, _>(tables, work)?;
    if work.source == work.headers.key.tuple.src {
        return Err(Reason::NewFlow);
    }
    work.flags = FlowFlags::REDIRECT as u32;
    Ok(())
}

/// Whether the flow that is recorded now is the one that the way out was found for.
#[inline(always)]
fn is_as_planned<A: Address>(work: &Work<A>) -> bool {
    work.flow.is(FlowKind::Forward) && work.flow.is_redirected() && work.flow.tuple.dst == work.backend.addr
}

/// Nobody serves, or not on that port: the sender is told, if it can be told.
#[inline(always)]
fn refuse<F, P, E>(packet: &mut P, env: &E, work: &Work<F::Addr>, reason: Reason) -> Verdict
where
    F: answer::Answers,
    P: Packet,
    E: Env<F>,
{
    // A frame that would have to grow may be lost in the driver (seen with veth on Linux 6.18).
    if !address::may_be_told::<F>(work) || packet.frame_len() < F::FRAME_LEN {
        return Verdict::up(reason);
    }
    answer::error::<F, _, _>(packet, env, work, reason)
}

/// Whether hardware, or the stack in its place, is still to compute the packet's checksum: the field then holds the sum of
/// the pseudo header (kernel: `CHECKSUM_PARTIAL`). Such a packet was sent on this machine and never was on a wire, or
/// generic XDP sees several segments as one (GRO). One packet in 65,536 looks like that by chance.
#[inline(never)]
fn is_unfinished<F: Family, P: Packet>(packet: &P, work: &Work<F::Addr>) -> bool {
    let headers = &work.headers;
    let udp = headers.key.proto() == proto::UDP;
    let at = headers.transport_offset as usize + if udp { 4 } else { 16 };
    let Some([word]) = packet.read_at::<1>(at) else {
        return true;
    };
    let (first, second) = transport::ports(word);
    let field = if udp { second } else { first };
    let len = headers.transport_len as u16;
    let sum = headers.key.tuple.src.checksum_words()
        + headers.key.tuple.dst.checksum_words()
        + (headers.key.proto() as u16).to_be() as u64
        + len.to_be() as u64;
    field == !checksum::of(&[0], 0..0, sum)
}
