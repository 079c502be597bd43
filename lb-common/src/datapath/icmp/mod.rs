//! ICMP: errors about translated packets, and echo requests to addresses of services.
//!
//! An error quotes the packet that it is about, as that looked where the error was made. It travels like a packet of the
//! flow's other direction, so the quoted addresses and ports, turned around, are the key of a flow entry: what that
//! entry says of a packet, turned around again, is what the sender of the quoted packet knows it by (RFC 5508, section 4).
//!
//! ```text
//!   about a packet of the client: quotes client' → endpoint   found as the reply endpoint → client'
//!       gets service ← client in the quote; restored where replies are: where it leaves, or where it comes in if the
//!       flow is redirected
//!   about a reply: quotes service → client                    found as the forward packet client → service
//!       gets endpoint → client' in the quote; translated where it comes in. Without an entry the endpoint is chosen
//!       as for a new flow, which gives the same one as long as the service's endpoints do
//! ```
//!
//! The sender of an error stays visible, unless it is the endpoint or the client itself, or is to be reached over this node
//! alone. No flow is kept alive by an error, and no error is ever told about an error.

mod echo;
mod messages;

pub(super) use self::messages::Messages;
use super::{Env, Family, Hook, Packet, RewriteError, Role, Step, Tables, Verdict, Work, choose};
use crate::{
    abi::{Address, FlowKind, Tuple, proto},
    packet::{
        Delta, Tcp, Udp,
        icmp::{self, Message},
        transport,
    },
    verdict::Reason,
};

/// Decides on a packet that is neither TCP, UDP nor SCTP.
#[inline(always)]
pub(super) fn process<F, P, T, E>(
    packet: &mut P,
    tables: &T,
    env: &E,
    hook: Hook,
    work: &mut Work<F::Addr>,
) -> Verdict
where
    F: Messages,
    P: Packet,
    T: Tables<F>,
    E: Env<F>,
{
    let step = match (parse::<F, _>(packet, work), hook) {
        (Message::Echo, Hook::Ingress(_)) => return echo::answer::<F, _, _>(packet, tables, work),
        (Message::Error, Hook::Egress) => leaving::<F, _>(tables, work),
        (Message::Error, Hook::Ingress(role)) => match entering::<F, _>(tables, work) {
            Some(step) => step,
            None => choose_again::<F, _, _>(tables, env, work, role),
        },
        _ => return Verdict::plain(Reason::OtherProtocol),
    };
    if let Step::Keep(reason) = step {
        return Verdict::plain(reason);
    }
    if work.flow.is_direct() && work.flow.tuple.ports == work.quoted.key.tuple.ports {
        return Verdict::plain(Reason::Direct);
    }
    let redirect = work.flow.is_redirected();
    // Nobody is told that an error ended here (RFC 1122, section 3.2.2; RFC 4443, section 2.4).
    if redirect && let Err(reason) = super::way_out::<F, _, _>(packet, env, work) {
        return Verdict::plain(reason);
    }
    let reason = rewrite::<F, _>(packet, work);
    Verdict::rewritten(reason, redirect)
}

/// Reads the headers of a message and, of an error, those that it quotes.
#[inline(never)]
fn parse<F: Messages, P: Packet>(packet: &P, work: &mut Work<F::Addr>) -> Message {
    let end = F::read_outer(packet, &mut work.headers);
    let at = work.headers.transport_offset as usize;
    if end == 0 {
        return Message::Other;
    }
    let Some([word]) = packet.read_at::<1>(at) else {
        return Message::Other;
    };
    let message = F::message(word.to_ne_bytes()[0]);
    if matches!(message, Message::Error) {
        work.end = end as u32;
        // Whom the error is sent to must have sent what it quotes.
        if !F::read_quoted(packet, at + icmp::LEN, end, &mut work.quoted)
            || work.quoted.key.tuple.dst != work.headers.key.tuple.dst
        {
            return Message::Other;
        }
    }
    message
}

/// Out of the node: an error about a packet that a client of the node, or from outside, sent to a service.
#[inline(never)]
fn leaving<F: Family, T: Tables<F>>(tables: &T, work: &mut Work<F::Addr>) -> Step {
    if tables.flow(&work.quoted.key, &mut work.flow)
        && work.flow.is(FlowKind::Reply)
        && !work.flow.is_redirected()
    {
        return Step::Translate(Reason::IcmpTranslated);
    }
    Step::Keep(Reason::NotReply)
}

/// Into the node: an error about a reply, or about a packet that went out over this node's address. None if no flow is
/// recorded.
#[inline(never)]
fn entering<F: Family, T: Tables<F>>(tables: &T, work: &mut Work<F::Addr>) -> Option<Step> {
    if !tables.flow(&work.quoted.key, &mut work.flow) {
        return None;
    }
    if work.flow.is(FlowKind::Forward) || work.flow.is_redirected() {
        return Some(Step::Translate(Reason::IcmpTranslated));
    }
    Some(Step::Keep(Reason::ReplyInbound))
}

