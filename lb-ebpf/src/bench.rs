//! Programs of `cargo xtask bench`, which only its own build of this crate holds (feature `bench`).
//!
//! A repeated test run is given the frame as the run before left it. So the programs here first restore the frame's
//! headers from a [`Plan`], and then do what the real ones do (`bench_workload`, `bench_uplink`, `bench_egress`), or the
//! least that any load balancer must do (`bench_floor`), or nothing (`bench_restore`). `bench_generate` and `bench_sink`
//! are the two ends of a wire with the datapath between them.

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
    helpers::generated::{bpf_redirect, bpf_skb_store_bytes},
    macros::{classifier, map, xdp},
    maps::{Array, PerCpuArray},
    programs::{TcContext, XdpContext},
};
use lb_common::{
    bench::{GENERATED_WORDS, Plan},
    datapath::{Family, Hook, Role, V4, V6},
    packet::ethernet::{self, ether_type},
};

use crate::{NEXT, maps, packet, routes, skb::Skb};

/// What the programs do; set by the benchmark.
#[map]
static BENCH_PLAN: Array<Plan> = Array::with_max_entries(1, 0);

/// Frames made by this CPU, frames that arrived on it.
#[map]
static BENCH_COUNTS: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// Gives the frame the plan's headers again, with another client each time if the plan says so.
#[inline(always)]
fn restore(ctx: &TcContext) -> Option<&'static Plan> {
    let plan = BENCH_PLAN.get(0)?;
    let skb = ctx.skb.skb;
    let len = plan.len & 0x7f;
    if len == 0 || len > size_of_val(&plan.words) as u32 {
        return None;
    }
    // SAFETY: the helper reads `len` bytes of the plan, which holds as many.
    let failed = unsafe { bpf_skb_store_bytes(skb.cast(), 0, plan.words.as_ptr().cast(), len, 0) };
    if failed != 0 {
        return None;
    }
    if plan.flows != 0 {
        let number = next_number()?;
        let [_, _, c, d] = plan.ports.to_ne_bytes();
        let [a, b] = client_port(number, plan.flows).to_be_bytes();
        store(ctx, plan.ports_offset, u32::from_ne_bytes([a, b, c, d]))?;
        let [a, b, c, d] = plan.client.to_ne_bytes();
        // Not the last byte: an endpoint is no client of its own.
        let client = [a, b, c ^ (number >> 15) as u8, d];
        store(ctx, plan.client_offset, u32::from_ne_bytes(client))?;
    }
    Some(plan)
}

/// Counts up, on this CPU.
#[inline(always)]
fn next_number() -> Option<u32> {
    let counts = BENCH_COUNTS.get_ptr_mut(0)?;
    // SAFETY: the pointer is to this CPU's element, which only the program that runs on it uses.
    let made = unsafe { &mut (*counts)[0] };
    *made += 1;
    Some(*made as u32)
}

/// The source port of one of `flows` clients.
#[inline(always)]
fn client_port(number: u32, flows: u32) -> u16 {
    0x8000 | (number & flows.wrapping_sub(1) & 0x7fff) as u16
}

#[inline(always)]
fn store(ctx: &TcContext, offset: u32, word: u32) -> Option<()> {
    let from: *const u32 = &raw const word;
    // SAFETY: the helper reads the 4 bytes of `word`.
    let failed = unsafe { bpf_skb_store_bytes(ctx.skb.skb.cast(), offset, from.cast(), 4, 0) };
    (failed == 0).then_some(())
}

/// Restores the headers and does nothing else.
#[classifier]
pub fn bench_restore(ctx: TcContext) -> i32 {
    if restore(&ctx).is_some() { NEXT } else { 0 }
}

