//! The sockets of this network namespace, as `ss` sees them: `NETLINK_SOCK_DIAG` (sock_diag(7)).

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use rtnetlink::{packet_core::NLM_F_DUMP, sys::protocols::NETLINK_SOCK_DIAG};

use super::netlink::Netlink;

/// A connected UDP socket.
#[derive(Clone, Debug)]
pub(super) struct ConnectedUdp {
    family: u8,
    id: SocketId,
}

impl ConnectedUdp {
    /// The number that the kernel knows it by: what `bpf_get_socket_cookie` returns.
    pub(super) const fn cookie(&self) -> u64 {
        // Two words, the low one first (`sock_diag_save_cookie` of the kernel).
        let [a, b, c, d, e, f, g, h] = self.id.cookie;
        u32::from_ne_bytes([a, b, c, d]) as u64 | (u32::from_ne_bytes([e, f, g, h]) as u64) << 32
    }

    /// Whom it is connected to. An IPv4 peer of an IPv6 socket is an IPv4 address.
    pub(super) fn peer(&self) -> SocketAddr {
        let ip: IpAddr = self.id.destination_address.to_canonical();
        SocketAddr::new(ip, self.id.destination_port)
    }
}

/// The way to the kernel's table of sockets.
pub(super) struct Diag(Netlink);

impl Diag {
    /// Opens it for the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(super) fn open() -> io::Result<Self> {
        Netlink::open(NETLINK_SOCK_DIAG).map(Self)
    }

    /// All connected UDP sockets.
    ///
    /// # Errors
    ///
    /// What the kernel says: ENOENT if it was built without `CONFIG_INET_UDP_DIAG`.
    pub(super) fn connected_udp(&self) -> io::Result<Vec<ConnectedUdp>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let answers = self.0.ask(request(family, SocketId::new_v4()), NLM_F_DUMP)?;
            for answer in answers {
                if let SockDiagMessage::InetResponse(response) = answer {
                    let id = response.header.socket_id;
                    found.push(ConnectedUdp { family, id });
                }
            }
        }
        Ok(found)
    }

    /// Closes a socket: it is connected no longer. Its process gets ECONNABORTED where it receives, or waits for it, and
    /// EDESTADDRREQ where it sends.
    ///
    /// # Errors
    ///
    /// What the kernel says: ENOENT if it is gone or connected elsewhere by now, EOPNOTSUPP if the kernel was built without
    /// `CONFIG_INET_DIAG_DESTROY`.
    pub(super) fn destroy(&self, socket: &ConnectedUdp) -> io::Result<()> {
        let request = SockDiagDestroy::new(request(socket.family, socket.id.clone()));
        self.0.ask::<_, SockDiagMessage>(request, 0).map(drop)
    }
}

fn request(family: u8, socket_id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_UDP,
        extensions: ExtensionFlags::empty(),
        // Of a UDP socket: it is connected.
        states: StateFlags::ESTABLISHED,
        socket_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_and_mapped_peers_are_read() {
        let mut id = SocketId::new_v6();
        id.cookie = [0, 1].map(u32::to_ne_bytes).concat().try_into().unwrap();
        id.destination_address = "::ffff:192.0.2.1".parse().unwrap();
        id.destination_port = 53;
        let socket = ConnectedUdp { family: AF_INET6, id };
        assert_eq!(socket.cookie(), 1 << 32);
        assert_eq!(socket.peer(), "192.0.2.1:53".parse().unwrap());
    }
}
