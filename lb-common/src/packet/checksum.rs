//! Incremental update of Internet checksums (RFC 1624).
//!
//! Sums are one's complement, so words are added as they lie in memory: the byte order of the machine does not
//! matter (RFC 1071, section 2 (B)). A wrong checksum stays exactly as wrong as it was.

use crate::abi::{Address, Tuple};

/// The change of a sum: what to add to a checksum's complement. Up to 2^20 words may be taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Delta(u64);

impl Delta {
    /// The change of the addresses from `old` to `new`. They are part of the IPv4 header, and of the pseudo header
    /// that TCP and UDP checksums cover (RFC 9293, section 3.1; RFC 768).
    #[inline(always)]
    pub fn addresses<A: Address>(old: &Tuple<A>, new: &Tuple<A>) -> Self {
        Self(
            old.src.checksum_words_complement()
                + old.dst.checksum_words_complement()
                + new.src.checksum_words()
                + new.dst.checksum_words(),
        )
    }

    /// The change of the ports from `old` to `new`.
    #[inline(always)]
    pub const fn ports<A>(old: &Tuple<A>, new: &Tuple<A>) -> Self {
        Self(!old.ports as u64 + new.ports as u64)
    }

    /// The change of one 16-bit word, bytes as in the packet.
    #[inline(always)]
    pub const fn word(old: u16, new: u16) -> Self {
        Self(!old as u64 + new as u64)
    }

    /// Both changes together.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The change as a 32-bit one's complement sum, as `bpf_l4_csum_replace` takes it.
    #[inline(always)]
    pub const fn fold32(self) -> u32 {
        let once = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        ((once & 0xffff_ffff) + (once >> 32)) as u32
    }

    /// The checksum after the change; `checksum` and the result have their bytes as in the packet. This is eqn. 3 of
    /// RFC 1624.
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        let sum = !checksum as u64 + self.fold32() as u64;
        let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        !(((sum & 0xffff) + (sum >> 16)) as u16)
    }

    /// The same for UDP: 0 means "no checksum" and stays, and a sum that comes out as 0 is sent as 0xffff (RFC 768).
    #[inline(always)]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            checksum => checksum,
        }
    }
}

/// The Internet checksum of words whose bytes stand as in the packet, and of what was summed up before; the result has
/// its bytes as in the packet too (RFC 1071).
#[inline(always)]
pub fn of<const WORDS: usize>(words: &[u32; WORDS], range: core::ops::Range<usize>, before: u64) -> u16 {
    let mut sum = before;
    let mut nth = range.start;
    while nth < range.end && nth < WORDS {
        sum += words[nth] as u64;
        nth += 1;
    }
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

#[cfg(test)]
#[path = "checksum_tests.rs"]
mod tests;
