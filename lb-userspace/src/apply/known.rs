//! KNOWN: bits for the addresses that frontends and endpoints have.
//!
//! A bit is set before the first entry of its address comes. Several addresses may share it, so it is not cleared when one
//! of them goes: after many have gone, all bits are worked out anew. Meanwhile packets to addresses that nobody has any more
//! are looked up in vain, and that is all.

use std::net::IpAddr;

use lb_common::abi::{Address, Either, FrontendKey, KnownBit, from_ip, map, to_ip};

use super::{ApplyError, KernelMaps, V4, V6, walk::for_each};
use crate::sys::MappedArray;

/// After how many entries that went the bits are worked out anew.
const GONE: u32 = 8_192;

/// The map, and what became of it.
pub(super) struct Known {
    bits: MappedArray<u64>,
    gone: u32,
}

fn bit_of(addr: IpAddr) -> KnownBit {
    match from_ip(addr) {
        Either::V4(addr) => KnownBit::of(addr),
        Either::V6(addr) => KnownBit::of(addr),
    }
}

fn outside(bit: KnownBit) -> ApplyError {
    ApplyError::NoElement {
        name: map::KNOWN,
        index: bit.word,
    }
}

impl Known {
    pub(super) const fn new(bits: MappedArray<u64>) -> Self {
        Self { bits, gone: 0 }
    }

    /// An entry of the address is about to come.
    pub(super) fn add(&self, addr: IpAddr) -> Result<(), ApplyError> {
        self.set(bit_of(addr)).map(drop)
    }

    /// Sets the bit of an address that has an entry; true if it was not set.
    pub(super) fn mend<A: Address>(&self, addr: A) -> Result<bool, ApplyError> {
        self.set(KnownBit::of(addr))
    }

    fn set(&self, bit: KnownBit) -> Result<bool, ApplyError> {
        // Nobody else writes here.
        let word = self.bits.get(bit.word).ok_or_else(|| outside(bit))?;
        if word & bit.mask != 0 {
            return Ok(false);
        }
        self.bits
            .set(bit.word, word | bit.mask)
            .ok_or_else(|| outside(bit))?;
        Ok(true)
    }
}

impl KernelMaps {
    /// An entry has gone; its address may have others.
    pub(super) fn note_gone(&mut self) -> Result<(), ApplyError> {
        self.known.gone += 1;
        if self.known.gone < GONE {
            return Ok(());
        }
        self.learn_addresses()
    }

    /// Works out all bits anew, from the maps. No bit that is needed is 0 meanwhile.
    pub(super) fn learn_addresses(&mut self) -> Result<(), ApplyError> {
        let mut words = vec![0; self.known.bits.len()];
        let mut add = |addr: IpAddr| {
            let bit = bit_of(addr);
            if let Some(word) = words.get_mut(bit.word as usize) {
                *word |= bit.mask;
            }
        };
        for_each(&self.frontends4, map::FRONTENDS4, |key: FrontendKey<V4>, _| {
            add(to_ip(Either::V4(key.addr)));
        })?;
        for_each(&self.frontends6, map::FRONTENDS6, |key: FrontendKey<V6>, _| {
            add(to_ip(Either::V6(key.addr)));
        })?;
        self.endpoints.for_each_address(add);
        for (index, word) in (0..).zip(words) {
            self.known.bits.set(index, word).ok_or(ApplyError::NoElement {
                name: map::KNOWN,
                index,
            })?;
        }
        self.known.gone = 0;
        Ok(())
    }
}
