//! What is known of a flow from the packets that were seen of it.
//!
//! Each direction has an entry of its own and writes only that one, so that the two directions, which run on
//! different CPUs, never write one cache line. A direction notes which kinds of segments it has seen; the state of
//! the connection is worked out from both notes when somebody asks.
//!
//! ```text
//!                 one direction has seen   the other has seen
//!   Syn           only SYN                 nothing or SYN
//!   Established   anything further         anything
//!   Closing       FIN                      no FIN
//!   Closed        RST                      anything
//!                 FIN                      FIN
//!   Udp           datagrams                nothing
//!   UdpStream     datagrams                datagrams
//! ```
//!
//! SCTP goes the way of TCP, with INIT for SYN, SHUTDOWN for FIN, ABORT for RST, and timeouts of its own.
//!
//! Time is passed in, in ns of the monotonic clock.

use crate::{
    abi::{Flow, proto},
    limits,
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

/// The TCP flags that an SCTP packet amounts to by its first chunk (RFC 9260, section 3.2): those that open and close an
/// association stand alone or first.
#[inline(always)]
pub const fn sctp_flags(chunk: u8) -> u8 {
    match chunk {
        // INIT.
        1 => tcp::SYN,
        // INIT ACK.
        2 => tcp::SYN | tcp::ACK,
        // ABORT.
        6 => tcp::RST,
        // SHUTDOWN, SHUTDOWN ACK, SHUTDOWN COMPLETE.
        7 | 8 | 14 => tcp::FIN | tcp::ACK,
        _ => tcp::ACK,
    }
}

/// What one direction of a flow has seen: bits of [`Flow::seen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Seen(pub u8);

impl Seen {
    /// A segment with SYN.
    pub const SYN: u8 = 1;
    /// A segment without SYN: the sender has got an answer. Or a datagram.
    pub const DATA: u8 = 2;
    /// A segment with FIN.
    pub const FIN: u8 = 4;
    /// A segment with RST.
    pub const RST: u8 = 8;

    /// What a packet tells: its TCP flags, or what SCTP has for them ([`sctp_flags`]), or that there was a datagram.
    #[inline(always)]
    pub const fn of(protocol: u8, tcp_flags: u8) -> Self {
        if protocol == proto::UDP {
            return Self(Self::DATA);
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// TCP: the client asked, nobody has answered for certain.
    Syn,
    /// TCP: data may flow.
    Established,
    /// TCP: one side has no more to say, the other one may go on for long.
    Closing,
    /// TCP: both sides closed the connection, or one reset it.
    Closed,
    /// UDP: nobody has answered.
    Udp,
    /// UDP: datagrams went both ways.
    UdpStream,
    /// SCTP: the client asked, nobody has answered for certain.
    SctpOpening,
    /// SCTP: data may flow.
    SctpEstablished,
    /// SCTP: somebody closed or aborted the association.
    SctpClosing,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::Syn,
        Self::Established,
        Self::Closing,
        Self::Closed,
        Self::Udp,
        Self::UdpStream,
        Self::SctpOpening,
        Self::SctpEstablished,
        Self::SctpClosing,
    ];

    /// The state that what both directions have seen amounts to.
    #[inline(always)]
    pub const fn of(protocol: u8, one: u8, other: u8) -> Self {
        let both = one | other;
        if protocol == proto::SCTP {
            if both & (Seen::FIN | Seen::RST) != 0 {
                Self::SctpClosing
            } else if both & Seen::DATA != 0 {
                Self::SctpEstablished
            } else {
                Self::SctpOpening
            }
        } else if protocol != proto::TCP {
            if one & other & Seen::DATA != 0 {
                Self::UdpStream
            } else {
                Self::Udp
            }
        } else if both & Seen::RST != 0 || one & other & Seen::FIN != 0 {
            Self::Closed
        } else if both & Seen::FIN != 0 {
            Self::Closing
        } else if both & Seen::DATA != 0 {
            Self::Established
        } else {
            Self::Syn
        }
    }

    /// A word for logs, metrics and the status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Syn => "tcp_syn",
            Self::Established => "tcp_established",
            Self::Closing => "tcp_closing",
            Self::Closed => "tcp_closed",
            Self::Udp => "udp",
            Self::UdpStream => "udp_stream",
            Self::SctpOpening => "sctp_opening",
            Self::SctpEstablished => "sctp_established",
            Self::SctpClosing => "sctp_closing",
        }
    }
}

