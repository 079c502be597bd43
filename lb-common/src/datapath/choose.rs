//! Which endpoint a new flow goes to.

use super::{Env, Family, Role, Tables, Work, address, family};
use crate::{
    abi::{
        Address, Affinity, AffinityKey, Backend, FlowKey, Frontend, FrontendFlags, FrontendKey, FrontendKind,
        Policies, Scope,
    },
    maglev,
    verdict::Reason,
};

/// Puts the endpoint for the packet's flow into `work`, with its index.
#[inline(always)]
pub(super) fn endpoint<F: Family, T: Tables<F>, E: Env<F>>(
    tables: &T,
    env: &E,
    work: &mut Work<F::Addr>,
    role: Role,
) -> Result<(), Reason> {
    let key = &work.headers.key;
    let Some(frontend) = frontend::<F, _>(tables, key) else {
        return Err(address::without_frontend::<F, _>(tables, work, role));
    };
    if frontend.flags & FrontendFlags::RANGES != 0 && !tables.is_allowed(frontend.service, key.tuple.src) {
        return Err(Reason::SourceNotAllowed);
    }
    let choice = Choice::of_packet(frontend, key, role, env.now());
    match choose::<F, _>(tables, &choice, &mut work.backend) {
        Ok(index) => {
            work.index = index;
            work.meter = frontend.meter as u32;
            Ok(())
        }
        Err(Failure::NoEndpoints) => Err(Reason::NoEndpoints),
        Err(Failure::NoLocalEndpoints) => Err(Reason::NoLocalEndpoints),
        Err(Failure::BadTable) => Err(Reason::BadTable),
    }
}

/// Whether the packet was sent to a service.
#[inline(always)]
pub(super) fn is_to_service<F: Family, T: Tables<F>>(tables: &T, work: &Work<F::Addr>) -> bool {
    frontend::<F, _>(tables, &work.headers.key).is_some()
}

/// The frontend that packets with that key are sent to, if there is one for packets.
#[inline(always)]
pub(super) fn frontend<F: Family, T: Tables<F>>(tables: &T, key: &FlowKey<F::Addr>) -> Option<Frontend> {
    tables
        .frontend(&FrontendKey::new(
            key.tuple.dst,
            key.tuple.dst_port(),
            key.proto(),
        ))
        .filter(|frontend| family::takes_packets(frontend.kind))
}

/// Whether the answers of an endpoint to a client come back through this node, if it sees the client's address.
#[inline(always)]
pub(super) fn comes_back<A: Address>(backend: &Backend<A>, client: A, role: Role) -> bool {
    match role {
        // Pods' packets come and go through the node's end of their interface; but a pod answers itself at once.
        Role::Workload => backend.addr != client,
        Role::Uplink => backend.is_local(),
    }
}

/// Why a service has no endpoint for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    NoEndpoints,
    NoLocalEndpoints,
    BadTable,
}

/// What an endpoint is chosen by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<A> {
    pub(super) service: u32,
    /// A [`FrontendKind`] as its number.
    pub(super) kind: u8,
    /// Whether the client may be none of the cluster.
    pub(super) from_outside: bool,
    /// Of the flow; counts without session affinity.
    pub(super) hash: u32,
    /// Who asks, for session affinity.
    pub(super) client: A,
    /// The time, in ns.
    pub(super) now: u64,
}

impl<A: Address> Choice<A> {
    /// What the endpoint of a packet to that frontend is chosen by, at the time `now` (ns).
    #[inline(always)]
    pub(super) fn of_packet(frontend: Frontend, key: &FlowKey<A>, role: Role, now: u64) -> Self {
        let tuple = &key.tuple;
        Self {
            service: frontend.service,
            kind: frontend.kind,
            from_outside: matches!(role, Role::Uplink),
            hash: maglev::flow_hash(tuple.src, tuple.src_port(), tuple.dst_port(), key.proto()),
            client: tuple.src,
            now,
        }
    }

    /// The endpoints that count: those of the policy for internal traffic for a cluster IP, that for external traffic
    /// for any other address. Clients of this node get the whole cluster at external addresses, whatever the policy
    /// (KEP-2086 and `pkg/proxy/service.go` of Kubernetes).
    #[inline(always)]
    const fn scope(&self, policies: Policies) -> Scope {
        let local = if self.kind == FrontendKind::ClusterIp as u8 {
            policies.internal_local
        } else {
            policies.external_local && self.from_outside
        };
        if local { Scope::Local } else { Scope::Cluster }
    }

