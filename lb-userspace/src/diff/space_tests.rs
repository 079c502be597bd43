use proptest::prelude::*;

use super::*;

const GRACE: Duration = Duration::from_secs(1);

fn overlap(a: Block, b: Block) -> bool {
    a.offset < b.offset + b.size() && b.offset < a.offset + a.size()
}

#[test]
fn space_of_any_size_can_be_used_up_to_the_last_slot() {
    for slots in [0, 1, 2, 3, 7, 64, 100, 1023] {
        let mut space = Space::new(slots, GRACE);
        assert_eq!(space.free_slots(), u64::from(slots));
        let taken: BTreeSet<u32> = (0..slots)
            .map(|_| space.take(1).expect("a slot").offset)
            .collect();
        assert_eq!((taken.len(), space.take(1)), (slots as usize, None));
        taken
            .into_iter()
            .for_each(|offset| space.give_back(Block { offset, order: 0 }));
        assert_eq!(space.free_slots(), u64::from(slots));
        if slots.is_power_of_two() {
            assert!(space.take(slots).is_some(), "{slots} slots are one block again");
        }
    }
}

#[test]
fn a_block_rests_before_it_is_used_again() {
    let (mut space, now) = (Space::new(4, GRACE), Instant::now());
    let block = space.take(4).unwrap();
    space.retire(block, now);
    space.release(now + GRACE / 2);
    assert_eq!(
        (space.take(1), space.quarantined_slots(), space.next_due()),
        (None, 4, Some(now + GRACE))
    );
    space.release(now + GRACE);
    assert_eq!(space.take(4), Some(block));
}

#[test]
fn blocks_and_tables_are_two_views_of_one_thing() {
    let block = Block { offset: 96, order: 5 };
    assert_eq!(Block::of(TableRef::new(block.offset, block.size())), Some(block));
    assert_eq!(Block::of(TableRef::EMPTY), None);
    assert_eq!(Block::of(TableRef::new(16, 32)), None, "not aligned to its size");
}

proptest! {
    /// Blocks never overlap and never leave the space, whatever is taken, given back, retired and reserved.
    #[test]
    fn blocks_never_overlap(slots in 1u32..600, steps in prop::collection::vec((0u8..5, any::<u16>()), 1..200)) {
        let mut space = Space::new(slots, GRACE);
        let mut now = Instant::now();
        let mut held: Vec<Block> = Vec::new();
        let mut resting: Vec<(Instant, Block)> = Vec::new();
        for (what, n) in steps {
            let pick = usize::from(n).checked_rem(held.len());
            let taken: Vec<Block> = match (what, pick) {
                (0, _) => space.take(1 << (n % 8)).into_iter().collect(),
                (1, _) => {
                    let block = Block { order: (n % 4) as u8, offset: u32::from(n >> 4) & !((1 << (n % 4)) - 1) };
                    space.reserve(block).then_some(block).into_iter().collect()
                }
                (2, _) => space.reserve_range(u32::from(n % 512), u32::from(n % 512 + n / 1024)),
                (3, Some(i)) => {
                    space.give_back(held.swap_remove(i));
                    vec![]
                }
                (4, Some(i)) => {
                    resting.push((now + GRACE, held[i]));
                    space.retire(held.swap_remove(i), now);
                    vec![]
                }
                _ => vec![],
            };
            now += Duration::from_millis(u64::from(n % 300));
            for block in &taken {
                prop_assert!(block.offset + block.size() <= slots && block.offset.is_multiple_of(block.size()));
                prop_assert!(held.iter().all(|other| !overlap(*block, *other)), "{block:?} overlaps");
                prop_assert!(resting.iter().all(|(_, other)| !overlap(*block, *other)), "{block:?} rests");
            }
            held.extend(taken);
            space.release(now);
            resting.retain(|(due, _)| *due > now);
            let used: u64 = held.iter().chain(resting.iter().map(|(_, b)| b)).map(|b| u64::from(b.size())).sum();
            prop_assert_eq!(used + space.free_slots(), u64::from(slots));
        }
    }
}
