//! Flow entries: recording both directions together, keeping them alive, telling when a flow must move.

use super::{Env, Family, InsertError, Tables};
use crate::{
    abi::{Backend, Flow, FlowKey, FlowKind, Tuple, proto},
    flow::{Seen, is_over},
    limits::FLOW_REFRESH_NS,
    verdict::Reason,
};

/// Whether a packet of a recorded flow goes where the flow went before.
///
/// TCP stays as long as the flow lives, whatever becomes of the endpoint. A packet that may open a connection does
/// not stay if the endpoint is gone or the old connection is over.
#[inline(always)]
pub(super) fn keeps_endpoint<F: Family, T: Tables<F>, E: Env>(
    tables: &T,
    key: &FlowKey<F::Addr>,
    flow: &Flow<F::Addr>,
    opens: bool,
    env: &E,
) -> bool {
    if !opens {
        return true;
    }
    let serving = match tables.backend(flow.backend) {
        Some(backend) => backend.is_serving(flow.generation),
        None => false,
    };
    if !serving {
        return false;
    }
    if key.proto == proto::UDP {
        // An idle UDP flow that is still recorded may as well go on: its endpoint serves.
        return true;
    }
    is_alive(tables, key, env.now())
}

/// Whether a recorded TCP flow is not over. Not inlined, like [`note`].
#[inline(never)]
fn is_alive<F: Family, T: Tables<F>>(tables: &T, key: &FlowKey<F::Addr>, now: u64) -> bool {
    match tables.flow(key) {
        Some(flow) => !is_over(
            key.proto,
            &flow,
            tables.flow(&other_key(key, &flow)).as_ref(),
            now,
        ),
        None => false,
    }
}

/// Records the flow of `key` to a backend, both directions or none. Returns the packet's tuple after translation, and
/// whether the flow is new or had an endpoint before.
#[inline(always)]
pub(super) fn record<F: Family, T: Tables<F>>(
    tables: &T,
    key: &FlowKey<F::Addr>,
    index: u32,
    backend: &Backend<F::Addr>,
    seen: Seen,
    now: u64,
) -> Result<(Tuple<F::Addr>, Reason), Reason> {
    let reason = match tables.flow(key) {
        Some(old) => {
            tables.delete_flow(&other_key(key, &old));
            tables.delete_flow(key);
            Reason::Rechosen
        }
        None => Reason::NewFlow,
    };
    let tuple = Tuple {
        dst: backend.addr,
        dst_port: backend.port,
        ..key.tuple
    };
    let reply_key = FlowKey::new(tuple.reversed(), key.proto);
    // One variable for both entries: stack is short.
    let mut flow = Flow {
        tuple: key.tuple.reversed(),
        kind: FlowKind::Reply as u8,
        seen: 0,
        pad: [0; 2],
        backend: index,
        generation: backend.generation,
        last_seen: now,
    };
    insert_reply(tables, &reply_key, &flow, now)?;

    flow.tuple = tuple;
    flow.kind = FlowKind::Forward as u8;
    flow.seen = seen.0;
    match tables.insert_flow(key, &flow) {
        Ok(()) => Ok((tuple, reason)),
        Err(error) => {
            // Another CPU recorded the flow meanwhile, perhaps to another endpoint: its word counts.
            let theirs = match error {
                InsertError::Exists => tables.flow(key),
                InsertError::Full => None,
            };
            if theirs.is_some_and(|theirs| {
                theirs.tuple.dst == tuple.dst && theirs.tuple.dst_port == tuple.dst_port
            }) {
                return Ok((tuple, reason));
            }
            tables.delete_flow(&reply_key);
            theirs
                .map(|theirs| (theirs.tuple, reason))
                .ok_or(Reason::FlowTableFull)
        }
    }
}

/// Adds the reply entry of a flow. One that is there already may be a leftover of the same flow, or of one that is
/// over as far as its own direction tells; that of another live flow is not touched.
#[inline(always)]
fn insert_reply<F: Family, T: Tables<F>>(
    tables: &T,
    key: &FlowKey<F::Addr>,
    reply: &Flow<F::Addr>,
    now: u64,
) -> Result<(), Reason> {
    match tables.insert_flow(key, reply) {
        Ok(()) => return Ok(()),
        Err(InsertError::Full) => return Err(Reason::FlowTableFull),
        Err(InsertError::Exists) => {}
    }
    if let Some(there) = tables.flow(key) {
        let same_flow = there.tuple.src == reply.tuple.src && there.tuple.src_port == reply.tuple.src_port;
        if !same_flow && !is_over(key.proto, &there, None, now) {
            return Err(Reason::TupleCollision);
        }
    }
    tables.replace_flow(key, reply).map_err(|_| Reason::FlowTableFull)
}

/// Writes down that a packet was seen: when it tells something new, and otherwise once in [`FLOW_REFRESH_NS`].
#[inline(always)]
pub(super) fn refresh<F: Family, T: Tables<F>>(
    tables: &T,
    key: &FlowKey<F::Addr>,
    flow: &Flow<F::Addr>,
    seen: Seen,
    now: u64,
) {
    if seen.is_news_to(flow.seen) || now.saturating_sub(flow.last_seen) >= FLOW_REFRESH_NS {
        note(tables, key, seen.0, now);
    }
}

/// Writes down that a packet was seen, and looks at the other direction's entry as well: that keeps it from being
/// evicted, and one that was lost is made again. Not inlined: few packets come here, and it needs stack.
#[inline(never)]
fn note<F: Family, T: Tables<F>>(tables: &T, key: &FlowKey<F::Addr>, seen: u8, now: u64) {
    tables.note_flow(key, seen, now);
    if let Some(flow) = tables.flow(key) {
        let other = other_key(key, &flow);
        if tables.flow(&other).is_none() {
            // Whoever inserts it first is right: both would write the same.
            let _ = tables.insert_flow(&other, &other_half(key, &flow, now));
        }
    }
}

/// The key of a flow's other direction.
#[inline(always)]
fn other_key<A: Copy>(key: &FlowKey<A>, flow: &Flow<A>) -> FlowKey<A> {
    FlowKey::new(flow.tuple.reversed(), key.proto)
}

/// The entry of a flow's other direction, of which no packet has been seen.
#[inline(always)]
fn other_half<A: Copy>(key: &FlowKey<A>, flow: &Flow<A>, now: u64) -> Flow<A> {
    let kind = if flow.is(FlowKind::Forward) {
        FlowKind::Reply
    } else {
        FlowKind::Forward
    };
    Flow {
        tuple: key.tuple.reversed(),
        kind: kind as u8,
        seen: 0,
        pad: [0; 2],
        backend: flow.backend,
        generation: flow.generation,
        last_seen: now,
    }
}
