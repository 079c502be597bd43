//! Large transfers, compared by checksum.

use std::{
    io::{Read, Write},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use rustix::net::sockopt;

use crate::{
    error::{Error, Result},
    host::Host,
};

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// How long either side may be silent.
const PATIENCE: Duration = Duration::from_secs(20);
const CHUNK: usize = 256 * 1024;

/// Sends `bytes` pseudo-random bytes over one TCP connection from `client` to `addr`, which must lead to `server`'s port
/// `port`, and compares what was sent with what arrived.
///
/// # Errors
///
/// If the connection fails or stalls, or what arrived is not what was sent.
pub fn transfer(
    client: &Host,
    addr: SocketAddr,
    server: &Host,
    port: u16,
    bytes: usize,
    direction: Direction,
) -> Result<()> {
    let listener = server
        .run(|| TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))))?
        .map_err(Error::io("bind", format!("TCP port {port} of {}", server.name)))?;
    // The client may be somewhere else, whatever it thinks.
    sockopt::set_socket_timeout(&listener, sockopt::Timeout::Recv, Some(PATIENCE))
        .map_err(Error::io("limit", "the patience of a server"))?;
    let (at_server, at_client) = thread::scope(|scope| {
        let serving = scope.spawn(|| -> Result<u64> {
            let (stream, _) = listener.accept().map_err(Error::io("accept at", &server.name))?;
            one_side(stream, bytes, direction == Direction::Down)
        });
        let connected = client.run(|| {
            let stream =
                TcpStream::connect_timeout(&addr, PATIENCE).map_err(Error::io("connect to", addr))?;
            one_side(stream, bytes, direction == Direction::Up)
        });
        // Nobody comes any more. A client that has sent all may be done before it is accepted. It fails only if the socket is
        // dead already.
        if !matches!(connected, Ok(Ok(_))) {
            let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
        }
        let served = serving
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        connected.flatten().and_then(|at_client| Ok((served?, at_client)))
    })?;
    if at_server != at_client {
        return Err(Error::unexpected(
            &format!("{bytes} bytes, {direction:?}, by {addr}"),
            "what arrived differs from what was sent",
        ));
    }
    Ok(())
}

/// Sends or receives all bytes and returns their checksum.
fn one_side(mut stream: TcpStream, bytes: usize, sends: bool) -> Result<u64> {
    for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
        set(&stream, Some(PATIENCE)).map_err(Error::io("limit", "the patience of a transfer"))?;
    }
    let mut sum = Sum::new();
    let mut buffer = vec![0; CHUNK];
    let mut left = bytes;
    let mut random = 0x5eed_u64;
    while left > 0 {
        let len = left.min(CHUNK);
        if sends {
            for word in buffer.chunks_exact_mut(8) {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                word.copy_from_slice(&(random ^ (random >> 29)).to_ne_bytes());
            }
            stream
                .write_all(&buffer[..len])
                .map_err(Error::io("send", "a transfer"))?;
        } else {
            stream
                .read_exact(&mut buffer[..len])
                .map_err(Error::io("receive", format!("the last {left} of {bytes} bytes")))?;
        }
        sum.add(&buffer[..len]);
        left -= len;
    }
    if sends {
        stream
            .shutdown(Shutdown::Write)
            .map_err(Error::io("end", "a transfer"))?;
    }
    // Both sides see the other's end, so no late byte goes unnoticed.
    let mut rest = Vec::new();
    if !sends {
        stream
            .read_to_end(&mut rest)
            .map_err(Error::io("await the end of", "a transfer"))?;
        if !rest.is_empty() {
            return Err(Error::unexpected(
                "a transfer",
                format!("{} bytes more than were sent", rest.len()),
            ));
        }
    }
    Ok(sum.0)
}

/// FNV-1a over words: depends on every bit and on the order.
struct Sum(u64);

impl Sum {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.0 = (self.0 ^ u64::from_ne_bytes(*word)).wrapping_mul(0x0000_0100_0000_01b3);
            // A product carries upwards only: bring the high bits down.
            self.0 ^= self.0 >> 32;
        }
        for byte in rest {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
