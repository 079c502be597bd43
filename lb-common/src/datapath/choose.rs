//! Which endpoint a new flow goes to.

use super::{Family, Tables, Work, family};
use crate::{
    abi::{Address, Backend, FrontendKey, TableRef},
    maglev,
    verdict::Reason,
};

/// Puts the endpoint for the packet's flow into `work`, with its index.
#[inline(always)]
pub(super) fn endpoint<F: Family, T: Tables<F>>(tables: &T, work: &mut Work<F::Addr>) -> Result<(), Reason> {
    let key = &work.headers.key;
    let tuple = &key.tuple;
    let frontend = match tables.frontend(&FrontendKey::new(tuple.dst, tuple.dst_port(), key.proto())) {
        Some(frontend) if family::takes_packets(frontend.kind) => frontend,
        _ => return Err(Reason::NotService),
    };
    let hash = maglev::flow_hash(tuple.src, tuple.src_port(), tuple.dst_port(), key.proto());
    match by_hash::<F, _>(tables, frontend.service, hash, &mut work.backend) {
        Ok(index) => {
            work.index = index;
            Ok(())
        }
        Err(Failure::NoEndpoints) => Err(Reason::NoEndpoints),
        Err(Failure::BadTable) => Err(Reason::BadTable),
    }
}

/// Why a service has no endpoint for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    NoEndpoints,
    BadTable,
}

/// Puts the endpoint in the slot of a service's table that `hash` falls on into `backend`, and returns its index.
#[inline(always)]
pub(super) fn by_hash<F: Family, T: Tables<F>>(
    tables: &T,
    service: u32,
    hash: u32,
    backend: &mut Backend<F::Addr>,
) -> Result<u32, Failure> {
    let table = tables.service(service).ok_or(Failure::BadTable)?.table;
    let index = in_table::<F, _>(tables, table, hash, backend)?;
    if is_free(backend) {
        // The agent gave the service a new table and freed a backend of the old one between our two reads. It writes
        // the table first, so a second look finds the new one.
        let table = tables.service(service).ok_or(Failure::BadTable)?.table;
        let index = in_table::<F, _>(tables, table, hash, backend)?;
        return if is_free(backend) {
            Err(Failure::BadTable)
        } else {
            Ok(index)
        };
    }
    Ok(index)
}

/// Puts the endpoint in the slot of `table` into `backend`; it may have been freed meanwhile.
#[inline(always)]
fn in_table<F: Family, T: Tables<F>>(
    tables: &T,
    table: TableRef,
    hash: u32,
    backend: &mut Backend<F::Addr>,
) -> Result<u32, Failure> {
    let slot = table.slot(hash).ok_or(Failure::NoEndpoints)?;
    let index = tables.slot(slot).ok_or(Failure::BadTable)?;
    if tables.backend(index, backend) {
        Ok(index)
    } else {
        Err(Failure::BadTable)
    }
}

#[inline(always)]
fn is_free<A: Address>(backend: &Backend<A>) -> bool {
    !backend.is_serving(backend.generation)
}
