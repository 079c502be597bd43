//! Servers that say who they are and whom they talk to.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    error::{Error, Result},
    host::Host,
};

/// How often the UDP server looks whether it is to stop.
const UDP_LOOK: Duration = Duration::from_millis(50);
/// Pause after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(5);

/// HTTP over TCP, and UDP, on one port, in a host's namespace. Each answer is `<name> <address and port of the client>`
/// and a newline, and then what was sent: the body of the request, or the datagram.
///
/// When it is dropped, it is as a process that ended: its port is free and its connections are closed, whatever state
/// they were in.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    listener: TcpListener,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts to serve on `port`, for IPv4 and IPv6. UDP is served at the host's own addresses only: a socket of all
    /// addresses would answer from the one that the route back prefers, which on a node need not be the one that was asked.
    ///
    /// # Errors
    ///
    /// If the port cannot be bound.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let own: [SocketAddr; 2] = [(host.v4, port).into(), (host.v6, port).into()];
        // On Linux a wildcard IPv6 socket takes IPv4 as well. Sockets stay in the namespace that they were made in.
        let (tcp, udp) = host.run(|| (TcpListener::bind(any), own.map(UdpSocket::bind)))?;
        let tcp = tcp.map_err(Error::io("bind", format!("TCP port {port} of {}", host.name)))?;
        let udp = udp
            .into_iter()
            .collect::<io::Result<Vec<_>>>()
            .map_err(Error::io("bind", format!("UDP port {port} of {}", host.name)))?;
        for udp in &udp {
            udp.set_read_timeout(Some(UDP_LOOK))
                .map_err(Error::io("limit", "the patience of a server"))?;
        }
        let listener = tcp
            .try_clone()
            .map_err(Error::io("duplicate", "a server's socket"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = vec![spawn(host.name.clone(), stop.clone(), move |name, stop| {
            serve_tcp(&tcp, name, stop);
        })];
        threads.extend(udp.into_iter().map(|udp| {
            spawn(host.name.clone(), stop.clone(), move |name, stop| {
                serve_udp(&udp, name, stop);
            })
        }));
        Ok(Self {
            stop,
            listener,
            threads,
        })
    }
}

fn spawn(
    name: String,
    stop: Arc<AtomicBool>,
    work: impl FnOnce(&str, &AtomicBool) + Send + 'static,
) -> JoinHandle<()> {
    thread::spawn(move || work(&name, &stop))
}

/// The address in its own family: an IPv6 socket shows IPv4 clients as mapped addresses.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn serve_tcp(listener: &TcpListener, name: &str, stop: &AtomicBool) {
    let mut open: Vec<(TcpStream, JoinHandle<()>)> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        open.retain(|(_, thread)| !thread.is_finished());
        // A connection can be gone before it is accepted.
        let Ok((stream, peer)) = listener.accept() else {
            thread::sleep(PAUSE);
            continue;
        };
        let Ok(answering) = stream.try_clone() else {
            continue;
        };
        let name = name.to_owned();
        let thread = thread::spawn(move || {
            // A client that goes away in the middle is its own affair.
            let _ = answer(&answering, &name, peer);
            // Closing it is not enough: the other one of the two handles keeps it open.
            let _ = answering.shutdown(Shutdown::Both);
        });
        open.push((stream, thread));
    }
    for (stream, thread) in open {
        // It ends the thread's read or write; it fails if the connection has ended already.
        let _ = stream.shutdown(Shutdown::Both);
        let _ = thread.join();
    }
}

fn answer(mut stream: &TcpStream, name: &str, peer: SocketAddr) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        let mut length = 0;
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        line.clear();
        let mut body = format!("{name} {}\n", canonical(peer)).into_bytes();
        let own = body.len();
        body.resize(own + length, 0);
        reader.read_exact(&mut body[own..])?;
        // One write, so that a short answer is one packet.
        let mut text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        text.append(&mut body);
        stream.write_all(&text)?;
    }
}

fn serve_udp(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        // Nothing came within the read timeout, or a client's port was unreachable.
        let Ok((len, peer)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let mut reply = format!("{name} {}\n", canonical(peer)).into_bytes();
        reply.extend(&buffer[..len]);
        let _ = socket.send_to(&reply, peer);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes accept, whatever has become of the namespace, and refuses the connections that wait for it. It fails only
        // if the socket is dead already.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
