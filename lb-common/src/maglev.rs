//! Maglev hashing: which endpoint a flow belongs to.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4. Three
//! things differ from the paper. The size of a table is a power of two, so that the kernel masks instead of dividing.
//! The size follows the number of endpoints, because a node holds ten thousand tables, most of them small. And a
//! member walks the table by a linear congruential step of full period instead of a fixed skip: with fixed skips two
//! members of a small table are in step with each other far too often (docs/maglev.md has the figures).
//!
//! A table depends on the set of (address, port, weight) alone: every node builds the same one, in whatever order the
//! endpoints were learned. That is also why the size has no hysteresis (docs/adr/0002-table-size-without-history.md).

use crate::{abi::Address, limits::MAX_TABLE_SIZE};

/// Slots per endpoint. Shares of two endpoints of equal weight differ by one slot at most, so this bounds the
/// imbalance at 1/64.
const SLOTS_PER_ENDPOINT: u32 = 64;

/// Spreads all bits of `x` over the result; a bijection. The constants are those of SplitMix64 (Steele, Lea and
/// Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014; variant 13 of Stafford).
#[inline(always)]
pub const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The hash of a flow. Ports have their bytes as in the packet.
///
/// The destination address is left out: a NodePort flow that moves to another node meets the same endpoint there.
/// The result is the same on machines of either byte order.
#[inline(always)]
pub fn flow_hash<A: Address>(src: A, src_port: u16, dst_port: u16, proto: u8) -> u32 {
    let ports = (src_port.to_be() as u64) << 32 | (dst_port.to_be() as u64) << 8 | proto as u64;
    mix(mix(src.fold()) ^ ports) as u32
}

/// The hash of a client that is to stay with its endpoint: of its address alone, so that every node and every port of
/// the client gives the same. `epoch` is 0 until the client has come back too late.
#[inline(always)]
pub fn affinity_hash<A: Address>(client: A, epoch: u32) -> u32 {
    mix(mix(client.fold()) ^ epoch as u64) as u32
}

/// The hash of a socket of the node itself, which has no source port yet when its endpoint is chosen.
#[inline(always)]
pub const fn socket_hash(cookie: u64, dst_port: u16, proto: u8) -> u32 {
    mix(mix(cookie) ^ ((dst_port.to_be() as u64) << 8 | proto as u64)) as u32
}

/// What identifies an endpoint in a table. The port has its bytes as in the packet.
pub fn endpoint_id<A: Address>(addr: A, port: u16) -> u64 {
    mix(mix(addr.fold()) ^ port.to_be() as u64)
}

/// The number of slots for that many endpoints: 0 for none, 1 for one, else a power of two with at least
/// 64 slots an endpoint, up to [`MAX_TABLE_SIZE`].
pub const fn table_size(endpoints: usize) -> u32 {
    const MOST: u32 = MAX_TABLE_SIZE / SLOTS_PER_ENDPOINT;
    match endpoints {
        0 => 0,
        1 => 1,
        n if n >= MOST as usize => MAX_TABLE_SIZE,
        n => (n as u32 * SLOTS_PER_ENDPOINT).next_power_of_two(),
    }
}

/// One endpoint of a table that is being built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// [`endpoint_id`] of the endpoint.
    pub id: u64,
    /// Share of new flows relative to the other members; 0 takes none.
    pub weight: u32,
    /// What the slots of this endpoint hold: its index in BACKENDS.
    pub backend: u32,
}

/// Where one member stands while a table is filled. Callers provide one for each member and need not set it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    id: u64,
    backend: u32,
    next: u32,
    /// 1 modulo 4 and an odd increment: the walk visits all slots (Hull and Dobell, "Random Number Generators", SIAM
    /// Review 4(3), 1962).
    multiplier: u32,
    increment: u32,
    weight: u32,
    credit: u64,
}

impl Cursor {
    fn new(member: &Member, mask: u32, credit: u64) -> Self {
        Self {
            id: member.id,
            backend: member.backend,
            next: member.id as u32 & mask,
            multiplier: (mix(!member.id) as u32) << 2 | 1,
            increment: (mix(!member.id) >> 32) as u32 | 1,
            weight: member.weight,
            credit,
        }
    }

    /// The member's turn: takes the first free slot of its permutation.
    fn take(&mut self, table: &mut [u32], mask: u32) {
        loop {
            let slot = self.next as usize;
            self.next = self
                .next
                .wrapping_mul(self.multiplier)
                .wrapping_add(self.increment)
                & mask;
            if table[slot] == FREE {
                table[slot] = self.backend;
                return;
            }
        }
    }
}

/// A slot that nobody has taken yet. No backend has this index.
const FREE: u32 = u32::MAX;

/// Fills `table` with the backend indexes of `members`.
///
/// The order of `members` does not matter. Every slot is filled if any member has weight.
///
/// # Panics
///
/// If `table` is not a power of two long, if there are fewer cursors than members, or if all weights are 0 and the
/// table is not empty.
pub fn build(members: &[Member], cursors: &mut [Cursor], table: &mut [u32]) {
    if table.is_empty() {
        return;
    }
    assert!(
        table.len().is_power_of_two(),
        "a Maglev table has a power of two of slots, not {}",
        table.len()
    );
    assert!(
        members.iter().any(|member| member.weight > 0),
        "a Maglev table needs a member with weight"
    );
    let mask = (table.len() - 1) as u32;
    let cursors = &mut cursors[..members.len()];
    let heaviest = u64::from(members.iter().map(|member| member.weight).max().unwrap_or(1));
    for (cursor, member) in cursors.iter_mut().zip(members) {
        // Half a slot in advance: shares are rounded to the nearest slot, not down in favour of the heaviest.
        *cursor = Cursor::new(member, mask, heaviest / 2);
    }
    // The turn order decides who gets the odd slots: it must not depend on the order of the input.
    cursors.sort_unstable_by_key(|cursor| (cursor.id, cursor.weight, cursor.backend));

    table.fill(FREE);
    let mut left = table.len();
    loop {
        for cursor in cursors.iter_mut() {
            cursor.credit += u64::from(cursor.weight);
            if cursor.credit < heaviest {
                continue;
            }
            cursor.credit -= heaviest;
            cursor.take(table, mask);
            left -= 1;
            if left == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
#[path = "maglev_tests.rs"]
mod tests;
