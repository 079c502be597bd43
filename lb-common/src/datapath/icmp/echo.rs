//! Echo requests.

use super::{
    super::{Packet, RewriteError, Tables, Verdict, Way, Work, family},
    Messages,
};
use crate::{
    abi::{FrontendKey, FrontendKind},
    packet::{Delta, transport},
    verdict::Reason,
};

/// Answers an echo request if it is sent to an address that belongs to services and that the node does not have itself.
/// Answers are as large as requests and keep nothing, so they are not limited in number.
#[inline(never)]
pub(super) fn answer<F, P, T>(packet: &mut P, tables: &T, work: &Work<F::Addr>) -> Verdict
where
    F: Messages,
    P: Packet,
    T: Tables<F>,
{
    let tuple = &work.headers.key.tuple;
    let ours = match tables.frontend(&FrontendKey::of_address(tuple.dst)) {
        Some(address) => family::takes_packets(address.kind) && address.kind != FrontendKind::NodePort as u8,
        None => false,
    };
    if !ours || !F::may_be_answered(tuple.src) {
        return Verdict::plain(Reason::OtherProtocol);
    }
    let way = match turn_around::<F, _>(packet, work) {
        Ok(()) => Way::Back,
        Err(RewriteError) => Way::Stack,
    };
    Verdict {
        reason: Reason::EchoAnswered,
        way,
    }
}

#[inline(always)]
fn turn_around<F: Messages, P: Packet>(packet: &mut P, work: &Work<F::Addr>) -> Result<(), RewriteError> {
    let at = work.headers.transport_offset as usize;
    let [word] = packet.read_at::<1>(at).ok_or(RewriteError)?;
    let (old, checksum) = transport::ports(word);
    let [_, code] = old.to_ne_bytes();
    let new = u16::from_ne_bytes([F::ECHO_REPLY, code]);
    let checksum = Delta::word(old, new).apply(checksum);
    packet.write_at(at, &[transport::ports_word(new, checksum)])?;
    F::turn_around(packet, &work.headers)?;
    let [a, b, c] = packet.read_at::<3>(0).ok_or(RewriteError)?.map(u32::to_ne_bytes);
    let swapped = [
        u32::from_ne_bytes([b[2], b[3], c[0], c[1]]),
        u32::from_ne_bytes([c[2], c[3], a[0], a[1]]),
        u32::from_ne_bytes([a[2], a[3], b[0], b[1]]),
    ];
    packet.write_at(0, &swapped)
}
