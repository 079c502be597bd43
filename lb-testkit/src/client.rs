//! Clients that run in a host's namespace.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use crate::{
    error::{Error, Result},
    host::Host,
};

/// How long an answer may take. More than the second after which TCP sends again what was lost, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(5);

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
    line.split_once(' ')
        .and_then(|(server, client)| {
            Some(Answer {
                server: server.to_owned(),
                client: client.parse().ok()?,
                peer,
            })
        })
        .ok_or_else(|| Error::unexpected(&peer, format!("an answer of {text:?}")))
}

/// An answer that ends with what was sent.
fn parse_echo(answer: &str, sent: &str, peer: SocketAddr) -> Result<Answer> {
    if !answer.ends_with(sent) {
        return Err(Error::unexpected(&peer, format!("an answer of {answer:?}")));
    }
    parse(answer, peer)
}

/// An HTTP connection that stays open between requests.
#[derive(Debug)]
pub struct Connection {
    addr: SocketAddr,
    peer: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects from a host to `addr`.
    ///
    /// # Errors
    ///
    /// If the connection is refused, or takes longer than five seconds.
    pub fn open(host: &Host, addr: SocketAddr) -> Result<Self> {
        Self::open_within(host, addr, PATIENCE)
    }

    fn open_within(host: &Host, addr: SocketAddr, limit: Duration) -> Result<Self> {
        let connect = || {
            let stream = TcpStream::connect_timeout(&addr, limit)?;
            stream.set_read_timeout(Some(limit))?;
            Ok((stream.peer_addr()?, stream))
        };
        let (peer, stream) = host.run(connect)?.map_err(Error::io::<io::Error>(
            "connect to",
            format!("{addr} from {}", host.name),
        ))?;
        Ok(Self {
            addr,
            peer,
            stream: BufReader::new(stream),
        })
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    ///
    /// If the connection has ended, an answer takes longer than five seconds, or it is none of a [`crate::Server`]. Where
    /// the connection has ended, the error is an [`Error::Io`].
    pub fn ask(&mut self) -> Result<Answer> {
        let body = self.exchange("GET / HTTP/1.1\r\nHost: lab\r\n\r\n")?;
        parse(&body, self.peer)
    }

    /// Sends a text as the body of a request and reads it back.
    fn echo(&mut self, text: &str) -> Result<Answer> {
        let body = self.exchange(&format!(
            "POST / HTTP/1.1\r\nHost: lab\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        ))?;
        parse_echo(&body, text, self.peer)
    }

    fn exchange(&mut self, request: &str) -> Result<String> {
        self.try_exchange(request)
            .map_err(Error::io("get an answer from", self.addr))
    }

    /// The body of the answer to one request.
    fn try_exchange(&mut self, request: &str) -> io::Result<String> {
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut length = 0;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

/// Asks over HTTP, by a new connection.
///
/// # Errors
///
/// As [`Connection::open`] and [`Connection::ask`].
pub fn http_get(host: &Host, addr: SocketAddr) -> Result<Answer> {
    Connection::open(host, addr)?.ask()
}

/// Sends a text over HTTP, by a new connection, and gets it back.
///
/// # Errors
///
/// As [`http_get`], and if something else comes back.
pub fn http_echo(host: &Host, addr: SocketAddr, text: &str) -> Result<Answer> {
    Connection::open(host, addr)?.echo(text)
}

/// As [`http_get`], where it may well be that nothing is heard: connection and answer may each take that long.
///
/// # Errors
///
/// As [`http_get`].
pub fn http_get_within(host: &Host, addr: SocketAddr, limit: Duration) -> Result<Answer> {
    Connection::open_within(host, addr, limit)?.ask()
}

/// Asks by one UDP datagram from a new socket; with `connected`, of a connected socket. The answer's `peer` is where the
/// answer came from.
///
/// # Errors
///
/// If no answer comes within five seconds, or one that does not hold what was sent.
pub fn udp_ask(host: &Host, addr: SocketAddr, connected: bool) -> Result<Answer> {
    udp_ask_within(host, addr, connected, PATIENCE)
}

/// As [`udp_ask`], where it may well be that nothing is heard: the answer may take that long.
///
/// # Errors
///
/// As [`udp_ask`].
pub fn udp_ask_within(host: &Host, addr: SocketAddr, connected: bool, limit: Duration) -> Result<Answer> {
    datagram(host, addr, "ask", connected, limit)
}

/// Sends a text in one UDP datagram, of a socket that is not connected, and gets it back.
///
/// # Errors
///
/// As [`udp_ask`].
pub fn udp_echo(host: &Host, addr: SocketAddr, text: &str) -> Result<Answer> {
    datagram(host, addr, text, false, PATIENCE)
}

fn datagram(host: &Host, addr: SocketAddr, sent: &str, connected: bool, limit: Duration) -> Result<Answer> {
    let exchange = || {
        let any: IpAddr = if addr.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(limit))?;
        if connected {
            socket.connect(addr)?;
            socket.send(sent.as_bytes())?;
        } else {
            socket.send_to(sent.as_bytes(), addr)?;
        }
        let mut buffer = vec![0; 65_536];
        let (len, from) = socket.recv_from(&mut buffer)?;
        Ok((String::from_utf8_lossy(&buffer[..len]).into_owned(), from))
    };
    let (text, from) = host.run(exchange)?.map_err(Error::io::<io::Error>(
        "get a datagram from",
        format!("{addr} at {}", host.name),
    ))?;
    parse_echo(&text, sent, from)
}
