//! Writing a translation into a packet.

use super::{ChecksumUpdate, Family, Packet, Part, RewriteError, Work, sctp};
use crate::{
    abi::proto,
    packet::{Delta, Tcp, Udp},
    verdict::Reason,
};

/// Gives the packet the addresses and ports of the flow entry in `work`, updates its checksums, and counts down its
/// time to live if it is `redirected`; `done` is the reason if it worked. Not inlined: the words that it writes are put
/// together on the stack.
#[inline(never)]
pub(super) fn apply<F: Family, P: Packet>(
    packet: &mut P,
    work: &Work<F::Addr>,
    redirected: bool,
    done: Reason,
) -> Reason {
    let headers = &work.headers;
    let (old, new) = (&headers.key.tuple, &work.flow.tuple);
    let ports_change = old.ports != new.ports;
    let sctp = headers.key.proto() == proto::SCTP;
    // First of all: it may find that it cannot be done.
    if sctp && ports_change && sctp::write_ports(packet, work).is_err() {
        return Reason::RewriteFailed;
    }
    let has_checksum = !sctp && headers.part != Part::Later;
    let written = if has_checksum {
        F::write_tuple(packet, headers, new, redirected)
    } else {
        F::write_header(packet, headers, new, redirected)
    };
    if written.is_err() {
        return Reason::RewriteFailed;
    }
    if !has_checksum {
        return done;
    }
    let udp = headers.key.proto() == proto::UDP;
    let transport_offset = headers.transport_offset as usize;
    let checksum = transport_offset
        + if udp {
            Udp::CHECKSUM_OFFSET
        } else {
            Tcp::CHECKSUM_OFFSET
        };
    let update = ChecksumUpdate {
        offset: checksum,
        addresses: Delta::addresses(old, new),
        ports: if ports_change {
            Some(Delta::ports(old, new))
        } else {
            None
        },
        udp,
        ipv6: F::IS_V6,
    };
    match packet.update_checksum(&update) {
        Ok(()) => done,
        Err(RewriteError) => Reason::RewriteFailed,
    }
}