/// How long (ns) flows are kept without a packet, by their state. Those of SCTP are fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// [`State::Syn`].
    pub syn: u64,
    /// [`State::Established`].
    pub established: u64,
    /// [`State::Closing`].
    pub closing: u64,
    /// [`State::Closed`].
    pub closed: u64,
    /// [`State::Udp`].
    pub udp: u64,
    /// [`State::UdpStream`].
    pub udp_stream: u64,
}

impl Timeouts {
    /// The timeout (ns) of a state.
    #[inline(always)]
    pub const fn of(&self, state: State) -> u64 {
        match state {
            State::Syn => self.syn,
            State::Established => self.established,
            State::Closing => self.closing,
            State::Closed => self.closed,
            State::Udp => self.udp,
            State::UdpStream => self.udp_stream,
            State::SctpEstablished => limits::SCTP_ESTABLISHED_TIMEOUT_NS,
            State::SctpOpening | State::SctpClosing => limits::SCTP_CLOSED_TIMEOUT_NS,
        }
    }

    /// Those of [`limits`].
    pub const DEFAULT: Self = Self {
        syn: limits::TCP_SYN_TIMEOUT_NS,
        established: limits::TCP_ESTABLISHED_TIMEOUT_NS,
        closing: limits::TCP_CLOSING_TIMEOUT_NS,
        closed: limits::TCP_CLOSED_TIMEOUT_NS,
        udp: limits::UDP_TIMEOUT_NS,
        udp_stream: limits::UDP_STREAM_TIMEOUT_NS,
    };
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The state of a flow of which `one` is an entry and `other` that of the other direction, if it still exists; and when
/// the last packet of either was noted.
#[inline(always)]
pub const fn state_and_last<A>(protocol: u8, one: &Flow<A>, other: Option<&Flow<A>>) -> (State, u64) {
    let (other_seen, other_last) = match other {
        Some(other) => (other.seen, other.last_seen),
        None => (0, 0),
    };
    let last = if other_last > one.last_seen {
        other_last
    } else {
        one.last_seen
    };
    (State::of(protocol, one.seen, other_seen), last)
}

/// Whether nothing was heard of a flow for longer than its timeout: it can be forgotten.
///
/// `one` and `other` are its entries, the other one if it still exists; `timeout` gives a state's timeout (ns).
#[inline(always)]
pub fn is_dead<A>(
    protocol: u8,
    one: &Flow<A>,
    other: Option<&Flow<A>>,
    now: u64,
    timeout: impl Fn(State) -> u64,
) -> bool {
    let (state, last) = state_and_last(protocol, one, other);
    now.saturating_sub(last) > timeout(state)
}

/// Whether a packet that opens a connection (TCP SYN without ACK, SCTP INIT, any UDP datagram) may be taken for the start of a
/// new one although entries of its flow exist: somebody closed the old flow, or it is dead.
///
/// The client cannot send it before its own side has closed the connection, so that one FIN is enough.
#[inline(always)]
pub fn is_over<A>(
    protocol: u8,
    one: &Flow<A>,
    other: Option<&Flow<A>>,
    now: u64,
    timeout: impl Fn(State) -> u64,
) -> bool {
    let (state, _) = state_and_last(protocol, one, other);
    matches!(state, State::Closing | State::Closed | State::SctpClosing)
        || is_dead(protocol, one, other, now, timeout)
}

/// Whether another flow may take the tuple that a flow has on the wire: both sides closed it, or it is dead. A
/// connection that one side closed may go on for long.
#[inline(always)]
pub fn may_be_taken<A>(
    protocol: u8,
    one: &Flow<A>,
    other: Option<&Flow<A>>,
    now: u64,
    timeout: impl Fn(State) -> u64,
) -> bool {
    let (state, _) = state_and_last(protocol, one, other);
    matches!(state, State::Closed) || is_dead(protocol, one, other, now, timeout)
}

#[cfg(test)]
#[path = "flow_tests.rs"]
mod tests;
