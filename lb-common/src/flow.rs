//! What is known of a flow from the packets that were seen of it.
//!
//! Each direction has an entry of its own and writes only that one, so that the two directions, which run on
//! different CPUs, never write one cache line. A direction notes which kinds of segments it has seen; the state of
//! the connection is worked out from both notes when somebody asks.
//!
//! ```text
//!                 forward has seen       reply has seen
//!   Syn           only SYN               nothing or SYN
//!   Established   anything further       anything further
//!   Closing       FIN or RST in either direction
//! ```
//!
//! Time is passed in, in ns of the monotonic clock.

use crate::{
    abi::{Flow, proto},
    limits::{TCP_CLOSING_TIMEOUT_NS, TCP_ESTABLISHED_TIMEOUT_NS, TCP_SYN_TIMEOUT_NS, UDP_TIMEOUT_NS},
};

/// TCP header flags (RFC 9293, section 3.1), the low eight of them.
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 0x10;
}

/// What one direction of a flow has seen: bits of [`Flow::seen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Seen(pub u8);

impl Seen {
    /// A segment with SYN.
    pub const SYN: u8 = 1;
    /// A segment without SYN: the sender has got an answer.
    pub const DATA: u8 = 2;
    /// A segment with FIN.
    pub const FIN: u8 = 4;
    /// A segment with RST.
    pub const RST: u8 = 8;

    /// What a packet tells: its TCP flags, or nothing for UDP.
    #[inline(always)]
    pub const fn of(protocol: u8, tcp_flags: u8) -> Self {
        if protocol != proto::TCP {
            return Self(0);
        }
        let mut seen = if tcp_flags & tcp::SYN != 0 {
            Self::SYN
        } else {
            Self::DATA
        };
        if tcp_flags & tcp::FIN != 0 {
            seen |= Self::FIN;
        }
        if tcp_flags & tcp::RST != 0 {
            seen |= Self::RST;
        }
        Self(seen)
    }

    /// Whether `noted` lacks something of this.
    #[inline(always)]
    pub const fn is_news_to(self, noted: u8) -> bool {
        self.0 & !noted != 0
    }
}

/// Where a flow is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// TCP: the client asked, nobody has answered for certain.
    Syn,
    /// TCP: data may flow.
    Established,
    /// TCP: somebody closed or reset the connection.
    Closing,
    /// UDP has no states.
    Udp,
}

impl State {
    /// The state that what both directions have seen amounts to.
    #[inline(always)]
    pub const fn of(protocol: u8, forward: u8, reply: u8) -> Self {
        let both = forward | reply;
        if protocol != proto::TCP {
            Self::Udp
        } else if both & (Seen::FIN | Seen::RST) != 0 {
            Self::Closing
        } else if both & Seen::DATA != 0 {
            Self::Established
        } else {
            Self::Syn
        }
    }

    /// How long (ns) a flow in this state is kept without a packet.
    #[inline(always)]
    pub const fn timeout(self) -> u64 {
        match self {
            Self::Syn => TCP_SYN_TIMEOUT_NS,
            Self::Established => TCP_ESTABLISHED_TIMEOUT_NS,
            Self::Closing => TCP_CLOSING_TIMEOUT_NS,
            Self::Udp => UDP_TIMEOUT_NS,
        }
    }
}

/// Whether a packet that opens a connection (TCP SYN without ACK, any UDP datagram) may be taken for the start of a
/// new one although entries of its flow exist: the old flow was closed, or nothing was heard of it for long.
///
/// `reply` is the other direction's entry, if it still exists.
#[inline(always)]
pub fn is_over<A>(protocol: u8, forward: &Flow<A>, reply: Option<&Flow<A>>, now: u64) -> bool {
    let (reply_seen, reply_last) = match reply {
        Some(reply) => (reply.seen, reply.last_seen),
        None => (0, 0),
    };
    let state = State::of(protocol, forward.seen, reply_seen);
    let last = if reply_last > forward.last_seen {
        reply_last
    } else {
        forward.last_seen
    };
    matches!(state, State::Closing) || now.saturating_sub(last) > state.timeout()
}

#[cfg(test)]
#[path = "flow_tests.rs"]
mod tests;
