//! Clients that run in a host's namespace.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::host::Host;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a [`crate::Server`] said, and how the client saw the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Name of the host that answered.
    pub server: String,
    /// The client's address as the server saw it.
    pub client: SocketAddr,
    /// The peer's address as the client's socket shows it.
    pub peer: SocketAddr,
}

fn parse(text: &str, peer: SocketAddr) -> Result<Answer> {
    let line = text.lines().next().unwrap_or_default();
    let (server, client) = line
        .split_once(' ')
        .with_context(|| format!("an answer of {text:?}"))?;
    Ok(Answer {
        server: server.to_owned(),
        client: client.parse()?,
        peer,
    })
}

/// Asks over HTTP, by a new connection.
///
/// # Errors
///
/// If the connection is refused, or an answer takes longer than two seconds.
pub fn http_get(host: &Host, addr: SocketAddr) -> Result<Answer> {
    host.run(|| {
        let mut stream =
            TcpStream::connect_timeout(&addr, PATIENCE).with_context(|| format!("connect to {addr}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let peer = stream.peer_addr()?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        let mut buffer = [0; 1024];
        // The server keeps the connection open: the answer is complete with its second newline after the head.
        while !text
            .split_once("\r\n\r\n")
            .is_some_and(|(_, body)| body.ends_with('\n'))
        {
            let len = stream
                .read(&mut buffer)
                .with_context(|| format!("read from {addr}"))?;
            if len == 0 {
                bail!("{addr} closed the connection after {text:?}");
            }
            text.push_str(&String::from_utf8_lossy(&buffer[..len]));
        }
        parse(
            text.split_once("\r\n\r\n")
                .map(|(_, body)| body)
                .unwrap_or_default(),
            peer,
        )
    })
}

/// Asks by one UDP datagram from a new socket; with `connected`, of a connected socket. The answer's `peer` is where the
/// answer came from.
///
/// # Errors
///
/// If no answer comes within two seconds, or one that does not hold what was sent.
pub fn udp_ask(host: &Host, addr: SocketAddr, connected: bool) -> Result<Answer> {
    const WORD: &str = "ask";
    host.run(|| {
        let any: IpAddr = if addr.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        if connected {
            socket.connect(addr)?;
            socket.send(WORD.as_bytes())?;
        } else {
            socket.send_to(WORD.as_bytes(), addr)?;
        }
        let mut buffer = [0; 1024];
        let (len, from) = socket
            .recv_from(&mut buffer)
            .with_context(|| format!("an answer of {addr}"))?;
        let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
        if !text.ends_with(WORD) {
            bail!("{addr} answered {text:?}");
        }
        parse(&text, from)
    })
}
