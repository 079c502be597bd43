//! The per-packet algorithm: packet in, tables in, time in, verdict out.
//!
//! This is the only place where packets are decided on. The kernel programs bind [`Packet`], [`Tables`] and [`Env`]
//! to packet pointers, BPF maps and helpers; [`crate::host`] binds them to ordinary memory for tests and simulation.
//!
//! ```text
//!   ingress, from a workload or an uplink
//!     parse ─► recorded flow? ──► forward: the recorded translation ─► rewrite ─► on
//!                 │no             reply: as it is (it is restored where it leaves)
//!              frontend? ──no──► on, as it is
//!                 │yes
//!              Maglev over the endpoints ─► record both directions ─► rewrite ─► on
//!   egress, to a workload or an uplink
//!     parse ─► reply of a recorded flow? ──yes──► put the service's address back ─► on
//! ```
//!
//! Every path ends in a [`Reason`], which says what is done with the packet. A packet is either rewritten whole, or
//! left untouched, or dropped.

mod choose;
mod family;
mod flows;
mod rewrite;
pub mod socket;
mod traits;

pub use self::{
    family::{Family, Headers, V4, V6},
    traits::{ChecksumUpdate, Env, InsertError, Packet, RewriteError, Tables},
};
use crate::{
    abi::{FlowKey, FlowKind},
    flow::{Seen, tcp},
    packet::ethernet::{self, ether_type},
    verdict::Reason,
};

/// Which side of the node a device faces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The node's end of a pod's interface.
    Workload,
    /// One of the node's own devices.
    Uplink,
}

/// Which way a packet crosses a device, seen from the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Into the node, from a device of that role.
    Ingress(Role),
    /// Out of the node.
    Egress,
}

/// Decides on a frame, rewrites it if it must be, and says what was done.
#[inline(always)]
pub fn process<P, T, E>(packet: &mut P, tables: &T, env: &E, hook: Hook) -> Reason
where
    P: Packet,
    T: Tables<V4> + Tables<V6>,
    E: Env,
{
    if matches!(hook, Hook::Ingress(Role::Uplink)) && packet.is_for_other_host() {
        return Reason::OtherHost;
    }
    if packet.has_vlan_tag() {
        return Reason::Vlan;
    }
    let Some([word]) = packet.read::<{ ethernet::TYPE_OFFSET }, 1>() else {
        return Reason::Truncated;
    };
    match ethernet::ether_type_of(word) {
        ether_type::IPV4 => process_family::<V4, _, _, _>(packet, tables, env, hook),
        ether_type::IPV6 => process_family::<V6, _, _, _>(packet, tables, env, hook),
        ether_type::VLAN | ether_type::QINQ => Reason::Vlan,
        _ => Reason::NotIp,
    }
}

/// The algorithm for one IP version.
///
/// The three steps are not inlined. Each has a stack frame of its own, of which the kernel allows 512 bytes in a chain
/// of calls; so the steps follow each other instead of calling each other, and a new flow's headers are read twice.
#[inline(always)]
fn process_family<F, P, T, E>(packet: &mut P, tables: &T, env: &E, hook: Hook) -> Reason
where
    F: Family,
    P: Packet,
    T: Tables<F>,
    E: Env,
{
    let Hook::Ingress(role) = hook else {
        return egress::<F, _, _, _>(packet, tables, env);
    };
    match ingress_recorded::<F, _, _, _>(packet, tables, env) {
        Some(reason) => reason,
        None => ingress_new::<F, _, _, _>(packet, tables, env, role),
    }
}

/// Towards the service, the flow being recorded: translate as before. None if the flow has to be opened (again).
#[inline(never)]
fn ingress_recorded<F, P, T, E>(packet: &mut P, tables: &T, env: &E) -> Option<Reason>
where
    F: Family,
    P: Packet,
    T: Tables<F>,
    E: Env,
{
    let headers = match F::parse(packet) {
        Ok(headers) => headers,
        Err(reason) => return Some(reason),
    };
    let key = FlowKey::new(headers.tuple, headers.proto);
    let flow = tables.flow(&key)?;
    if !flow.is(FlowKind::Forward) {
        return Some(Reason::ReplyInbound);
    }
    if !flows::keeps_endpoint(tables, &key, &flow, opens(&headers), env) {
        return None;
    }
    flows::refresh(
        tables,
        &key,
        &flow,
        Seen::of(headers.proto, headers.tcp_flags),
        env.now(),
    );
    Some(rewrite::apply::<F, _>(
        packet,
        &headers,
        &flow.tuple,
        Reason::Established,
    ))
}

/// Towards the service, the flow being unknown or at its end: choose an endpoint, record the flow, translate.
#[inline(never)]
fn ingress_new<F, P, T, E>(packet: &mut P, tables: &T, env: &E, role: Role) -> Reason
where
    F: Family,
    P: Packet,
    T: Tables<F>,
    E: Env,
{
    let headers = match F::parse(packet) {
        Ok(headers) => headers,
        Err(reason) => return reason,
    };
    let key = FlowKey::new(headers.tuple, headers.proto);
    let (index, backend) = match choose::endpoint(tables, &key, role) {
        Ok(choice) => choice,
        Err(reason) => return reason,
    };
    let seen = Seen::of(headers.proto, headers.tcp_flags);
    match flows::record(tables, &key, index, &backend, seen, env.now()) {
        Ok((tuple, reason)) => rewrite::apply::<F, _>(packet, &headers, &tuple, reason),
        Err(reason) => reason,
    }
}

/// Towards the client: put the service's address back.
#[inline(never)]
fn egress<F, P, T, E>(packet: &mut P, tables: &T, env: &E) -> Reason
where
    F: Family,
    P: Packet,
    T: Tables<F>,
    E: Env,
{
    let headers = match F::parse(packet) {
        Ok(headers) => headers,
        Err(reason) => return reason,
    };
    let key = FlowKey::new(headers.tuple, headers.proto);
    match tables.flow(&key) {
        Some(flow) if flow.is(FlowKind::Reply) => {
            flows::refresh(
                tables,
                &key,
                &flow,
                Seen::of(headers.proto, headers.tcp_flags),
                env.now(),
            );
            rewrite::apply::<F, _>(packet, &headers, &flow.tuple, Reason::ReplyRestored)
        }
        _ => Reason::NotReply,
    }
}

/// Whether the packet may start a connection: a SYN without ACK, or any UDP datagram.
#[inline(always)]
const fn opens<A>(headers: &Headers<A>) -> bool {
    headers.proto == crate::abi::proto::UDP || headers.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
}
