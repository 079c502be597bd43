//! Sockets to listen on.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use tokio::net::TcpListener;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens on an address of which the node may be losing or getting it just now: it need not have it (yet).
///
/// # Errors
///
/// What the kernel said: `EADDRINUSE` if the port is taken.
pub(crate) fn anywhere(addr: SocketAddr) -> io::Result<TcpListener> {
    open(addr, true)
}

/// Listens on an address of the node. An unspecified one means all of both IP versions, whichever of the two it is
/// written in, as in kube-proxy (`favoriteAddrFamily` in Go's `net`); on a node without IPv6, all of IPv4.
///
/// # Errors
///
/// What the kernel said.
pub(crate) fn on(addr: SocketAddr) -> io::Result<TcpListener> {
    if !addr.ip().is_unspecified() {
        return open(addr, false);
    }
    let both = SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), addr.port());
    match open(both, false) {
        // IPv6 is compiled out, disabled at boot, or disabled by sysctl.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
            ) =>
        {
            open(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), addr.port()), false)
        }
        other => other,
    }
}

fn open(addr: SocketAddr, free: bool) -> io::Result<TcpListener> {
    let family = match addr {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    // Connections of a former agent may linger.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if addr.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !addr.ip().is_unspecified())?;
    }
    match addr {
        SocketAddr::V4(_) if free => sockopt::set_ip_freebind(&socket, true)?,
        SocketAddr::V6(_) if free => sockopt::set_ipv6_freebind(&socket, true)?,
        _ => {}
    }
    bind(&socket, &addr)?;
    listen(&socket, BACKLOG)?;
    TcpListener::from_std(socket.into())
}
