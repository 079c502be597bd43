//! Packets that a host's own stack did not make.

use std::net::UdpSocket;

use anyhow::Result;
use lb_testkit::Host;
use rustix::net::{AddressFamily, Protocol, SocketType, socket};

/// A raw socket of a protocol in a host's namespace: what is sent is the payload of an IP packet. What std calls a UDP socket
/// calls the same functions of the kernel.
///
/// # Errors
///
/// If there is no such socket.
pub fn raw_socket(host: &Host, v4: bool, protocol: Protocol) -> Result<UdpSocket> {
    let family = if v4 {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    Ok(host
        .run(|| socket(family, SocketType::RAW, Some(protocol)))??
        .into())
}
