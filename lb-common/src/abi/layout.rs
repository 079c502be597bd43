//! Compile-time proof that the layouts are what both sides believe: sizes, offsets, no padding.

use core::mem::{offset_of, size_of};

use super::{
    Affinity, AffinityKey, Backend, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendKey, Meter,
    Prefix, Range, Service, ServiceNets, SocketKey, SocketPeer, TableRef, Traffic, Tuple, Uplink,
};

type V4 = u32;
type V6 = [u32; 4];

/// The size of a type is the sum of its fields, so there is no hidden padding, and that sum is the given number.
macro_rules! layout {
    ($type:ty, $size:literal, { $($field:ident: $fty:ty = $offset:literal),+ $(,)? }) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            assert!(0 $(+ size_of::<$fty>())+ == $size);
            $(assert!(offset_of!($type, $field) == $offset);)+
        };
    };
}

layout!(FrontendKey<V4>, 8, { addr: V4 = 0, port: u16 = 4, proto: u8 = 6, pad: u8 = 7 });
layout!(FrontendKey<V6>, 20, { addr: V6 = 0, port: u16 = 16, proto: u8 = 18, pad: u8 = 19 });
layout!(Frontend, 8, { service: u32 = 0, kind: u8 = 4, flags: u8 = 5, meter: u16 = 6 });
layout!(Range<V4>, 8, { service: u32 = 0, client: V4 = 4 });
layout!(Range<V6>, 20, { service: u32 = 0, client: V6 = 4 });
layout!(Service, 8, { table: TableRef = 0 });
layout!(Backend<V4>, 12, { addr: V4 = 0, generation: u32 = 4, port: u16 = 8, flags: u8 = 10, proto: u8 = 11 });
layout!(Backend<V6>, 24, { addr: V6 = 0, generation: u32 = 16, port: u16 = 20, flags: u8 = 22, proto: u8 = 23 });
layout!(AffinityKey<V4>, 8, { client: V4 = 0, service: u32 = 4 });
layout!(AffinityKey<V6>, 20, { client: V6 = 0, service: u32 = 16 });
layout!(Affinity, 24, { backend: u32 = 0, generation: u32 = 4, epoch: u32 = 8, pad: u32 = 12, last_used: u64 = 16 });
layout!(Tuple<V4>, 12, { src: V4 = 0, dst: V4 = 4, ports: u32 = 8 });
layout!(Tuple<V6>, 36, { src: V6 = 0, dst: V6 = 16, ports: u32 = 32 });
layout!(FlowKey<V4>, 16, { tuple: Tuple<V4> = 0, protocol: u32 = 12 });
layout!(FlowKey<V6>, 40, { tuple: Tuple<V6> = 0, protocol: u32 = 36 });
layout!(Flow<V4>, 32, {
    tuple: Tuple<V4> = 0, meter: u16 = 12, flags: u8 = 14, seen: u8 = 15,
    backend: u32 = 16, generation: u32 = 20, last_seen: u64 = 24,
});
layout!(Flow<V6>, 56, {
    tuple: Tuple<V6> = 0, meter: u16 = 36, flags: u8 = 38, seen: u8 = 39,
    backend: u32 = 40, generation: u32 = 44, last_seen: u64 = 48,
});
layout!(FragmentKey<V4>, 16, { src: V4 = 0, dst: V4 = 4, id: u32 = 8, scope: u32 = 12 });
layout!(FragmentKey<V6>, 40, { src: V6 = 0, dst: V6 = 16, id: u32 = 32, scope: u32 = 36 });
layout!(Fragment<V4>, 24, {
    src: V4 = 0, dst: V4 = 4, meter: u16 = 8, flags: u8 = 10, pad: [u8; 5] = 11, seen_at: u64 = 16,
});
layout!(Fragment<V6>, 48, {
    src: V6 = 0, dst: V6 = 16, meter: u16 = 32, flags: u8 = 34, pad: [u8; 5] = 35, seen_at: u64 = 40,
});
layout!(SocketKey<V4>, 16, { cookie: [u32; 2] = 0, addr: V4 = 8, port: u16 = 12, pad: u16 = 14 });
layout!(SocketKey<V6>, 28, { cookie: [u32; 2] = 0, addr: V6 = 8, port: u16 = 24, pad: u16 = 26 });
layout!(SocketPeer<V4>, 16, {
    addr: V4 = 0, port: u16 = 4, pad: u16 = 6, backend: u32 = 8, generation: u32 = 12,
});
layout!(SocketPeer<V6>, 28, {
    addr: V6 = 0, port: u16 = 16, pad: u16 = 18, backend: u32 = 20, generation: u32 = 24,
});
layout!(Prefix<V4>, 8, { net: V4 = 0, mask: V4 = 4 });
layout!(Prefix<V6>, 32, { net: V6 = 0, mask: V6 = 16 });
layout!(ServiceNets<V4>, 32, { nets: [Prefix<V4>; 4] = 0 });
layout!(ServiceNets<V6>, 128, { nets: [Prefix<V6>; 4] = 0 });
layout!(Traffic, 16, { packets: u64 = 0, bytes: u64 = 8 });
layout!(Meter, 48, { connections: u64 = 0, sockets: u64 = 8, requests: Traffic = 16, replies: Traffic = 32 });
layout!(Uplink, 8, { hardware: [u16; 3] = 0, xdp: u8 = 6, why: u8 = 7 });

/// `aya::Pod` for what the agent reads from and writes to maps.
#[cfg(feature = "user")]
mod pod {
    use super::*;

    macro_rules! pod {
        ($($type:ty),+ $(,)?) => {
            $(
                #[expect(unsafe_code, reason = "aya asks for this promise by an unsafe trait")]
                // SAFETY: repr(C) or repr(transparent) of integers, without padding (asserted above), so any bytes
                // are a value and all bytes of a value are initialised.
                unsafe impl aya::Pod for $type {}
            )+
        };
    }

    pod!(
        FrontendKey<V4>,
        FrontendKey<V6>,
        Frontend,
        Range<V4>,
        Range<V6>,
        Service,
        AffinityKey<V4>,
        AffinityKey<V6>,
        Affinity,
        Backend<V4>,
        Backend<V6>,
        FlowKey<V4>,
        FlowKey<V6>,
        Flow<V4>,
        Flow<V6>,
        FragmentKey<V4>,
        FragmentKey<V6>,
        Fragment<V4>,
        Fragment<V6>,
        SocketKey<V4>,
        SocketKey<V6>,
        SocketPeer<V4>,
        SocketPeer<V6>,
        ServiceNets<V4>,
        ServiceNets<V6>,
        Uplink,
        Meter,
        Traffic,
    );
}
