//! Space for Maglev tables: a buddy allocator over the elements of MAGLEV.
//!
//! Tables have a power of two of slots. A block of 2^k slots begins at a multiple of 2^k, and two neighbours that are
//! free become one block of twice the size. The lowest block that fits is given out first.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use lb_common::abi::TableRef;

use super::quarantine::Quarantine;

/// 2^`order` slots from `offset` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Block {
    pub(super) offset: u32,
    pub(super) order: u8,
}

impl Block {
    /// The block that holds exactly the tables of a service; `None` if there are none, or they lie as no block does.
    pub(super) fn of(table: TableRef) -> Option<Self> {
        let size = table.total();
        let aligned = size.is_power_of_two() && table.offset().is_multiple_of(size);
        aligned.then(|| Self {
            offset: table.offset(),
            order: size.trailing_zeros() as u8,
        })
    }

    pub(super) fn size(self) -> u32 {
        1 << self.order
    }

    fn buddy(self) -> Self {
        Self {
            offset: self.offset ^ self.size(),
            order: self.order,
        }
    }

    fn parent(self) -> Self {
        Self {
            offset: self.offset & !self.size(),
            order: self.order + 1,
        }
    }

    fn halves(self) -> [Self; 2] {
        let order = self.order - 1;
        [
            Self {
                offset: self.offset,
                order,
            },
            Self {
                offset: self.offset + (1 << order),
                order,
            },
        ]
    }
}

/// The fewest blocks that cover exactly the slots from `from` up to `to`.
fn blocks_between(from: u32, to: u32) -> impl Iterator<Item = Block> {
    let mut offset = from;
    std::iter::from_fn(move || {
        let left = to.checked_sub(offset).filter(|left| *left > 0)?;
        let block = Block {
            offset,
            order: left.ilog2().min(offset.trailing_zeros()) as u8,
        };
        // At the very end of the numbers this is the last block.
        offset = offset.saturating_add(block.size());
        Some(block)
    })
}

/// Tables get smaller when less than this part of the slots is free.
const SCARCE: u64 = 8;

/// Orders of blocks: sizes are below 2^32.
const ORDERS: usize = 32;

/// Which slots of MAGLEV are taken.
#[derive(Clone, Debug)]
pub(super) struct Space {
    slots: u32,
    /// Offsets of free blocks, by order.
    free: [BTreeSet<u32>; ORDERS],
    quarantine: Quarantine<Block>,
}

impl Space {
    /// Space of that many slots, all free.
    pub(super) fn new(slots: u32, grace: Duration) -> Self {
        let mut space = Self {
            slots,
            free: Default::default(),
            quarantine: Quarantine::new(grace),
        };
        for block in blocks_between(0, slots) {
            space.free[usize::from(block.order)].insert(block.offset);
        }
        space
    }

    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    /// Takes a block of `size` slots, a power of two.
    pub(super) fn take(&mut self, size: u32) -> Option<Block> {
        let order = size.trailing_zeros() as usize;
        let found = (order..ORDERS).find(|order| !self.free[*order].is_empty())?;
        let mut block = Block {
            offset: self.free[found].pop_first()?,
            order: found as u8,
        };
        while usize::from(block.order) > order {
            let [low, high] = block.halves();
            self.free[usize::from(high.order)].insert(high.offset);
            block = low;
        }
        Some(block)
    }

    /// Takes that block; false if it is not free as a whole.
    pub(super) fn reserve(&mut self, block: Block) -> bool {
        let Some(mut holder) = self.holder(block) else {
            return false;
        };
        self.free[usize::from(holder.order)].remove(&holder.offset);
        while holder.order > block.order {
            let [low, high] = holder.halves();
            let (keep, other) = if block.offset < high.offset {
                (low, high)
            } else {
                (high, low)
            };
            self.free[usize::from(other.order)].insert(other.offset);
            holder = keep;
        }
        true
    }

    /// Takes everything that is free between `from` and `to` (slots, `to` excluded), in as many blocks as it needs.
    pub(super) fn reserve_range(&mut self, from: u32, to: u32) -> Vec<Block> {
        let mut taken = Vec::new();
        for block in blocks_between(from, to.min(self.slots)) {
            self.reserve_inside(block, &mut taken);
        }
        taken
    }

    fn reserve_inside(&mut self, block: Block, taken: &mut Vec<Block>) {
        if self.reserve(block) {
            taken.push(block);
        } else if block.order > 0 && self.has_free_inside(block) {
            for half in block.halves() {
                self.reserve_inside(half, taken);
            }
        }
    }

    fn has_free_inside(&self, block: Block) -> bool {
        let slots = block.offset..=block.offset + (block.size() - 1);
        self.free[..usize::from(block.order)]
            .iter()
            .any(|free| free.range(slots.clone()).next().is_some())
    }

    /// The free block that holds `block`.
    fn holder(&self, block: Block) -> Option<Block> {
        let mut holder = block;
        while usize::from(holder.order) < ORDERS {
            if self.free[usize::from(holder.order)].contains(&holder.offset) {
                return Some(holder);
            }
            holder = holder.parent();
        }
        None
    }

    /// Gives back a block that no service has named.
    pub(super) fn give_back(&mut self, mut block: Block) {
        while usize::from(block.order) < ORDERS - 1
            && self.free[usize::from(block.order)].remove(&block.buddy().offset)
        {
            block = block.parent();
        }
        self.free[usize::from(block.order)].insert(block.offset);
    }

    /// Frees a block that a service named.
    pub(super) fn retire(&mut self, block: Block, now: Instant) {
        self.quarantine.push(block, now);
    }

    /// Ends the quarantine of what has been in it long enough.
    pub(super) fn release(&mut self, now: Instant) {
        while let Some(block) = self.quarantine.pop(now) {
            self.give_back(block);
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.quarantine.next_due()
    }

    /// Slots that are free.
    pub(super) fn free_slots(&self) -> u64 {
        (0..ORDERS)
            .map(|order| (self.free[order].len() as u64) << order)
            .sum()
    }

    /// How many times tables are to be halved, so that there is room for others too: not at all until an eighth of the slots
    /// is left, once in the first half of that, twice in the half of what is left then, and so on.
    pub(super) fn scarcity(&self) -> u32 {
        let (scarce, free) = (u64::from(self.slots) / SCARCE, self.free_slots());
        if free >= scarce {
            return 0;
        }
        scarce
            .checked_div(free)
            .map_or(u32::BITS, |times| times.ilog2() + 1)
    }

    /// Slots that are in quarantine.
    pub(super) fn quarantined_slots(&self) -> u64 {
        self.quarantine.iter().map(|block| u64::from(block.size())).sum()
    }
}

#[cfg(test)]
#[path = "space_tests.rs"]
mod tests;
