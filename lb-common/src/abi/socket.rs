//! Sockets whose peer address was rewritten, and whose sockets these may be.

/// One peer of one socket, as the kernel sees it after the rewrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct SocketKey<A> {
    /// The socket (`bpf_get_socket_cookie`), as two words in memory order: a `u64` would pad the IPv6 key.
    pub cookie: [u32; 2],
    /// The endpoint's address, bytes as in the packet.
    pub addr: A,
    /// The endpoint's port, bytes as in the packet.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

impl<A> SocketKey<A> {
    /// The key of the socket's peer `addr`:`port`.
    #[inline(always)]
    pub const fn new(cookie: u64, addr: A, port: u16) -> Self {
        let b = cookie.to_ne_bytes();
        let cookie = [
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        ];
        Self {
            cookie,
            addr,
            port,
            pad: 0,
        }
    }
}

/// The frontend that the process believes it talks to, and the endpoint that was chosen for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct SocketPeer<A> {
    /// The frontend's address, bytes as in the packet.
    pub addr: A,
    /// The frontend's port, bytes as in the packet.
    pub port: u16,
    /// Zero.
    pub pad: u16,
    /// Index of the endpoint in BACKENDS.
    pub backend: u32,
    /// Generation of that slot when the endpoint was chosen: tells whether it still serves.
    pub generation: u32,
}

/// Whose network namespace it is: values of NAMESPACES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum NamespaceKind {
    /// The agent's own. Its presence says that pods are served by their sockets.
    Node = 1,
    /// A pod's of this node.
    Pod = 2,
}
