//! Flow entries: recording both directions together, keeping them alive, telling when a flow must move.

use super::{Env, Family, InsertError, Tables, Work, snat};
use crate::{
    abi::{Address, FlowFlags, FlowKind, proto},
    flow::{Seen, is_over, may_be_taken},
    limits::{FLOW_REFRESH_NS, SNAT_ATTEMPTS},
    packet::transport,
    verdict::Reason,
};

/// Whether a packet of the recorded flow in `work` goes where the flow went before.
///
/// TCP stays as long as the flow lives, whatever becomes of the endpoint. A packet that may open a connection does
/// not stay if the endpoint is gone or the old connection is over.
#[inline(always)]
pub(super) fn keeps_endpoint<F: Family, T: Tables<F>, E: Env<F>>(
    tables: &T,
    env: &E,
    work: &mut Work<F::Addr>,
) -> bool {
    if !work.headers.opens() {
        return true;
    }
    let serving =
        tables.backend(work.flow.backend, &mut work.backend) && work.backend.is_serving(work.flow.generation);
    if !serving {
        return false;
    }
    is_alive(tables, env, work)
}

/// Whether the recorded flow in `work` is not over, so that a packet that may open a connection belongs to it.
#[inline(always)]
pub(super) fn is_alive<F: Family, T: Tables<F>, E: Env<F>>(
    tables: &T,
    env: &E,
    work: &mut Work<F::Addr>,
) -> bool {
    // No timeout is that short, and datagrams close nothing.
    let is_recent = env.now().saturating_sub(work.flow.last_seen) < FLOW_REFRESH_NS;
    (is_recent && work.headers.key.proto() == proto::UDP) || is_alive_with_other(tables, env, work)
}

/// The same, by both entries.
#[inline(never)]
fn is_alive_with_other<F: Family, T: Tables<F>, E: Env<F>>(
    tables: &T,
    env: &E,
    work: &mut Work<F::Addr>,
) -> bool {
    make_other_key(work);
    let other = tables
        .flow(&work.other_key, &mut work.other)
        .then_some(&work.other);
    let timeout = |state| env.timeout(state);
    !is_over(work.headers.key.proto(), &work.flow, other, env.now(), timeout)
}

/// Records the packet's flow to the backend in `work`, both directions or none, and leaves the packet's own entry
/// in `work`.
/// Returns whether the flow is new or had an endpoint before.
#[inline(never)]
pub(super) fn record<F: Family, T: Tables<F>, E: Env<F>>(
    tables: &T,
    env: &E,
    work: &mut Work<F::Addr>,
) -> Result<Reason, Reason> {
    let reason = forget_former(tables, work);
    let source = work.source;
    let now = env.now();
    let key = &work.headers.key;
    // Field by field: a value would be made on the stack first, and that is short.
    let flow = &mut work.flow;
    flow.tuple.src = source;
    flow.tuple.dst = work.backend.addr;
    flow.tuple.ports = transport::ports_word(key.tuple.src_port(), work.backend.port);
    flow.seen = Seen::of(key.proto(), work.headers.tcp_flags).0;
    flow.flags = FlowFlags::of(FlowKind::Forward, work.flags as u8);
    flow.meter = work.meter as u16;
    flow.backend = work.index;
    flow.generation = work.backend.generation;
    flow.last_seen = now;
    insert_reply(tables, env, work, now)?;
    insert_forward(tables, work, reason)
}

/// Removes what is recorded of the packet's flow.
#[inline(always)]
fn forget_former<F: Family, T: Tables<F>>(tables: &T, work: &mut Work<F::Addr>) -> Reason {
    if !tables.flow(&work.headers.key, &mut work.flow) {
        return Reason::NewFlow;
    }
    make_other_key(work);
    tables.delete_flow(&work.other_key);
    tables.delete_flow(&work.headers.key);
    Reason::Rechosen
}

/// Adds the reply entry, under the first source port that no other live flow to the endpoint has.
#[inline(always)]
fn insert_reply<F: Family, T: Tables<F>, E: Env<F>>(
    tables: &T,
    env: &E,
    work: &mut Work<F::Addr>,
    now: u64,
) -> Result<(), Reason> {
    let ports = env.snat_ports();
    let own = work.headers.key.tuple.src_port();
    let hash = snat::port_hash(&work.headers.key);
    make_other(work, now);
    let mut attempt = 0;
    while attempt < SNAT_ATTEMPTS {
        // The client's own port, unless the node itself may use it.
        let port = if attempt == 0 && (!work.flow.is_redirected() || ports.contains(own)) {
            own
        } else {
            ports.candidate(hash, attempt)
        };
        attempt += 1;
        work.flow.tuple.ports = transport::ports_word(port, work.backend.port);
        make_other_key(work);
        if try_reply(tables, env, work)? {
            return Ok(());
        }
    }
    Err(Reason::SnatExhausted)
}

