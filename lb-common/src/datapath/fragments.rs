//! Fragments. Only the first of a datagram has ports: it is translated like a whole packet, and what was done with it is
//! remembered for [`FRAGMENT_TIMEOUT_NS`]. The others follow it. A transport checksum covers the datagram, and is in the first
//! fragment: updated by the difference, it is right again when all are together.
//!
//! ```text
//!   first ─► as a whole packet ─► translated? ─► remember (source, destination, identification) → new addresses
//!   later ─► remembered? ──yes──► the same addresses, the same way out
//!               │no
//!            sent to an address of services, which no host has? ──yes──► drop: it can only be wrong
//!               │no
//!            on, as it is: it belongs to no service, or the node puts it together
//! ```
//!
//! Fragments that overtake the first of their datagram are lost or passed like those of an unknown one: they are not kept,
//! and their sender has to repeat the datagram, as it has to when the network loses one.

use super::{Env, Family, Hook, Step, Tables, Work, address};
use crate::{
    abi::{FlowKind, FragmentKey},
    limits::FRAGMENT_TIMEOUT_NS,
    verdict::Reason,
};

/// What becomes of a later fragment. If it is translated, the flow entry in `work` has the addresses, but no ports.
#[inline(never)]
pub(super) fn follow<F: Family, T: Tables<F>, E: Env<F>>(
    tables: &T,
    env: &E,
    work: &mut Work<F::Addr>,
    hook: Hook,
) -> Step {
    make_key::<F>(work, hook);
    let found = tables.fragment(&work.fragment_key, &mut work.fragment);
    if found && env.now().saturating_sub(work.fragment.seen_at) <= FRAGMENT_TIMEOUT_NS {
        let (fragment, flow) = (&work.fragment, &mut work.flow);
        flow.tuple.src = fragment.src;
        flow.tuple.dst = fragment.dst;
        flow.tuple.ports = work.headers.key.tuple.ports;
        flow.flags = fragment.flags;
        flow.meter = fragment.meter;
        return Step::Translate(if flow.is(FlowKind::Forward) {
            Reason::Established
        } else {
            Reason::ReplyRestored
        });
    }
    if let Hook::Ingress(role) = hook
        && address::without_frontend::<F, _>(tables, work, role) != Reason::NotService
    {
        return Step::Keep(Reason::FragmentLost);
    }
    Step::Keep(Reason::Fragment)
}

/// Remembers what was done with a first fragment: the translation in `work`.
#[inline(never)]
pub(super) fn remember<F: Family, T: Tables<F>, E: Env<F>>(
    tables: &T,
    env: &E,
    work: &mut Work<F::Addr>,
    hook: Hook,
) {
    make_key::<F>(work, hook);
    let (fragment, flow) = (&mut work.fragment, &work.flow);
    fragment.src = flow.tuple.src;
    fragment.dst = flow.tuple.dst;
    fragment.flags = flow.flags;
    fragment.meter = flow.meter;
    fragment.pad = [0; 5];
    fragment.seen_at = env.now();
    tables.remember_fragment(&work.fragment_key, &work.fragment);
}

#[inline(always)]
fn make_key<F: Family>(work: &mut Work<F::Addr>, hook: Hook) {
    let (key, headers) = (&mut work.fragment_key, &work.headers);
    key.src = headers.key.tuple.src;
    key.dst = headers.key.tuple.dst;
    key.id = headers.identification;
    key.scope = if F::IS_V6 { 0 } else { headers.key.protocol };
    if matches!(hook, Hook::Egress) {
        key.scope |= FragmentKey::<F::Addr>::LEAVING;
    }
}
