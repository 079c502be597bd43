//! Which endpoint a new flow goes to.

use super::{Family, Role, Tables, family};
use crate::{
    abi::{Backend, FlowKey, FrontendKey, TableRef},
    maglev,
    verdict::Reason,
};

/// The endpoint for the flow of `key`, with its index.
#[inline(always)]
pub(super) fn endpoint<F: Family, T: Tables<F>>(
    tables: &T,
    key: &FlowKey<F::Addr>,
    role: Role,
) -> Result<(u32, Backend<F::Addr>), Reason> {
    let tuple = &key.tuple;
    let frontend = match tables.frontend(&FrontendKey::new(tuple.dst, tuple.dst_port, key.proto)) {
        Some(frontend) if family::takes_packets(frontend.kind) => frontend,
        _ => return Err(Reason::NotService),
    };
    let hash = maglev::flow_hash(tuple.src, tuple.src_port, tuple.dst_port, key.proto);
    let (index, backend) = match by_hash(tables, frontend.service, hash) {
        Ok(choice) => choice,
        Err(Failure::NoEndpoints) => return Err(Reason::NoEndpoints),
        Err(Failure::BadTable) => return Err(Reason::BadTable),
    };
    if matches!(role, Role::Uplink) && !backend.is_local() {
        // The endpoint's answer would reach the client from an address that it never asked.
        return Err(Reason::RemoteFromUplink);
    }
    Ok((index, backend))
}

/// Why a service has no endpoint for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    NoEndpoints,
    BadTable,
}

/// The endpoint in the slot of a service's table that `hash` falls on.
#[inline(always)]
pub(super) fn by_hash<F: Family, T: Tables<F>>(
    tables: &T,
    service: u32,
    hash: u32,
) -> Result<(u32, Backend<F::Addr>), Failure> {
    let table = tables.service(service).ok_or(Failure::BadTable)?.table;
    if let Some(choice) = in_table(tables, table, hash)? {
        return Ok(choice);
    }
    // The agent gave the service a new table and freed a backend of the old one between our two reads. It writes
    // the table first, so a second look finds the new one.
    let table = tables.service(service).ok_or(Failure::BadTable)?.table;
    in_table(tables, table, hash)?.ok_or(Failure::BadTable)
}

/// The endpoint in the slot of `table`; none if it was freed meanwhile.
#[inline(always)]
#[expect(
    clippy::type_complexity,
    reason = "an index with its value, or not: a name would hide it"
)]
fn in_table<F: Family, T: Tables<F>>(
    tables: &T,
    table: TableRef,
    hash: u32,
) -> Result<Option<(u32, Backend<F::Addr>)>, Failure> {
    let slot = table.slot(hash).ok_or(Failure::NoEndpoints)?;
    let index = tables.slot(slot).ok_or(Failure::BadTable)?;
    let backend = tables.backend(index).ok_or(Failure::BadTable)?;
    Ok(backend.is_serving(backend.generation).then_some((index, backend)))
}