/// Restores the headers, parses them, and sends the frame on as the real programs do.
#[classifier]
pub fn bench_floor(ctx: TcContext) -> i32 {
    let (Some(plan), Some(works)) = (restore(&ctx), maps::works()) else {
        return 0;
    };
    let packet = Skb::new(&ctx);
    let Some([word]) = lb_common::datapath::Packet::read::<{ ethernet::TYPE_OFFSET }, 1>(&packet) else {
        return 0;
    };
    let parsed = match ethernet::ether_type_of(word) {
        ether_type::IPV4 => V4::parse(&packet, &mut V4::work(works).headers).is_ok(),
        ether_type::IPV6 => V6::parse(&packet, &mut V6::work(works).headers).is_ok(),
        _ => false,
    };
    if !parsed {
        return 0;
    }
    if plan.redirect == 0 {
        return NEXT;
    }
    if packet.is_ipv6() {
        works.v6.route.ifindex = plan.redirect;
        routes::send6(&works.v6.route)
    } else {
        works.v4.route.ifindex = plan.redirect;
        routes::send4(&works.v4.route)
    }
}

/// Declares programs that restore the headers and run the datapath.
macro_rules! harness {
    ($($name:ident $hook:expr;)+) => {
        $(
            #[doc = "Restores the headers and runs the datapath."]
            #[classifier]
            pub fn $name(ctx: TcContext) -> i32 {
                if restore(&ctx).is_some() { packet(&ctx, $hook) } else { 0 }
            }
        )+
    };
}

harness! {
    bench_workload Hook::Ingress(Role::Workload);
    bench_uplink Hook::Ingress(Role::Uplink);
    bench_egress Hook::Egress;
}

/// Writes a whole frame over the one at hand and sends it to the plan's device. For live frames: their memory comes back
/// with whatever the datapath has made of it.
#[xdp]
pub fn bench_generate(ctx: XdpContext) -> u32 {
    let Some(plan) = BENCH_PLAN.get(0) else {
        return XDP_ABORTED;
    };
    let Some(number) = next_number() else {
        return XDP_ABORTED;
    };
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + 4 * GENERATED_WORDS > end {
        return XDP_ABORTED;
    }
    let frame = data as *mut u32;
    let mut nth = 0;
    while nth < GENERATED_WORDS {
        // SAFETY: within the frame, as was just checked, and within the plan, which is longer.
        unsafe { frame.add(nth).write(*plan.words.as_ptr().add(nth)) };
        nth += 1;
    }
    // The source port of IPv4 without options lies 34 bytes into the frame.
    let port = client_port(number, plan.flows).to_be();
    // SAFETY: within the frame.
    unsafe { ((data + 34) as *mut u16).write(port) };
    // SAFETY: takes numbers only.
    unsafe { bpf_redirect(plan.redirect, 0) as u32 }
}

/// Turns a frame around at once, addressed to the port that the sink counts: what the wire and both ends cost, with the
/// least of all nodes between them.
#[xdp]
pub fn bench_turn(ctx: XdpContext) -> u32 {
    let (data, end) = (ctx.data(), ctx.data_end());
    let Some(plan) = BENCH_PLAN.get(0) else {
        return XDP_PASS;
    };
    if data + 42 > end {
        return XDP_PASS;
    }
    // SAFETY: the first 42 bytes were just checked; the destination port of UDP over IPv4 without options lies at 36.
    unsafe { ((data + 36) as *mut u16).write(plan.sunk_port as u16) };
    XDP_TX
}

/// Counts and drops the UDP datagrams over IPv4 to the plan's port; all else goes on.
#[xdp]
pub fn bench_sink(ctx: XdpContext) -> u32 {
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + 42 > end {
        return XDP_PASS;
    }
    let Some(plan) = BENCH_PLAN.get(0) else {
        return XDP_PASS;
    };
    // SAFETY: the first 42 bytes were just checked.
    let (kind, protocol, port) = unsafe {
        (
            ((data + 12) as *const u16).read(),
            ((data + 23) as *const u8).read(),
            ((data + 36) as *const u16).read(),
        )
    };
    if kind != 0x0800u16.to_be() || protocol != 17 || u32::from(port) != plan.sunk_port {
        return XDP_PASS;
    }
    if let Some(counts) = BENCH_COUNTS.get_ptr_mut(0) {
        // SAFETY: the pointer is to this CPU's element.
        unsafe { (*counts)[1] += 1 };
    }
    XDP_DROP
}
