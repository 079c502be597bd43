//! Addresses and ports as map keys hold them.

use core::{hash::Hash, net::IpAddr};

/// An address of one family as maps hold it: whole words whose bytes stand as in the packet.
pub trait Address: Copy + Default + Eq + Hash + core::fmt::Debug + 'static {
    /// The address with all bits zero.
    const UNSPECIFIED: Self;

    /// The address folded into 64 bits for hashing: the same on machines of either byte order.
    fn fold(self) -> u64;

    /// The one's complement sum of the address's 16-bit words, not folded (at most 36 bits are used).
    fn checksum_words(self) -> u64;

    /// The sum of the complements of the address's words: what takes the address out of a checksum.
    fn checksum_words_complement(self) -> u64;

    /// The bits of `mask` in which the address is not `other`, put together; 0 if there are none.
    fn differs(self, other: Self, mask: Self) -> u32;
}

impl Address for u32 {
    const UNSPECIFIED: Self = 0;

    #[inline(always)]
    fn fold(self) -> u64 {
        self.to_be() as u64
    }

    #[inline(always)]
    fn checksum_words(self) -> u64 {
        self as u64
    }

    #[inline(always)]
    fn checksum_words_complement(self) -> u64 {
        !self as u64
    }

    #[inline(always)]
    fn differs(self, other: Self, mask: Self) -> u32 {
        (self ^ other) & mask
    }
}

impl Address for [u32; 4] {
    const UNSPECIFIED: Self = [0; 4];

    #[inline(always)]
    fn fold(self) -> u64 {
        let [a, b, c, d] = self;
        let high = (a.to_be() as u64) << 32 | b.to_be() as u64;
        let low = (c.to_be() as u64) << 32 | d.to_be() as u64;
        crate::maglev::mix(high) ^ low
    }

    #[inline(always)]
    fn checksum_words(self) -> u64 {
        let [a, b, c, d] = self;
        a as u64 + b as u64 + c as u64 + d as u64
    }

    #[inline(always)]
    fn checksum_words_complement(self) -> u64 {
        let [a, b, c, d] = self;
        !a as u64 + !b as u64 + !c as u64 + !d as u64
    }

    #[inline(always)]
    fn differs(self, other: Self, mask: Self) -> u32 {
        let ([a, b, c, d], [e, f, g, h], [i, j, k, l]) = (self, other, mask);
        (a ^ e) & i | (b ^ f) & j | (c ^ g) & k | (d ^ h) & l
    }
}

/// A port in host order as maps and packets hold it.
#[inline(always)]
pub const fn port_to_wire(port: u16) -> u16 {
    port.to_be()
}

/// A port as maps and packets hold it, in host order.
#[inline(always)]
pub const fn port_from_wire(port: u16) -> u16 {
    u16::from_be(port)
}

/// An address of either family in the form of a map key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Either {
    /// An IPv4 address.
    V4(u32),
    /// An IPv6 address.
    V6([u32; 4]),
}

impl Either {
    /// The IPv4 address, if it is one.
    pub const fn v4(self) -> Option<u32> {
        match self {
            Self::V4(addr) => Some(addr),
            Self::V6(_) => None,
        }
    }

    /// The IPv6 address, if it is one.
    pub const fn v6(self) -> Option<[u32; 4]> {
        match self {
            Self::V4(_) => None,
            Self::V6(addr) => Some(addr),
        }
    }
}

/// The form that maps hold `ip` in. An IPv4-mapped IPv6 address stays an IPv6 address.
pub const fn from_ip(ip: IpAddr) -> Either {
    match ip {
        IpAddr::V4(v4) => Either::V4(u32::from_ne_bytes(v4.octets())),
        IpAddr::V6(v6) => {
            let o = v6.octets();
            Either::V6([
                u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
            ])
        }
    }
}

/// The address that a map holds.
pub fn to_ip(addr: Either) -> IpAddr {
    match addr {
        Either::V4(word) => IpAddr::from(word.to_ne_bytes()),
        Either::V6(words) => {
            let mut octets = [0; 16];
            for (chunk, word) in octets.chunks_exact_mut(4).zip(words) {
                chunk.copy_from_slice(&word.to_ne_bytes());
            }
            IpAddr::from(octets)
        }
    }
}
