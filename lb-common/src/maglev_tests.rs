use std::{collections::HashMap, vec, vec::Vec};

use proptest::prelude::*;

use super::*;

/// Members named by number, so that removing one leaves the others as they are.
fn members(numbers: impl IntoIterator<Item = u32>) -> Vec<Member> {
    numbers
        .into_iter()
        .map(|n| Member {
            id: endpoint_id(0x0a00_0000 | n, 8080),
            weight: 1,
            backend: n,
        })
        .collect()
}

fn table_of(members: &[Member], size: u32) -> Vec<u32> {
    let mut table = vec![0; size as usize];
    build(members, &mut vec![Cursor::default(); members.len()], &mut table);
    table
}

fn shares(table: &[u32]) -> HashMap<u32, u32> {
    let mut shares = HashMap::new();
    for backend in table {
        *shares.entry(*backend).or_default() += 1;
    }
    shares
}

/// Slots that changed hands although the owner that they had is still a member.
fn needlessly_moved(before: &[u32], after: &[u32], removed: &[u32]) -> usize {
    before
        .iter()
        .zip(after)
        .filter(|(old, new)| old != new && !removed.contains(old))
        .count()
}

#[test]
fn table_sizes_are_powers_of_two_with_room_for_every_endpoint() {
    assert_eq!(
        [
            table_size(0),
            table_size(1),
            table_size(2),
            table_size(3),
            table_size(4)
        ],
        [0, 1, 128, 256, 256]
    );
    for n in 2..3_000 {
        let size = table_size(n);
        assert!(size.is_power_of_two() && size <= MAX_TABLE_SIZE);
        assert!(size >= n as u32 * SLOTS_PER_ENDPOINT || size == MAX_TABLE_SIZE);
    }
    assert_eq!(table_size(usize::MAX), MAX_TABLE_SIZE);
}

#[test]
fn ten_thousand_services_of_three_endpoints_fit_in_16_mib() {
    assert!(10_000 * table_size(3) * 4 < 16 * 1024 * 1024);
}

#[test]
fn one_endpoint_takes_the_only_slot() {
    assert_eq!(table_of(&members([7]), 1), [7]);
}

#[test]
fn no_endpoint_gives_no_slot() {
    assert!(table_of(&[], 0).is_empty());
}

