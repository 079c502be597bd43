//! The per-packet algorithm: packet in, tables in, time in, verdict out.
//!
//! This is the only place where packets are decided on. The kernel programs bind [`Packet`], [`Tables`] and [`Env`]
//! to packet pointers, BPF maps and helpers; [`crate::host`] binds them to ordinary memory for tests and simulation.
//!
//! ```text
//!   ingress, from a workload or an uplink
//!     parse ─► later fragment? ──yes──► as the first one of its datagram (fragments.rs)
//!              recorded flow? ──► forward: the recorded translation ─► rewrite ─► on
//!                 │no             reply: as it is (it is restored where it leaves)
//!                 │               reply to an address of the node: restore ─► rewrite ─► out by the routing table
//!              frontend? ──no──► opens a connection to an endpoint? ──no──► on, as it is
//!                 │                  └yes─► record both directions ─► on, as it is unless its port is taken
//!                 │yes       (no endpoint, or no such port of a service's address: ICMP port unreachable ─► back)
//!              Maglev over the endpoints ─► whose address does the endpoint see?
//!                 │ the client's: record both directions ─► rewrite ─► on
//!                 │ the node's (from an uplink to another node, or from a pod to itself):
//!                 └ route ─► record both directions ─► rewrite ─► out by the routing table
//!   egress, to a workload or an uplink
//!     parse ─► reply of a recorded flow? ──yes──► put the service's address back ─► on
//! ```
//!
//! ICMP goes the same ways: an error is looked up by the packet that it quotes (module `icmp`).
//! Before the stack, in XDP on uplinks, the same is done for packets that leave by an uplink again (`early.rs`).
//!
//! Every path ends in a [`Reason`], which says what is done with the packet. A packet is either rewritten whole, or
//! left untouched, or dropped.

mod address;
mod answer;
mod choose;
mod direct;
mod early;
mod extensions;
mod family;
mod flows;
mod fragments;
mod icmp;
mod meter;
mod rewrite;
mod sctp;
mod snat;
pub mod socket;
mod traits;
mod work;

pub use self::{
    family::{Family, Headers, Part, V4, V6},
    meter::Counted,
    snat::{Ports, port_hash},
    traits::{ChecksumUpdate, Env, InsertError, Packet, RewriteError, RouteError, Tables},
    work::{Route, Verdict, Way, Work, Works},
};
use crate::{
    abi::{FlowFlags, FlowKind, proto},
    packet::{
        Tcp, Udp,
        ethernet::{self, ether_type},
        ip,
    },
    verdict::{Action, Reason},
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
    /// Into the node from an uplink, before the stack: what is not finished there meets
    /// `Ingress(Role::Uplink)`.
    Early,
}

/// Decides on a frame, rewrites it if it must be, and says what was done. `works` holds what it likes before and
/// afterwards; of a redirected frame the route.
#[inline(always)]
pub fn process<P, T, E>(packet: &mut P, tables: &T, env: &E, hook: Hook, works: &mut Works) -> Verdict
where
    P: Packet,
    T: Tables<V4> + Tables<V6>,
    E: Env<V4> + Env<V6>,
{
    let verdict = decide(packet, tables, env, hook, works);
    if matches!(hook, Hook::Early) && matches!(verdict.reason.action(), Action::Pass) {
        return Verdict::up(verdict.reason);
    }
    verdict
}

#[inline(always)]
fn decide<P, T, E>(packet: &mut P, tables: &T, env: &E, hook: Hook, works: &mut Works) -> Verdict
where
    P: Packet,
    T: Tables<V4> + Tables<V6>,
    E: Env<V4> + Env<V6>,
{
    if matches!(hook, Hook::Ingress(Role::Uplink) | Hook::Early) && packet.is_for_other_host() {
        return Verdict::plain(Reason::OtherHost);
    }
    if packet.has_vlan_tag() {
        return Verdict::plain(Reason::Vlan);
    }
    let Some([word]) = packet.read::<{ ethernet::TYPE_OFFSET }, 1>() else {
        return Verdict::plain(Reason::Truncated);
    };
    match ethernet::ether_type_of(word) {
        ether_type::IPV4 => process_family::<V4, _, _, _>(packet, tables, env, hook, V4::work(works)),
        ether_type::IPV6 => process_family::<V6, _, _, _>(packet, tables, env, hook, V6::work(works)),
        ether_type::VLAN | ether_type::QINQ => Verdict::plain(Reason::Vlan),
        _ => Verdict::plain(Reason::NotIp),
    }
}