/// Adds the reply entry under its present key; false if another live flow has the key.
///
/// An entry that is there already may be a leftover of the same flow, or of one that is over; that of another live flow is
/// not touched.
#[inline(never)]
fn try_reply<F: Family, T: Tables<F>, E: Env<F>>(
    tables: &T,
    env: &E,
    work: &mut Work<F::Addr>,
) -> Result<bool, Reason> {
    match tables.insert_flow(&work.other_key, &work.other) {
        Ok(()) => return Ok(true),
        Err(InsertError::Full) => return Err(Reason::FlowTableFull),
        Err(InsertError::Exists) => {}
    }
    if tables.flow(&work.other_key, &mut work.there)
        && work.there.tuple != work.other.tuple
        && !give_way(tables, env, work)
    {
        return Ok(false);
    }
    match tables.replace_flow(&work.other_key, &work.other) {
        Ok(()) => Ok(true),
        Err(_) => Err(Reason::FlowTableFull),
    }
}

/// Whether the flow of the entry in `work.there` leaves its tuple to another one. What it still has is removed then.
#[inline(always)]
fn give_way<F: Family, T: Tables<F>, E: Env<F>>(tables: &T, env: &E, work: &mut Work<F::Addr>) -> bool {
    work.beyond_key.tuple.src = work.there.tuple.dst;
    work.beyond_key.tuple.dst = work.there.tuple.src;
    work.beyond_key.tuple.ports = work.there.tuple.ports.rotate_left(16);
    work.beyond_key.protocol = work.other_key.protocol;
    // A flow that moved on from its endpoint has another reply entry.
    let is_whole = tables.flow(&work.beyond_key, &mut work.beyond)
        && work.beyond.tuple.src == work.other_key.tuple.dst
        && work.beyond.tuple.dst == work.other_key.tuple.src
        && work.beyond.tuple.ports == work.other_key.tuple.ports.rotate_left(16);
    let beyond = is_whole.then_some(&work.beyond);
    let timeout = |state| env.timeout(state);
    if !may_be_taken(work.other_key.proto(), &work.there, beyond, env.now(), timeout) {
        return false;
    }
    if is_whole {
        tables.delete_flow(&work.beyond_key);
    }
    true
}

/// Adds the forward entry, or takes back the reply entry.
#[inline(always)]
fn insert_forward<F: Family, T: Tables<F>>(
    tables: &T,
    work: &mut Work<F::Addr>,
    reason: Reason,
) -> Result<Reason, Reason> {
    let error = match tables.insert_flow(&work.headers.key, &work.flow) {
        Ok(()) => return Ok(reason),
        Err(error) => error,
    };
    // Another CPU recorded the flow meanwhile, perhaps to another endpoint: its word counts.
    if error == InsertError::Exists && tables.flow(&work.headers.key, &mut work.there) {
        if work.there.tuple != work.flow.tuple {
            tables.delete_flow(&work.other_key);
            tables.flow(&work.headers.key, &mut work.flow);
        }
        return Ok(reason);
    }
    tables.delete_flow(&work.other_key);
    Err(Reason::FlowTableFull)
}

/// Writes down that the packet in `work` was seen: when it tells something new, and otherwise once in
/// [`FLOW_REFRESH_NS`].
#[inline(always)]
pub(super) fn refresh<F: Family, T: Tables<F>, E: Env<F>>(tables: &T, env: &E, work: &mut Work<F::Addr>) {
    let seen = Seen::of(work.headers.key.proto(), work.headers.tcp_flags);
    let now = env.now();
    if seen.is_news_to(work.flow.seen) || now.saturating_sub(work.flow.last_seen) >= FLOW_REFRESH_NS {
        note(tables, work, seen.0, now);
    }
}

/// Writes down that a packet was seen, and looks at the other direction's entry as well: that keeps it from being
/// evicted, and one that was lost is made again. Not inlined: few packets come here.
#[inline(never)]
fn note<F: Family, T: Tables<F>>(tables: &T, work: &mut Work<F::Addr>, seen: u8, now: u64) {
    tables.note_flow(&work.headers.key, seen, now);
    make_other_key(work);
    if !tables.flow(&work.other_key, &mut work.other) {
        make_other(work, now);
        // Whoever inserts it first is right: both would write the same.
        let _ = tables.insert_flow(&work.other_key, &work.other);
    }
}

/// Makes the key of the flow's other direction.
#[inline(always)]
fn make_other_key<A: Address>(work: &mut Work<A>) {
    work.other_key.tuple.src = work.flow.tuple.dst;
    work.other_key.tuple.dst = work.flow.tuple.src;
    work.other_key.tuple.ports = work.flow.tuple.ports.rotate_left(16);
    work.other_key.protocol = work.headers.key.protocol;
}

/// Makes the entry of the flow's other direction, of which no packet has been seen.
#[inline(always)]
fn make_other<A: Address>(work: &mut Work<A>, now: u64) {
    let kind = if work.flow.is(FlowKind::Forward) {
        FlowKind::Reply
    } else {
        FlowKind::Forward
    };
    let other = &mut work.other;
    other.tuple.src = work.headers.key.tuple.dst;
    other.tuple.dst = work.headers.key.tuple.src;
    other.tuple.ports = work.headers.key.tuple.ports.rotate_left(16);
    other.seen = 0;
    other.flags = FlowFlags::of(kind, work.flow.flags);
    other.meter = work.flow.meter;
    other.backend = work.flow.backend;
    other.generation = work.flow.generation;
    other.last_seen = now;
}
