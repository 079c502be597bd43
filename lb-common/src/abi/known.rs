//! Which addresses services and endpoints have, as bits: most packets of a node have nothing to do with either, and find
//! that out by one look instead of three in hash tables.

use super::Address;
use crate::{limits::KNOWN_BITS, maglev::mix};

const _: () = assert!(KNOWN_BITS.is_power_of_two() && KNOWN_BITS >= 64);

/// A bit of the map KNOWN. Addresses of both families share them: that a bit is set says only that the tables are to be
/// asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownBit {
    /// Element of the map.
    pub word: u32,
    /// The element's bit.
    pub mask: u64,
}

impl KnownBit {
    /// How many elements the map has.
    pub const WORDS: u32 = KNOWN_BITS / 64;

    /// The bit of an address.
    #[inline(always)]
    pub fn of<A: Address>(addr: A) -> Self {
        let hash = mix(addr.fold());
        Self {
            word: (hash >> 32) as u32 & (Self::WORDS - 1),
            mask: 1 << (hash & 63),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::abi::from_ip;

    #[test]
    fn addresses_of_a_network_spread_over_all_bits() {
        let mut bits = HashSet::new();
        let mut words = HashSet::new();
        for number in 0..20_000u32 {
            let bit = match from_ip(std::net::Ipv4Addr::from(0x0a60_0000 + number).into()) {
                crate::abi::Either::V4(addr) => KnownBit::of(addr),
                crate::abi::Either::V6(_) => unreachable!("an IPv4 address"),
            };
            assert!(bit.word < KnownBit::WORDS && bit.mask.count_ones() == 1);
            words.insert(bit.word);
            bits.insert((bit.word, bit.mask));
        }
        // As many as fall into different bins by chance, within 2%.
        let bins = f64::from(KNOWN_BITS);
        let expected = bins * (1.0 - (-20_000.0 / bins).exp());
        assert!(
            (bits.len() as f64 / expected - 1.0).abs() < 0.02,
            "{}",
            bits.len()
        );
        assert!(words.len() > KnownBit::WORDS as usize * 9 / 10);
    }
}