/// Into the node, about a reply of a flow that is no longer recorded: the endpoint is the one that the flow would be given
/// now. Where it would be given a port as well, nobody knows which one it had.
#[inline(never)]
fn choose_again<F, T, E>(tables: &T, env: &E, work: &mut Work<F::Addr>, role: Role) -> Step
where
    F: Family,
    T: Tables<F>,
    E: Env<F>,
{
    let key = &work.quoted.key;
    let Some(frontend) = choose::frontend::<F, _>(tables, key) else {
        return Step::Keep(Reason::NotService);
    };
    let choice = choose::Choice::of_packet(frontend, key, role, env.now());
    match choose::would_choose::<F, _>(tables, &choice, &mut work.backend) {
        Ok(_) => chosen(work, role),
        Err(_) => Step::Keep(Reason::NotService),
    }
}

/// What the flow of the packet that is quoted would be translated to, with the endpoint in `work`.
#[inline(always)]
fn chosen<A: Address>(work: &mut Work<A>, role: Role) -> Step {
    let client = work.quoted.key.tuple.src;
    if !choose::comes_back(&work.backend, client, role) {
        return Step::Keep(Reason::NotService);
    }
    let flow = &mut work.flow;
    flow.tuple.src = client;
    flow.tuple.dst = work.backend.addr;
    flow.tuple.ports = transport::ports_word(work.quoted.key.tuple.src_port(), work.backend.port);
    flow.flags = FlowKind::Forward as u8;
    Step::Translate(Reason::IcmpTranslated)
}

/// Translates the error in `work`, and what it quotes.
#[inline(never)]
fn rewrite<F: Messages, P: Packet>(packet: &mut P, work: &Work<F::Addr>) -> Reason {
    match translate::<F, _>(packet, work) {
        Ok(()) => Reason::IcmpTranslated,
        Err(RewriteError) => Reason::RewriteFailed,
    }
}

/// All bytes that change are covered by a checksum that changes too, so that what hardware has summed up of the packet
/// stays right.
#[inline(always)]
fn translate<F: Messages, P: Packet>(packet: &mut P, work: &Work<F::Addr>) -> Result<(), RewriteError> {
    let at = work.headers.transport_offset as usize;
    let (old, new) = (&work.quoted.key.tuple, &work.flow.tuple);
    let (addresses, ports) = (Delta::addresses(old, new), Delta::ports(old, new));
    let mut change = quoted_checksum(packet, work, addresses.and(ports))?.and(ports);
    F::write_quoted(packet, at + icmp::LEN, &work.quoted, new)?;
    packet.write_at(
        work.quoted.transport_offset as usize,
        &[new.ports.rotate_left(16)],
    )?;

    let outer = &work.headers.key.tuple;
    let redirect = work.flow.is_redirected();
    let hidden = outer.src == old.src || redirect && work.flow.is(FlowKind::Forward);
    let new_outer = Tuple {
        src: if hidden { new.src } else { outer.src },
        dst: new.dst,
        ports: outer.ports,
    };
    if F::IS_V6 {
        // IPv4 headers have a checksum of their own, the quoted one too: their sum stays.
        change = change.and(addresses).and(Delta::addresses(outer, &new_outer));
    }
    let [word] = packet.read_at::<1>(at).ok_or(RewriteError)?;
    let (kind, checksum) = transport::ports(word);
    packet.write_at(at, &[transport::ports_word(kind, change.apply(checksum))])?;
    F::write_header(packet, &work.headers, &new_outer, redirect)
}

/// Updates the checksum of the quoted TCP or UDP header, if it is quoted; returns how it changed.
#[inline(always)]
fn quoted_checksum<A: Address, P: Packet>(
    packet: &mut P,
    work: &Work<A>,
    change: Delta,
) -> Result<Delta, RewriteError> {
    let header = work.quoted.transport_offset as usize;
    let udp = match work.quoted.key.proto() {
        proto::TCP => false,
        proto::UDP => true,
        // The checksum of SCTP (CRC32c) covers no addresses, and what of the packet is quoted does not suffice to bring it
        // up to date where the ports change (RFC 9260, section 6.8); a receiver cannot check it for the same reason.
        _ => return Ok(Delta::default()),
    };
    // The word that holds it: length and checksum, or checksum and urgent pointer.
    let at = header
        + if udp {
            Udp::CHECKSUM_OFFSET - 2
        } else {
            Tcp::CHECKSUM_OFFSET
        };
    if at + 4 > work.end as usize {
        return Ok(Delta::default());
    }
    let [word] = packet.read_at::<1>(at).ok_or(RewriteError)?;
    let (first, second) = transport::ports(word);
    let (old, new, word) = if udp {
        let new = change.apply_udp(second);
        (second, new, transport::ports_word(first, new))
    } else {
        let new = change.apply(first);
        (first, new, transport::ports_word(new, second))
    };
    packet.write_at(at, &[word])?;
    Ok(Delta::word(old, new))
}
