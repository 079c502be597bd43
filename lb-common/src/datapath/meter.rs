//! What service ports are counted by.
//!
//! A packet is counted where it is translated and sent on: once on each node that does so, and not if it is dropped. Errors
//! of ICMP are not, nor is what clients send to an endpoint's own address.

use super::{Packet, Tables, Work, header_len};
use crate::{
    abi::{Address, FlowKind, Meter, Traffic, proto},
    packet::ip,
    verdict::Reason,
};

/// What is added to a meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// What a frame holds.
    Frame {
        /// From the endpoint to the client, not the other way.
        reply: bool,
        /// Whether it opened a connection.
        opened: bool,
        /// Its packets and bytes.
        traffic: Traffic,
    },
    /// A socket was sent to an endpoint.
    Socket,
}

impl Meter {
    /// Adds to it.
    #[inline(always)]
    pub const fn count(&mut self, counted: &Counted) {
        match counted {
            Counted::Frame {
                reply,
                opened,
                traffic,
            } => {
                self.way(*reply).add(*traffic);
                if *opened {
                    self.connections = self.connections.wrapping_add(1);
                }
            }
            Counted::Socket => self.sockets = self.sockets.wrapping_add(1),
        }
    }
}

/// Counts the packet in `work`, which was translated for that reason.
#[inline(always)]
pub(super) fn count<F, P, T>(packet: &P, tables: &T, work: &Work<F::Addr>, reason: Reason)
where
    F: super::Family,
    P: Packet,
    T: Tables<F>,
{
    if !tables.has_meters() || work.flow.meter == Meter::NONE {
        return;
    }
    let recorded = matches!(reason, Reason::NewFlow | Reason::Rechosen);
    let counted = Counted::Frame {
        reply: work.flow.is(FlowKind::Reply),
        // A connection that was forgotten is recorded anew, and is no new one.
        opened: recorded && work.headers.opens(),
        traffic: traffic(packet, work),
    };
    tables.count(work.flow.meter, &counted);
}

/// The packets of a frame, and their bytes: those of a bundle as the wire will carry them, each with headers of its own.
#[inline(always)]
fn traffic<A: Address, P: Packet>(packet: &P, work: &Work<A>) -> Traffic {
    let headers = &work.headers;
    let bytes = (headers.transport_offset + headers.transport_len) as u64 - ip::OFFSET as u64;
    let segments = packet.segments();
    if segments <= 1 || headers.key.proto() == proto::SCTP {
        return Traffic {
            packets: segments as u64,
            bytes,
        };
    }
    Traffic {
        packets: segments as u64,
        bytes: bytes + (segments as u64 - 1) * header_len(packet, headers) as u64,
    }
}
