//! Connections to an endpoint by its own address.
//!
//! On the wire behind the translation they look like those of a service: the same client, and the same address and port
//! of the endpoint. If a client uses one source port for both, the endpoint cannot tell them apart, and the answers of
//! one would be restored as those of the other. So a direct connection is recorded as a flow of its own, whose entries
//! hold its tuple. It keeps its source port if no other flow has the tuple, and its packets are passed as they are;
//! otherwise it gets another one, as a second service on the endpoint would.

use super::{Env, Family, Step, Tables, Work, choose, flows};
use crate::{
    abi::{Address, FlowFlags, FlowKind, FrontendKey, Meter},
    verdict::Reason,
};

/// What the packet is, which was sent to no service: Ok if it opens a connection to an endpoint, which is to be recorded
/// as `work` says then. Otherwise why it is passed.
#[inline(never)]
pub(super) fn opening<F: Family, T: Tables<F>>(tables: &T, work: &mut Work<F::Addr>) -> Result<(), Reason> {
    if !work.headers.opens() {
        return Err(Reason::NotService);
    }
    let key = &work.headers.key;
    let tuple = &key.tuple;
    if !tables.is_endpoint(&FrontendKey::new(tuple.dst, tuple.dst_port(), key.proto())) {
        return Err(Reason::NotService);
    }
    work.other_key.tuple.src = tuple.dst;
    work.other_key.tuple.dst = tuple.src;
    work.other_key.tuple.ports = tuple.ports.rotate_left(16);
    work.other_key.protocol = key.protocol;
    if tables.flow(&work.other_key, &mut work.there) && work.there.is(FlowKind::Forward) {
        // An answer: the one who asked opened the flow, and its reply entry was lost.
        return Err(Reason::Direct);
    }
    work.source = work.headers.key.tuple.src;
    work.flags = FlowFlags::DIRECT as u32;
    work.meter = Meter::NONE as u32;
    work.index = u32::MAX;
    work.backend.addr = work.headers.key.tuple.dst;
    work.backend.port = work.headers.key.tuple.dst_port();
    work.backend.generation = 0;
    Ok(())
}

/// What is done with the first packet of a flow after `recorded`.
#[inline(always)]
pub(super) fn settle<A: Address>(work: &Work<A>, recorded: Result<Reason, Reason>) -> Step {
    let direct = work.flags == FlowFlags::DIRECT as u32;
    match recorded {
        Ok(_) if is_untouched(work) => Step::Keep(Reason::Direct),
        Ok(reason) => Step::Translate(reason),
        // It works without being recorded, as long as no other flow wants its tuple.
        Err(Reason::FlowTableFull) if direct => Step::Keep(Reason::Direct),
        Err(reason) => Step::Keep(reason),
    }
}

/// Whether the packet is one of a direct flow, recorded in `work`, that has its own source port.
#[inline(always)]
pub(super) fn is_untouched<A: Address>(work: &Work<A>) -> bool {
    work.flow.is_direct() && work.flow.tuple.ports == work.headers.key.tuple.ports
}

/// What is done with a packet of the recorded direct flow in `work`. None if it has to be opened anew: the old
/// connection is over, or a service has the endpoint's address now.
#[inline(always)]
pub(super) fn recorded<F: Family, T: Tables<F>, E: Env<F>>(
    tables: &T,
    env: &E,
    work: &mut Work<F::Addr>,
) -> Option<Step> {
    if work.headers.opens() && (choose::is_to_service(tables, work) || !flows::is_alive(tables, env, work)) {
        return None;
    }
    flows::refresh(tables, env, work);
    Some(if is_untouched(work) {
        Step::Keep(Reason::Direct)
    } else {
        Step::Translate(Reason::Established)
    })
}
