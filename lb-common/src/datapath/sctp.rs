//! Ports of SCTP, which its checksum covers.
//!
//! The checksum covers no address, so that a packet whose ports stay needs nothing. Where they change, it is updated by the
//! difference alone ([`crc32c`]). A checksum of 0 stays: a device is still to compute it (`CHECKSUM_PARTIAL`; the kernel
//! leaves the field 0 and tells the device by `csum_not_inet`), or both sides have agreed on none (RFC 9653). One packet in
//! four billion has 0 for its true checksum, and is then refused by its receiver.

use super::{Packet, Part, RewriteError, Work};
use crate::{abi::Address, packet::crc32c};

/// Words of the header: ports, verification tag, checksum.
const WORDS: usize = 3;

/// Gives the packet the ports of the flow entry in `work`. Nothing is written if it fails: a fragment covers its datagram's
/// checksum only in part, and how long the rest is nobody knows yet.
#[inline(never)]
pub(super) fn write_ports<A: Address, P: Packet>(packet: &mut P, work: &Work<A>) -> Result<(), RewriteError> {
    let headers = &work.headers;
    let (old, new) = (headers.key.tuple.ports, work.flow.tuple.ports);
    let offset = headers.transport_offset as usize;
    let [_, tag, checksum] = packet.read_at::<WORDS>(offset).ok_or(RewriteError)?;
    let checksum = if checksum == 0 {
        0
    } else if headers.part == Part::Whole {
        crc32c::update(checksum, old, new, headers.transport_len)
    } else {
        return Err(RewriteError);
    };
    packet.write_alone_at(offset, &[new, tag, checksum])
}