    #[inline(always)]
    fn affinity_key(&self) -> AffinityKey<A> {
        AffinityKey {
            client: self.client,
            service: self.service,
        }
    }
}

/// Puts the endpoint for `choice` into `backend`, and returns its index. A client with session affinity is remembered.
#[inline(always)]
pub(super) fn choose<F: Family, T: Tables<F>>(
    tables: &T,
    choice: &Choice<F::Addr>,
    backend: &mut Backend<F::Addr>,
) -> Result<u32, Failure> {
    let policies = policies::<F, _>(tables, choice)?;
    if policies.affinity == 0 {
        return by_hash::<F, _>(tables, choice, choice.hash, backend);
    }
    let mut affinity = Affinity::default();
    let index = by_affinity::<F, _>(tables, choice, policies, &mut affinity, backend)?;
    affinity.backend = index;
    affinity.generation = backend.generation;
    affinity.last_used = choice.now;
    tables.remember_affinity(&choice.affinity_key(), &affinity);
    Ok(index)
}

/// The same without leaving a trace.
#[inline(always)]
pub(super) fn would_choose<F: Family, T: Tables<F>>(
    tables: &T,
    choice: &Choice<F::Addr>,
    backend: &mut Backend<F::Addr>,
) -> Result<u32, Failure> {
    let policies = policies::<F, _>(tables, choice)?;
    if policies.affinity == 0 {
        return by_hash::<F, _>(tables, choice, choice.hash, backend);
    }
    by_affinity::<F, _>(tables, choice, policies, &mut Affinity::default(), backend)
}

#[inline(always)]
fn policies<F: Family, T: Tables<F>>(tables: &T, choice: &Choice<F::Addr>) -> Result<Policies, Failure> {
    let service = tables.service(choice.service).ok_or(Failure::BadTable)?;
    Ok(service.table.policies())
}

/// The endpoint that the client had before, if it comes back in time and the endpoint still gets new flows; otherwise one by the
/// client's address. `affinity` is what was remembered, in the epoch that has come.
#[inline(always)]
fn by_affinity<F: Family, T: Tables<F>>(
    tables: &T,
    choice: &Choice<F::Addr>,
    policies: Policies,
    affinity: &mut Affinity,
    backend: &mut Backend<F::Addr>,
) -> Result<u32, Failure> {
    if tables.affinity(&choice.affinity_key(), affinity) {
        let away = choice.now.saturating_sub(affinity.last_used);
        if away > policies.affinity as u64 * NS_PER_S {
            affinity.epoch = affinity.epoch.wrapping_add(1);
        } else if tables.backend(affinity.backend, backend)
            && backend.takes_new(affinity.generation)
            && (matches!(choice.scope(policies), Scope::Cluster) || backend.is_local())
        {
            return Ok(affinity.backend);
        }
    }
    let hash = maglev::affinity_hash(choice.client, affinity.epoch);
    by_hash::<F, _>(tables, choice, hash, backend)
}

const NS_PER_S: u64 = 1_000_000_000;

/// Puts the endpoint that a service's tables give for `hash` into `backend`, and returns its index.
#[inline(always)]
fn by_hash<F: Family, T: Tables<F>>(
    tables: &T,
    choice: &Choice<F::Addr>,
    hash: u32,
    backend: &mut Backend<F::Addr>,
) -> Result<u32, Failure> {
    let index = in_tables::<F, _>(tables, choice, hash, backend)?;
    if !is_free(backend) {
        return Ok(index);
    }
    // The agent gave the service new tables and freed a backend of the old ones between our two reads. It writes the
    // tables first, so a second look finds the new ones.
    let index = in_tables::<F, _>(tables, choice, hash, backend)?;
    if is_free(backend) {
        Err(Failure::BadTable)
    } else {
        Ok(index)
    }
}

/// Puts the endpoint of the slot that is in force into `backend`; it may have been freed meanwhile.
#[inline(always)]
fn in_tables<F: Family, T: Tables<F>>(
    tables: &T,
    choice: &Choice<F::Addr>,
    hash: u32,
    backend: &mut Backend<F::Addr>,
) -> Result<u32, Failure> {
    let table = tables.service(choice.service).ok_or(Failure::BadTable)?.table;
    let Some(slot) = table.slot(hash, choice.scope(table.policies())) else {
        return Err(if table.size() == 0 {
            Failure::NoEndpoints
        } else {
            Failure::NoLocalEndpoints
        });
    };
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
