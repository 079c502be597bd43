//! The node's uplinks, as the XDP programs know them.

/// An uplink: its hardware address, and whether an XDP program works on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Uplink {
    /// Its hardware address, bytes as in a frame.
    pub hardware: [u16; 3],
    /// An [`XdpMode`] as its number.
    pub xdp: u8,
    /// Why it has that mode: an [`XdpWhy`] as its number, for people.
    pub why: u8,
}

impl Uplink {
    /// An uplink with that hardware address.
    pub const fn new(hardware: [u8; 6], xdp: XdpMode, why: XdpWhy) -> Self {
        let [a, b, c, d, e, f] = hardware;
        Self {
            hardware: [
                u16::from_ne_bytes([a, b]),
                u16::from_ne_bytes([c, d]),
                u16::from_ne_bytes([e, f]),
            ],
            xdp: xdp as u8,
            why: why as u8,
        }
    }

    /// Whether a frame that begins with these words (bytes as in the frame) is addressed to the device itself.
    #[inline(always)]
    pub const fn receives(&self, words: [u32; 2]) -> bool {
        let [first, second, third] = self.hardware;
        let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
        let [e, f, ..] = words[1].to_ne_bytes();
        words[0] == u32::from_ne_bytes([a, b, c, d]) && third == u16::from_ne_bytes([e, f])
    }

    /// Whether its XDP program runs in that mode.
    #[inline(always)]
    pub const fn has(&self, mode: XdpMode) -> bool {
        self.xdp == mode as u8
    }
}

/// How an XDP program is attached to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum XdpMode {
    /// Not at all.
    #[default]
    Off = 0,
    /// In the driver.
    Native = 1,
    /// In the stack, on socket buffers.
    Generic = 2,
}

impl XdpMode {
    /// The mode with that number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Off),
            1 => Some(Self::Native),
            2 => Some(Self::Generic),
            _ => None,
        }
    }

    /// Its name, as the flag `--xdp` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// Why a device has its XDP mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum XdpWhy {
    /// It was not attached to yet.
    #[default]
    NotYet = 0,
    /// The operator wants it so.
    Asked = 1,
    /// Automatic: the driver has native XDP.
    Driver = 2,
    /// Automatic: it is a veth.
    Veth = 3,
    /// Automatic: it is no network card.
    NoCard = 4,
    /// The driver has no native XDP.
    NoDriver = 5,
    /// Another XDP program is attached.
    Occupied = 6,
    /// The kernel refused.
    Refused = 7,
}

impl XdpWhy {
    const ALL: [Self; 8] = [
        Self::NotYet,
        Self::Asked,
        Self::Driver,
        Self::Veth,
        Self::NoCard,
        Self::NoDriver,
        Self::Occupied,
        Self::Refused,
    ];

    /// The reason with that number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|why| *why as u8 == number)
    }

    /// In words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NotYet => "the device was not attached to yet",
            Self::Asked => "as --xdp says",
            Self::Driver => "auto: the driver has native XDP",
            Self::Veth => "auto: on a veth it needs an XDP program on the other end",
            Self::NoCard => "auto: it is no network card",
            Self::NoDriver => "its driver has no native XDP; --xdp=generic works with any driver",
            Self::Occupied => "another XDP program is attached to it, which is left alone",
            Self::Refused => "the kernel refused; the agent's log says why",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_receives_frames_to_its_own_address_only() {
        let uplink = Uplink::new([2, 4, 6, 8, 10, 12], XdpMode::Native, XdpWhy::Asked);
        let words = |bytes: [u8; 6]| {
            let [a, b, c, d, e, f] = bytes;
            [
                u32::from_ne_bytes([a, b, c, d]),
                u32::from_ne_bytes([e, f, 99, 98]),
            ]
        };
        assert!(uplink.receives(words([2, 4, 6, 8, 10, 12])));
        for nth in 0..6 {
            let mut other = [2, 4, 6, 8, 10, 12];
            other[nth] ^= 1;
            assert!(!uplink.receives(words(other)), "{nth}");
        }
    }

    #[test]
    fn modes_and_reasons_are_found_by_their_numbers() {
        for mode in [XdpMode::Off, XdpMode::Native, XdpMode::Generic] {
            assert_eq!(XdpMode::from_number(mode as u8), Some(mode));
        }
        for (number, why) in (0..).zip(XdpWhy::ALL) {
            assert_eq!(XdpWhy::from_number(number), Some(why));
        }
    }
}
