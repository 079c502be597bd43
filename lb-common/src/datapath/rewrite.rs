//! Writing a translation into a packet.

use super::{ChecksumUpdate, Family, Headers, Packet, RewriteError};
use crate::{
    abi::{Tuple, proto},
    packet::{Delta, Tcp, Udp, transport},
    verdict::Reason,
};

/// Gives the packet the addresses and ports of `new` and updates its checksums; `done` is the reason if it worked.
#[inline(always)]
pub(super) fn apply<F: Family, P: Packet>(
    packet: &mut P,
    headers: &Headers<F::Addr>,
    new: &Tuple<F::Addr>,
    done: Reason,
) -> Reason {
    let old = &headers.tuple;
    let udp = headers.proto == proto::UDP;
    let checksum = headers.transport_offset
        + if udp {
            Udp::CHECKSUM_OFFSET
        } else {
            Tcp::CHECKSUM_OFFSET
        };
    let ports_change = old.src_port != new.src_port || old.dst_port != new.dst_port;

    if F::write_addresses(packet, headers, new).is_err() {
        return Reason::RewriteFailed;
    }
    if ports_change {
        let ports = transport::ports_word(new.src_port, new.dst_port);
        if packet.write_at(headers.transport_offset, &[ports]).is_err() {
            return Reason::RewriteFailed;
        }
    }
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
