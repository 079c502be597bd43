//! Between the plan's values and the maps'.

use aya::{Pod, maps::lpm_trie::Key};
use ipnet::IpNet;
use lb_common::abi::{
    Address, Backend, BackendFlags, Either, FrontendKey, FrontendKind, Range, port_from_wire, port_to_wire,
    to_ip,
};

use crate::plan::{BackendSlot, FrontendAddr, Protocol, SnapshotBackend, SnapshotFrontend};

/// The key of a frontend whose address is `addr`.
pub(super) fn frontend_key<A>(addr: A, frontend: &FrontendAddr) -> FrontendKey<A> {
    FrontendKey::new(addr, port_to_wire(frontend.port), frontend.protocol.number())
}

/// The key of the clients in `range`, whose first address is `client`.
pub(super) fn range_key<A: Pod>(service: u32, client: A, range: &IpNet) -> Key<Range<A>>
where
    Range<A>: Pod,
{
    Key::new(
        Range::<A>::BITS + u32::from(range.prefix_len()),
        Range { service, client },
    )
}

/// The clients that a key stands for, whose first address is `client`; none if the key is none of ours.
pub(super) fn decode_range(prefix_len: u32, client: Either) -> Option<IpNet> {
    let len = prefix_len.checked_sub(Range::<u32>::BITS)?;
    IpNet::new(to_ip(client), u8::try_from(len).ok()?).ok()
}

/// A backend in use, whose address is `addr`.
pub(super) fn backend<A>(addr: A, slot: &BackendSlot) -> Backend<A> {
    let local = if slot.local { BackendFlags::LOCAL } else { 0 };
    let kept = if slot.kept { BackendFlags::KEPT } else { 0 };
    Backend {
        addr,
        generation: slot.generation,
        port: port_to_wire(slot.port),
        flags: BackendFlags::IN_USE | local | kept,
        proto: slot.protocol.number(),
    }
}

/// A free slot, of which only the generation means something.
pub(super) fn free_backend<A: Address>(generation: u32) -> Backend<A> {
    Backend {
        addr: A::UNSPECIFIED,
        generation,
        port: 0,
        flags: 0,
        proto: 0,
    }
}

/// The frontend of a key; none if its protocol is none that services have.
pub(super) fn decode_frontend<A>(
    key: FrontendKey<A>,
    either: impl FnOnce(A) -> Either,
) -> Option<FrontendAddr> {
    Some(FrontendAddr {
        addr: to_ip(either(key.addr)),
        port: port_from_wire(key.port),
        protocol: Protocol::from_number(key.proto)?,
    })
}

/// What a frontend leads to.
pub(super) fn decode_frontend_value(value: lb_common::abi::Frontend) -> SnapshotFrontend {
    SnapshotFrontend {
        service: value.service,
        kind: FrontendKind::from_number(value.kind),
        flags: value.flags,
        meter: value.meter,
    }
}

/// A backend as read; none if its slot was never used.
pub(super) fn decode_backend<A: Address>(
    value: Backend<A>,
    either: impl FnOnce(A) -> Either,
) -> Option<SnapshotBackend> {
    if value.generation == 0 && value.flags == 0 {
        return None;
    }
    let protocol = Protocol::from_number(value.proto);
    Some(match protocol {
        Some(protocol) if value.flags & BackendFlags::IN_USE != 0 => SnapshotBackend::InUse(BackendSlot {
            addr: to_ip(either(value.addr)),
            port: port_from_wire(value.port),
            protocol,
            generation: value.generation,
            local: value.is_local(),
            kept: value.is_kept(),
        }),
        _ => SnapshotBackend::Free {
            generation: value.generation,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_read_as_it_was_written() {
        for (local, kept) in [(false, false), (true, false), (false, true), (true, true)] {
            let slot = BackendSlot {
                addr: [10, 1, 0, 1].into(),
                port: 8080,
                protocol: Protocol::Udp,
                generation: 7,
                local,
                kept,
            };
            let written = backend(u32::from_ne_bytes([10, 1, 0, 1]), &slot);
            assert_eq!(
                decode_backend(written, Either::V4),
                Some(SnapshotBackend::InUse(slot))
            );
            assert_eq!(
                (written.is_serving(7), written.takes_new(7), written.is_local()),
                (true, !kept, local)
            );
        }
    }
}
