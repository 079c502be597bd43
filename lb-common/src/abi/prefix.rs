//! Networks: addresses that begin with the same bits.

use core::net::IpAddr;

use super::{Address, Either, from_ip};
use crate::limits::SERVICE_CIDRS;

/// The addresses that agree with `net` where `mask` has ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Prefix<A> {
    /// The first of them, bytes as in the packet.
    pub net: A,
    /// Which bits count, bytes as in the packet.
    pub mask: A,
}

impl<A: Address> Prefix<A> {
    /// Whether `addr` is one of them.
    #[inline(always)]
    pub fn contains(&self, addr: A) -> bool {
        addr.differs(self.net, self.mask) == 0
    }
}

/// The networks of one family that cluster IPs are given from. An entry with an empty mask stands for none: all zeros are
/// no networks at all, and none that holds every address can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct ServiceNets<A> {
    /// The networks.
    pub nets: [Prefix<A>; SERVICE_CIDRS],
}

impl<A: Address> ServiceNets<A> {
    /// The first [`SERVICE_CIDRS`] networks; those that hold every address are left out.
    pub fn new(nets: impl IntoIterator<Item = Prefix<A>>) -> Self {
        let mut this = Self::default();
        let nets = nets.into_iter().filter(|net| !net.is_none());
        for (place, net) in this.nets.iter_mut().zip(nets) {
            *place = net;
        }
        this
    }

    /// Whether one of them holds an address.
    #[inline(always)]
    pub fn contain(&self, addr: A) -> bool {
        let mut found = false;
        for net in &self.nets {
            found |= !net.is_none() && net.contains(addr);
        }
        found
    }
}

impl<A: Address> Prefix<A> {
    #[inline(always)]
    fn is_none(&self) -> bool {
        A::UNSPECIFIED.differs(self.mask, self.mask) == 0
    }
}

/// A network of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EitherPrefix {
    /// Of IPv4.
    V4(Prefix<u32>),
    /// Of IPv6.
    V6(Prefix<[u32; 4]>),
}

impl EitherPrefix {
    /// The network of `addr` and all addresses whose first `len` bits are the same.
    pub fn new(addr: IpAddr, len: u8) -> Self {
        let ones = |words: u32| -> u32 {
            let len = u32::from(len).saturating_sub(32 * words).min(32);
            u32::MAX.checked_shl(32 - len).unwrap_or(0).to_be()
        };
        match from_ip(addr) {
            Either::V4(addr) => Self::V4(Prefix {
                net: addr & ones(0),
                mask: ones(0),
            }),
            Either::V6([a, b, c, d]) => {
                let mask = [ones(0), ones(1), ones(2), ones(3)];
                Self::V6(Prefix {
                    net: [a & mask[0], b & mask[1], c & mask[2], d & mask[3]],
                    mask,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_that_are_not_written_hold_nothing() {
        let net = |text: &str, len| match EitherPrefix::new(text.parse().unwrap(), len) {
            EitherPrefix::V4(prefix) => prefix,
            EitherPrefix::V6(_) => panic!("not asked for"),
        };
        let holds = |nets: &ServiceNets<u32>, addr: &str| match from_ip(addr.parse().unwrap()) {
            Either::V4(addr) => nets.contain(addr),
            Either::V6(_) => panic!("not asked for"),
        };
        assert!(!holds(&ServiceNets::default(), "0.0.0.0"));
        let nets = ServiceNets::new([net("0.0.0.0", 0), net("10.96.0.0", 16), net("10.98.0.0", 16)]);
        assert!(holds(&nets, "10.96.1.2") && holds(&nets, "10.98.1.2"));
        assert!(!holds(&nets, "10.97.1.2") && !holds(&nets, "0.0.0.0"));
    }

    #[test]
    fn a_prefix_holds_the_addresses_with_its_first_bits() {
        for (net, len, inside, outside) in [
            ("10.96.0.0", 12, "10.111.255.255", "10.112.0.0"),
            ("10.96.0.7", 32, "10.96.0.7", "10.96.0.6"),
            ("10.96.7.7", 16, "10.96.0.0", "10.97.0.0"),
            ("fd00:10:96::", 108, "fd00:10:96::f:ffff", "fd00:10:96::10:0"),
            ("fd00:10:96::", 48, "fd00:10:96:7::", "fd00:10:97::"),
            ("fd00::", 128, "fd00::", "fd00::1"),
        ] {
            let [inside, outside] = [inside, outside].map(|addr| from_ip(addr.parse().unwrap()));
            let holds = |addr| match (EitherPrefix::new(net.parse().unwrap(), len), addr) {
                (EitherPrefix::V4(prefix), Either::V4(addr)) => prefix.contains(addr),
                (EitherPrefix::V6(prefix), Either::V6(addr)) => prefix.contains(addr),
                _ => panic!("two families"),
            };
            assert!(holds(inside) && !holds(outside), "{net}/{len}");
        }
        assert_eq!(
            EitherPrefix::new("10.0.0.1".parse().unwrap(), 0),
            EitherPrefix::V4(Prefix { net: 0, mask: 0 }),
            "all of them"
        );
    }
}
