use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// The Internet checksum of whole 16-bit words, computed from scratch (RFC 1071).
fn checksum(words: &[u16]) -> u16 {
    let mut sum: u64 = words.iter().map(|word| u64::from(*word)).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn halves(word: u32) -> [u16; 2] {
    let b = word.to_ne_bytes();
    [u16::from_ne_bytes([b[0], b[1]]), u16::from_ne_bytes([b[2], b[3]])]
}

fn words4(tuple: &Tuple<u32>, rest: &[u16]) -> Vec<u16> {
    let mut words: Vec<u16> = [tuple.src, tuple.dst].into_iter().flat_map(halves).collect();
    words.extend([tuple.src_port(), tuple.dst_port()]);
    words.extend(rest);
    words
}

fn words6(tuple: &Tuple<[u32; 4]>, rest: &[u16]) -> Vec<u16> {
    let mut words: Vec<u16> = tuple.src.into_iter().chain(tuple.dst).flat_map(halves).collect();
    words.extend([tuple.src_port(), tuple.dst_port()]);
    words.extend(rest);
    words
}

fn tuple<A: Copy>((src, dst, src_port, dst_port): (A, A, u16, u16)) -> Tuple<A> {
    Tuple::new(src, dst, src_port, dst_port)
}

proptest! {
    #[test]
    fn an_updated_checksum_equals_a_computed_one(
        old in any::<(u32, u32, u16, u16)>(), new in any::<(u32, u32, u16, u16)>(), mut rest in prop::collection::vec(any::<u16>(), 0..20),
    ) {
        rest.push(6); // protocol and length of a real packet keep the sum from being all zero
        let (old, new) = (tuple(old), tuple(new));
        let delta = Delta::addresses(&old, &new).and(Delta::ports(&old, &new));
        prop_assert_eq!(delta.apply(checksum(&words4(&old, &rest))), checksum(&words4(&new, &rest)));
    }

    #[test]
    fn an_updated_ipv6_checksum_equals_a_computed_one(
        old in any::<([u32; 4], [u32; 4], u16, u16)>(), new in any::<([u32; 4], [u32; 4], u16, u16)>(), mut rest in prop::collection::vec(any::<u16>(), 0..20),
    ) {
        rest.push(6);
        let (old, new) = (tuple(old), tuple(new));
        let delta = Delta::addresses(&old, &new).and(Delta::ports(&old, &new));
        prop_assert_eq!(delta.apply(checksum(&words6(&old, &rest))), checksum(&words6(&new, &rest)));
    }

    /// Undoing a change gives the checksum that was there, right or wrong; 0x0000 and 0xffff are the same number.
    #[test]
    fn a_wrong_checksum_stays_wrong_by_as_much(
        old in any::<(u32, u32, u16, u16)>(), new in any::<(u32, u32, u16, u16)>(), wrong in any::<u16>(),
    ) {
        let (old, new) = (tuple(old), tuple(new));
        let there = Delta::addresses(&old, &new).and(Delta::ports(&old, &new)).apply(wrong);
        let back = Delta::addresses(&new, &old).and(Delta::ports(&new, &old)).apply(there);
        prop_assert_eq!(u32::from(back) % 0xffff, u32::from(wrong) % 0xffff);
    }

    /// The kernel updates in two steps (pseudo header, then ports): no difference.
    #[test]
    fn two_steps_equal_one(old in any::<(u32, u32, u16, u16)>(), new in any::<(u32, u32, u16, u16)>(), sum in any::<u16>()) {
        let (old, new) = (tuple(old), tuple(new));
        let (addresses, ports) = (Delta::addresses(&old, &new), Delta::ports(&old, &new));
        prop_assert_eq!(ports.apply(addresses.apply(sum)), addresses.and(ports).apply(sum));
    }

    #[test]
    fn udp_never_turns_a_checksum_into_no_checksum(old in any::<(u32, u32, u16, u16)>(), new in any::<(u32, u32, u16, u16)>(), sum in 1u16..) {
        let (old, new) = (tuple(old), tuple(new));
        prop_assert_ne!(Delta::addresses(&old, &new).apply_udp(sum), 0);
        prop_assert_eq!(Delta::addresses(&old, &new).apply_udp(0), 0);
    }
}

/// RFC 1624, section 4: the case that the update of RFC 1141 gets wrong.
#[test]
fn the_example_of_rfc_1624() {
    let old = Tuple::new(0, 0, 0x5555_u16.to_be(), 0);
    let new = Tuple::new(0, 0, 0x3285_u16.to_be(), 0);
    assert_eq!(Delta::ports(&old, &new).apply(0xdd2f_u16.to_be()), 0x0000);
}
