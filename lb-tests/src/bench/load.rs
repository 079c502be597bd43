//! Connections and requests a second, between our own clients and servers.
//!
//! A request and its answer are 64 bytes each. Servers and clients are threads that do nothing else, so a figure tells what
//! the way between them costs; all of them and the proxy share the machine's CPUs.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lb_testkit::Host;

use super::{proxies, services::TARGETS};

/// Threads that ask at the same time: enough that no CPU has time to sleep. To wake it costs a virtual machine more than a
/// request does, and figures would be about that.
const CLIENTS: usize = 16;
/// Threads that serve connections of one request, and as many that serve datagrams.
const SERVERS: usize = 4;
/// Size of a request and of an answer.
const MESSAGE: usize = 64;
/// How long an answer may take. A lost datagram counts as a failure, and the run goes on.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often servers look whether they are to stop.
const LOOK: Duration = Duration::from_millis(50);

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Load {
    /// TCP: connect, ask, be answered, be closed.
    Connections,
    /// TCP: ask and be answered over connections that stay.
    Requests,
    /// UDP: ask and be answered, from one socket.
    Datagrams,
}

impl Load {
    /// Which of [`TARGETS`] serves it.
    pub(crate) const fn target(self) -> usize {
        match self {
            Self::Requests | Self::Datagrams => 0,
            Self::Connections => 1,
        }
    }
}

/// Servers for all loads in a host's namespace. They stop when the value is dropped.
pub(crate) struct Servers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Servers {
    /// Starts them.
    ///
    /// # Errors
    ///
    /// If a port cannot be bound.
    pub(crate) fn start(host: &Host) -> Result<Self> {
        // A connection that is over leaves nothing behind. Proxies lead clients by different addresses to the same server,
        // which would take the next one's connections for those of the one before it, and make them wait for a second.
        proxies::set(host, &[("ipv4/tcp_max_tw_buckets", "0")])?;
        let any = |nth: usize| SocketAddr::from((Ipv4Addr::UNSPECIFIED, TARGETS[nth]));
        let bind = || -> io::Result<_> {
            let stay = TcpListener::bind(any(0))?;
            let once = TcpListener::bind(any(1))?;
            let udp = UdpSocket::bind(any(0))?;
            stay.set_nonblocking(true)?;
            once.set_nonblocking(true)?;
            udp.set_read_timeout(Some(LOOK))?;
            Ok((stay, once, udp))
        };
        let (stay, once, udp) = host
            .run(bind)?
            .with_context(|| format!("bind ports {TARGETS:?} on {}", host.name))?;
        let mut servers = Self {
            stop: Arc::default(),
            threads: Vec::new(),
        };
        servers.spawn(move |stop| serve_stay(&stay, stop));
        for _ in 0..SERVERS {
            let (once, udp) = (once.try_clone()?, udp.try_clone()?);
            servers.spawn(move |stop| serve_once(&once, stop));
            servers.spawn(move |stop| serve_datagrams(&udp, stop));
        }
        Ok(servers)
    }

    fn spawn(&mut self, serve: impl FnOnce(&Arc<AtomicBool>) + Send + 'static) {
        let stop = self.stop.clone();
        self.threads.push(thread::spawn(move || serve(&stop)));
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A server that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// The next connection; none when the servers are to stop.
fn accept(listener: &TcpListener, stop: &AtomicBool) -> Option<TcpStream> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let look = Timespec {
        tv_sec: 0,
        tv_nsec: LOOK.as_nanos() as i64,
    };
    while !stop.load(Ordering::Relaxed) {
        // Another thread may have been faster.
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).ok()?;
            return Some(stream);
        }
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        // Interrupted or not: the loop looks again.
        let _ = poll(&mut fds, Some(&look));
    }
    None
}

fn serve_once(listener: &TcpListener, stop: &AtomicBool) {
    let mut message = [0; MESSAGE];
    while let Some(mut stream) = accept(listener, stop) {
        // A client that goes away in the middle is its own affair.
        let _ = stream.set_read_timeout(Some(PATIENCE));
        if stream.read_exact(&mut message).is_ok() {
            let _ = stream.write_all(&message);
        }
    }
}

fn serve_stay(listener: &TcpListener, stop: &Arc<AtomicBool>) {
    let mut threads = Vec::new();
    while let Some(mut stream) = accept(listener, stop) {
        let stop = stop.clone();
        threads.push(thread::spawn(move || {
            let mut message = [0; MESSAGE];
            let _ = stream.set_nodelay(true);
            let _ = stream.set_read_timeout(Some(PATIENCE));
            while !stop.load(Ordering::Relaxed) && stream.read_exact(&mut message).is_ok() {
                if stream.write_all(&message).is_err() {
                    break;
                }
            }
        }));
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn serve_datagrams(socket: &UdpSocket, stop: &AtomicBool) {
    let mut message = [0; MESSAGE];
    while !stop.load(Ordering::Relaxed) {
        // Nothing came within the timeout, or a client's port was unreachable.
        if let Ok((len, peer)) = socket.recv_from(&mut message) {
            let _ = socket.send_to(&message[..len], peer);
        }
    }
}

/// How many connections or requests a second clients on a host get, measured for about so long.
///
/// # Errors
///
/// If none works, with the first error.
pub(crate) fn rate(host: &Host, load: Load, addr: SocketAddr, time: Duration) -> Result<f64> {
    let done = AtomicU64::new(0);
    let failure: Mutex<Option<io::Error>> = Mutex::new(None);
    let failures = AtomicU64::new(0);
    let work = || {
        let begin = Instant::now();
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    while begin.elapsed() < time {
                        if let Err(error) = ask(load, addr, begin, time, &done) {
                            failures.fetch_add(1, Ordering::Relaxed);
                            if let Ok(mut first) = failure.lock() {
                                first.get_or_insert(error);
                            }
                        }
                    }
                });
            }
        });
    };
    host.run(work)?;
    let (done, failures) = (done.into_inner(), failures.into_inner());
    let first = failure.into_inner().ok().flatten();
    // A figure with waiting in it would be about the waiting.
    if done == 0 || failures > done / 1000 {
        let error = first.map_or_else(|| "no error".to_owned(), |error| error.to_string());
        bail!(
            "{failures} of {} attempts failed, the first with: {error}",
            done + failures
        );
    }
    // A client that waits for what was lost is over time; what the others did is not.
    Ok(done as f64 / time.as_secs_f64())
}

/// One connection, or requests until the time is over.
fn ask(load: Load, addr: SocketAddr, begin: Instant, time: Duration, done: &AtomicU64) -> io::Result<()> {
    let mut message = [1; MESSAGE];
    if load == Load::Datagrams {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(addr)?;
        while begin.elapsed() < time {
            socket.send(&message)?;
            socket.recv(&mut message)?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        return Ok(());
    }
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    if load == Load::Connections {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        // The server closes: the client's port is free again at once.
        while stream.read(&mut message)? != 0 {}
        done.fetch_add(1, Ordering::Relaxed);
        return Ok(());
    }
    while begin.elapsed() < time {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        done.fetch_add(1, Ordering::Relaxed);
    }
    stream.shutdown(Shutdown::Both)
}