#[test]
fn weight_zero_takes_no_slot() {
    let mut two = members([1, 2]);
    two[0].weight = 0;
    assert!(table_of(&two, 128).iter().all(|backend| *backend == 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Balance: endpoints of equal weight differ by one slot at most.
    #[test]
    fn equal_weights_get_equal_shares(seed in any::<u32>(), n in 2u32..200) {
        let members = members((0..n).map(|i| seed.wrapping_add(i * 7919)));
        let shares = shares(&table_of(&members, table_size(n as usize)));
        let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
        prop_assert_eq!(shares.len(), n as usize);
        prop_assert!(most - least <= 1, "{} to {} slots", least, most);
    }

    /// Weights: the share of slots is the share of weight. Each member is rounded to the nearest slot; what all the
    /// roundings add up to, half a slot a member at most, is shared by weight; and the last round may stop short.
    #[test]
    fn shares_follow_weights(seed in any::<u32>(), weights in prop::collection::vec(1u32..20, 2..20)) {
        let mut members = members((0..weights.len() as u32).map(|i| seed.wrapping_add(i * 7919)));
        for (member, weight) in members.iter_mut().zip(&weights) {
            member.weight = *weight;
        }
        let size = table_size(members.len());
        let shares = shares(&table_of(&members, size));
        let total: u32 = weights.iter().sum();
        for member in &members {
            let fair = f64::from(size) * f64::from(member.weight) / f64::from(total);
            let got = f64::from(shares.get(&member.backend).copied().unwrap_or(0));
            let bound = 1.5 + f64::from(member.weight) / f64::from(total) * weights.len() as f64 / 2.0;
            prop_assert!((got - fair).abs() <= bound, "weight {} of {total}: {got} slots, fair {fair}", member.weight);
        }
    }

    /// Every node builds the same table, whatever the order in which it learned of the endpoints.
    #[test]
    fn tables_are_equal_under_permutation(seed in any::<u32>(), n in 1u32..100, order in any::<u64>()) {
        let ordered = members((0..n).map(|i| seed.wrapping_add(i * 7919)));
        let mut shuffled = ordered.clone();
        shuffled.sort_by_key(|member| mix(member.id ^ order));
        let size = table_size(n as usize);
        prop_assert_eq!(table_of(&ordered, size), table_of(&shuffled, size));
    }

    /// Disruption: when k of n leave, few slots move that did not belong to them. The bound is what was measured
    /// (see `disruption_figures`) with room for an unlucky set.
    #[test]
    fn few_slots_move_when_endpoints_leave(seed in any::<u32>(), n in 4u32..64, k in 1u32..3) {
        let numbers: Vec<u32> = (0..n).map(|i| seed.wrapping_add(i * 7919)).collect();
        let size = table_size(n as usize);
        let before = table_of(&members(numbers.iter().copied()), size);
        let after = table_of(&members(numbers[k as usize..].iter().copied()), size);
        let moved = needlessly_moved(&before, &after, &numbers[..k as usize]);
        prop_assert!(moved as f64 <= 0.10 * f64::from(size), "{k} of {n}: {moved} of {size} slots moved");
    }

    /// The hash spreads neighbouring ports and addresses evenly over a small table.
    #[test]
    fn neighbouring_flows_spread_evenly(addr in any::<u32>(), port in any::<u16>()) {
        let mut slots = [0u32; 64];
        for i in 0..64u32 * 64 {
            let src = addr.wrapping_add((i % 16).to_be());
            let src_port = port.wrapping_add((i / 16) as u16).to_be();
            slots[(flow_hash(src, src_port, 80u16.to_be(), 6) & 63) as usize] += 1;
        }
        // 64 expected in each, standard deviation 8.
        prop_assert!(slots.iter().all(|n| (16..=128).contains(n)), "{:?}", slots);
    }

    #[test]
    fn neighbouring_ipv6_flows_spread_evenly(addr in any::<[u32; 4]>(), word in 0usize..4, port in any::<u16>()) {
        let mut slots = [0u32; 64];
        for i in 0..64u32 * 64 {
            let mut src = addr;
            src[word] = src[word].wrapping_add((i % 16).to_be());
            let src_port = port.wrapping_add((i / 16) as u16).to_be();
            slots[(flow_hash(src, src_port, 80u16.to_be(), 6) & 63) as usize] += 1;
        }
        prop_assert!(slots.iter().all(|n| (16..=128).contains(n)), "{:?}", slots);
    }
}

/// The figures that docs/maglev.md quotes; `cargo test -p lb-common disruption_figures -- --nocapture` prints them.
#[test]
fn disruption_figures() {
    std::println!("endpoints  leaving  slots   moved needlessly: mean, worst of 200 sets");
    for (n, k) in [
        (3, 1),
        (4, 1),
        (10, 1),
        (10, 3),
        (50, 1),
        (50, 5),
        (100, 1),
        (1_000, 10),
    ] {
        let size = table_size(n);
        let sets = if n > 100 { 5 } else { 200 };
        let moved: Vec<f64> = (0..sets)
            .map(|set| {
                let numbers: Vec<u32> = (0..n as u32)
                    .map(|i| mix(set << 32 | u64::from(i)) as u32)
                    .collect();
                let before = table_of(&members(numbers.iter().copied()), size);
                let after = table_of(&members(numbers[k..].iter().copied()), size);
                needlessly_moved(&before, &after, &numbers[..k]) as f64 / f64::from(size)
            })
            .collect();
        let mean = moved.iter().sum::<f64>() / moved.len() as f64;
        let worst = moved.iter().copied().fold(0.0, f64::max);
        std::println!(
            "{n:9}  {k:7}  {size:6}  {:6.2}%  {:6.2}%",
            mean * 100.0,
            worst * 100.0
        );
        assert!(
            mean < 0.15,
            "{k} of {n} leaving moved {:.1}% of the other slots",
            mean * 100.0
        );
    }
}
