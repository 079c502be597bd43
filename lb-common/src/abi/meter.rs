//! What is counted of each service port.

/// What went through a service port, as one CPU has counted it: an element of METERS. Frontends name it by its number, and
/// flows remember that number: packets of a flow are counted without a further look at its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Meter {
    /// Connections that were opened by packets.
    pub connections: u64,
    /// Connections whose sockets were sent to an endpoint. Their packets are seen by nobody.
    pub sockets: u64,
    /// From clients to endpoints.
    pub requests: Traffic,
    /// From endpoints to clients.
    pub replies: Traffic,
}

/// What went one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Traffic {
    /// IP packets, as a wire carries them.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
}

impl Meter {
    /// The number that stands for no meter.
    pub const NONE: u16 = 0;

    /// Adds what another CPU has counted.
    pub const fn add(&mut self, other: &Self) {
        self.connections = self.connections.wrapping_add(other.connections);
        self.sockets = self.sockets.wrapping_add(other.sockets);
        self.requests.add(other.requests);
        self.replies.add(other.replies);
    }

    /// What went that way.
    #[inline(always)]
    pub const fn way(&mut self, replies: bool) -> &mut Traffic {
        if replies {
            &mut self.replies
        } else {
            &mut self.requests
        }
    }
}

impl Traffic {
    /// Adds to it.
    #[inline(always)]
    pub const fn add(&mut self, other: Self) {
        self.packets = self.packets.wrapping_add(other.packets);
        self.bytes = self.bytes.wrapping_add(other.bytes);
    }
}
