//! ICMP (RFC 792) and ICMPv6 (RFC 4443) messages: 8 bytes of header, and what they are about behind them.

use super::transport;

/// Length of a message's header, in bytes. An error quotes the packet that it is about behind it.
pub const LEN: usize = 8;
/// How much of the quoted packet's transport header an error quotes at least, in bytes (RFC 792): that holds the ports.
pub const QUOTED_LEN: usize = 8;

/// Type and code of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The type.
    pub kind: u8,
    /// What it is more precisely.
    pub code: u8,
}

impl Kind {
    const fn new(kind: u8, code: u8) -> Self {
        Self { kind, code }
    }

    /// The first word of a message with that checksum, bytes as in the packet.
    #[inline(always)]
    pub const fn word(self, checksum: u16) -> u32 {
        transport::ports_word(u16::from_ne_bytes([self.kind, self.code]), checksum)
    }
}

/// What a message is, as far as the datapath asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Message {
    /// Asks for an answer with the same content.
    Echo = 1,
    /// Quotes a packet, and says what became of it.
    Error = 2,
    /// Anything else. Redirects and source quench tell routers and hosts of the link something about an address: they
    /// mean nothing beyond it.
    Other = 3,
}

/// What an ICMP message of that type is.
#[inline(always)]
pub const fn message(kind: u8) -> Message {
    match kind {
        8 => Message::Echo,
        // Unreachable, time exceeded, parameter problem.
        3 | 11 | 12 => Message::Error,
        _ => Message::Other,
    }
}

/// What an ICMPv6 message of that type is.
#[inline(always)]
pub const fn message_v6(kind: u8) -> Message {
    match kind {
        128 => Message::Echo,
        // Unreachable, packet too big, time exceeded, parameter problem.
        1..=4 => Message::Error,
        _ => Message::Other,
    }
}

/// Destination unreachable: port unreachable.
pub const PORT_UNREACHABLE: Kind = Kind::new(3, 3);
/// Destination unreachable: fragmentation needed (RFC 1191).
pub const FRAGMENTATION_NEEDED: Kind = Kind::new(3, 4);
/// Time exceeded in transit.
pub const TIME_EXCEEDED: Kind = Kind::new(11, 0);
/// Destination unreachable: port unreachable, of ICMPv6.
pub const PORT_UNREACHABLE_V6: Kind = Kind::new(1, 4);
/// Packet too big, of ICMPv6.
pub const PACKET_TOO_BIG: Kind = Kind::new(2, 0);
/// Time exceeded in transit, of ICMPv6.
pub const TIME_EXCEEDED_V6: Kind = Kind::new(3, 0);