/// The algorithm for one IP version. Its steps are functions of their own that follow each other: none needs much of
/// the kernel's small stack, and each is verified by itself.
#[inline(always)]
fn process_family<F, P, T, E>(
    packet: &mut P,
    tables: &T,
    env: &E,
    hook: Hook,
    work: &mut Work<F::Addr>,
) -> Verdict
where
    F: answer::Answers + icmp::Messages,
    P: Packet,
    T: Tables<F>,
    E: Env<F>,
{
    if matches!(hook, Hook::Early) {
        return early::process::<F, _, _, _>(packet, tables, env, work);
    }
    match parse::<F, _>(packet, work) {
        Ok(()) => {}
        Err(Reason::OtherProtocol) => return icmp::process::<F, _, _, _>(packet, tables, env, hook, work),
        Err(reason) => return Verdict::plain(reason),
    }
    let step = match hook {
        _ if work.headers.part == Part::Later => fragments::follow::<F, _, _>(tables, env, work, hook),
        // Handled above.
        Hook::Early => Step::Keep(Reason::NotService),
        Hook::Egress => leaving::<F, _, _>(tables, env, work),
        Hook::Ingress(role) => match recorded::<F, _, _>(tables, env, work) {
            Some(step) => step,
            None if !tables.may_be_known(work.headers.key.tuple.dst) => {
                Step::Keep(address::of_nobody::<F, _>(tables, work))
            }
            // One after the other: nested, they would need more stack than there is.
            None => {
                let mut opened = opening::<F, _, _>(tables, env, work, role);
                if opened == Err(Reason::NotService) {
                    opened = direct::opening(tables, work);
                }
                match opened {
                    Ok(()) => {
                        let recorded = flows::record(tables, env, work);
                        direct::settle(work, recorded)
                    }
                    Err(reason) => Step::Keep(reason),
                }
            }
        },
    };
    let reason = match step {
        Step::Keep(reason) => return kept::<F, _, _>(packet, env, work, reason),
        Step::Translate(reason) => reason,
    };
    // The reply of a redirected flow never gets to egress: it is addressed to the node itself.
    let redirect = work.flow.is_redirected();
    if redirect && let Err(reason) = way_out::<F, _, _>(packet, env, work) {
        return kept::<F, _, _>(packet, env, work, reason);
    }
    let reason = rewrite::apply::<F, _>(packet, work, redirect, reason);
    if matches!(reason.action(), Action::Forward) {
        meter::count::<F, _, _>(packet, tables, work, reason);
        if work.headers.part == Part::First {
            fragments::remember::<F, _, _>(tables, env, work, hook);
        }
    }
    Verdict::rewritten(reason, redirect)
}

/// The packet is not translated: it goes on or is dropped, and for some reasons its sender is told.
#[inline(always)]
fn kept<F, P, E>(packet: &mut P, env: &E, work: &Work<F::Addr>, reason: Reason) -> Verdict
where
    F: answer::Answers,
    P: Packet,
    E: Env<F>,
{
    match reason.action() {
        Action::Reject => answer::error::<F, _, _>(packet, env, work, reason),
        _ => Verdict::plain(reason),
    }
}

/// What a step has found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The packet stays as it is: it goes on, or is dropped.
    Keep(Reason),
    /// The packet gets the addresses of the flow entry in its [`Work`].
    Translate(Reason),
}

/// Reads the headers.
#[inline(always)]
fn parse<F: Family, P: Packet>(packet: &P, work: &mut Work<F::Addr>) -> Result<(), Reason> {
    F::parse(packet, &mut work.headers)
}

/// Into the node, the flow being recorded: as before. None if the flow has to be opened (again).
#[inline(never)]
fn recorded<F, T, E>(tables: &T, env: &E, work: &mut Work<F::Addr>) -> Option<Step>
where
    F: Family,
    T: Tables<F>,
    E: Env<F>,
{
    if !tables.flow(&work.headers.key, &mut work.flow) {
        return None;
    }
    let reason = if work.flow.is(FlowKind::Forward) {
        if work.flow.is_direct() {
            return direct::recorded(tables, env, work);
        }
        if !flows::keeps_endpoint(tables, env, work) {
            return None;
        }
        Reason::Established
    } else if work.flow.is_redirected() {
        Reason::ReplyRestored
    } else {
        return Some(Step::Keep(Reason::ReplyInbound));
    };
    flows::refresh(tables, env, work);
    Some(Step::Translate(reason))
}

/// Into the node, the flow being unknown or at its end: choose an endpoint, and the source that it is to see.
#[inline(never)]
fn opening<F, T, E>(tables: &T, env: &E, work: &mut Work<F::Addr>, role: Role) -> Result<(), Reason>
where
    F: Family,
    T: Tables<F>,
    E: Env<F>,
{
    choose::endpoint::<F, _, _>(tables, env, work, role)?;
    work.source = source::<F, _, _>(tables, env, work, role)?;
    work.flags = if work.source == work.headers.key.tuple.src {
        0
    } else {
        FlowFlags::REDIRECT as u32
    };
    Ok(())
}

