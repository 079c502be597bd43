//! Hears the ICMP errors that come to a host.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use rustix::{
    fd::OwnedFd,
    io::Errno,
    net::{AddressFamily, RecvFlags, SocketType, ipproto, recvfrom, socket, sockopt},
};

use crate::{
    error::{Error, Result},
    host::Host,
};

/// Length of the header of an ICMP error, in bytes.
const HEADER: usize = 8;

/// An ICMP error about a packet with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who says it.
    pub from: IpAddr,
    /// Type and code.
    pub kind: [u8; 2],
    /// Source and destination of the packet that it quotes.
    pub quoted: [SocketAddr; 2],
}

/// Hears whatever ICMP error comes to a host, also if none of its sockets recognises the packet that is quoted.
#[derive(Debug)]
pub struct Ears {
    socket: OwnedFd,
    v4: bool,
}

impl Ears {
    /// Begins to listen, to ICMP or to ICMPv6.
    ///
    /// # Errors
    ///
    /// If there is no such socket.
    pub fn open(host: &Host, v4: bool) -> Result<Self> {
        let (family, protocol) = if v4 {
            (AddressFamily::INET, ipproto::ICMP)
        } else {
            (AddressFamily::INET6, ipproto::ICMPV6)
        };
        let socket = host
            .run(|| socket(family, SocketType::RAW, Some(protocol)))?
            .map_err(Error::io("listen to ICMP at", &host.name))?;
        Ok(Self { socket, v4 })
    }

    /// The next error, if one comes within that time; other messages are left out.
    ///
    /// # Errors
    ///
    /// If the socket fails.
    pub fn hear(&self, limit: Duration) -> Result<Option<Heard>> {
        let end = Instant::now() + limit;
        let mut buffer = [0; 2_048];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, Some(left))
                .map_err(Error::io("limit", "the patience of ears"))?;
            match recvfrom(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, len, from)) => {
                    let from = from.and_then(|from| SocketAddr::try_from(from).ok());
                    let packet = buffer.get(..len).unwrap_or(&buffer);
                    if let Some(heard) = from.and_then(|from| self.parse(from.ip(), packet)) {
                        return Ok(Some(heard));
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(Error::io("hear", "ICMP")(error)),
            }
        }
    }

    /// Of ICMP the kernel gives the IP header too, of ICMPv6 not.
    fn parse(&self, from: IpAddr, packet: &[u8]) -> Option<Heard> {
        let header = |packet: &[u8]| Some(usize::from(packet.first()? & 0xf) * 4);
        let message = if self.v4 {
            packet.get(header(packet)?..)?
        } else {
            packet
        };
        let kind: [u8; 2] = message.get(..2)?.try_into().ok()?;
        let quote = message.get(HEADER..)?;
        let (addresses, ports) = if self.v4 {
            matches!(kind[0], 3 | 11 | 12).then_some(())?;
            let addr = |at: usize| Some(<[u8; 4]>::try_from(quote.get(at..at + 4)?).ok()?.into());
            ([addr(12)?, addr(16)?], header(quote)?)
        } else {
            (kind[0] < 128).then_some(())?;
            let addr = |at: usize| Some(<[u8; 16]>::try_from(quote.get(at..at + 16)?).ok()?.into());
            ([addr(8)?, addr(24)?], 40)
        };
        let port = |at: usize| Some(u16::from_be_bytes(quote.get(at..at + 2)?.try_into().ok()?));
        let ports = [port(ports)?, port(ports + 2)?];
        Some(Heard {
            from,
            kind,
            quoted: [0, 1].map(|nth| SocketAddr::new(addresses[nth], ports[nth])),
        })
    }
}