/// The address that the endpoint is to see: the client's, unless its answer would not come back through this node.
#[inline(always)]
fn source<F, T, E>(tables: &T, env: &E, work: &mut Work<F::Addr>, role: Role) -> Result<F::Addr, Reason>
where
    F: Family,
    T: Tables<F>,
    E: Env<F>,
{
    let client = work.headers.key.tuple.src;
    if choose::comes_back(&work.backend, client, role) {
        return Ok(client);
    }
    find_route::<F, _>(env, client, work.backend.addr, ANY_LEN, work)?;
    node_address::<F, _>(tables, work)
}

/// The node's address on the device that the route in `work` leads out of.
#[inline(always)]
fn node_address<F: Family, T: Tables<F>>(tables: &T, work: &Work<F::Addr>) -> Result<F::Addr, Reason> {
    tables
        .source(work.route.ifindex)
        .or_else(|| tables.source(0))
        .ok_or(Reason::NoRoute)
}

/// Out of the node, to a pod or the network: answers get the service's address back.
#[inline(never)]
fn leaving<F, T, E>(tables: &T, env: &E, work: &mut Work<F::Addr>) -> Step
where
    F: Family,
    T: Tables<F>,
    E: Env<F>,
{
    if !tables.flow(&work.headers.key, &mut work.flow)
        || !work.flow.is(FlowKind::Reply)
        || work.flow.is_redirected()
    {
        return Step::Keep(Reason::NotReply);
    }
    flows::refresh(tables, env, work);
    if direct::is_untouched(work) {
        return Step::Keep(Reason::Direct);
    }
    Step::Translate(Reason::ReplyRestored)
}

/// Finds the way for a packet that the node sends out itself.
#[inline(never)]
fn way_out<F, P, E>(packet: &P, env: &E, work: &mut Work<F::Addr>) -> Result<(), Reason>
where
    F: Family,
    P: Packet,
    E: Env<F>,
{
    let to = work.flow.tuple.dst;
    leads_out::<F, _, _>(packet, env, work, to)
}

/// Finds the way to `to` for a packet that has hops left for it.
#[inline(always)]
fn leads_out<F, P, E>(packet: &P, env: &E, work: &mut Work<F::Addr>, to: F::Addr) -> Result<(), Reason>
where
    F: Family,
    P: Packet,
    E: Env<F>,
{
    if F::hops(&work.headers) <= 1 {
        return Err(Reason::TtlExpired);
    }
    let from = work.headers.key.tuple.src;
    find_route::<F, _>(env, from, to, wire_len(packet, &work.headers), work)
}

/// What stands for the length of any packet: no route is too narrow for it.
const ANY_LEN: u16 = 1;

/// How long the packet's IP header and payload are on the wire, in bytes; the segments', if it is cut into some.
#[inline(always)]
fn wire_len<A, P: Packet>(packet: &P, headers: &Headers<A>) -> u16 {
    let segment = packet.segment_size();
    if segment != 0 && headers.key.proto() == proto::SCTP {
        // Its segments were made for the path, and differ in length (GSO_BY_FRAGS).
        return ANY_LEN;
    }
    let len = if segment == 0 {
        packet.frame_len().saturating_sub(ip::OFFSET)
    } else {
        header_len(packet, headers) + segment as usize
    };
    if len > u16::MAX as usize {
        u16::MAX
    } else {
        len as u16
    }
}

/// How long the IP and transport headers of a TCP or UDP packet are, in bytes.
#[inline(always)]
fn header_len<A, P: Packet>(packet: &P, headers: &Headers<A>) -> usize {
    let transport = headers.transport_offset as usize;
    let transport_len = match headers.key.proto() {
        proto::TCP => match packet.read_at::<1>(transport + Tcp::LENGTH_OFFSET) {
            Some([word]) => Tcp::header_len_of(word),
            None => Tcp::LEN,
        },
        _ => Udp::LEN,
    };
    transport.saturating_sub(ip::OFFSET) + transport_len
}

#[inline(always)]
fn find_route<F, E>(
    env: &E,
    from: F::Addr,
    to: F::Addr,
    len: u16,
    work: &mut Work<F::Addr>,
) -> Result<(), Reason>
where
    F: Family,
    E: Env<F>,
{
    match env.route(from, to, len, &mut work.route) {
        Ok(()) => Ok(()),
        Err(RouteError::None) => Err(Reason::NoRoute),
        Err(RouteError::TooBig) => Err(Reason::TooBig),
    }
}
