//! Traffic that goes on while something happens, and of which nothing may fail.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::{self, ScopedJoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Connection, Host, http_get};

/// A client: each call is one request.
pub type Client<'a> = Box<dyn FnMut() -> Result<()> + Send + 'a>;

/// A client that opens a connection for each request.
pub fn requests<'a>(host: &'a Host, addr: SocketAddr) -> Client<'a> {
    Box::new(move || {
        http_get(host, addr)
            .map(drop)
            .with_context(|| format!("a new connection from {} to {addr}", host.name))
    })
}

/// A client with one connection, which must stay with its endpoint.
pub fn stream<'a>(host: &'a Host, addr: SocketAddr) -> Client<'a> {
    let mut open: Option<(Connection, String)> = None;
    Box::new(move || {
        let what = || format!("the stream from {} to {addr}", host.name);
        if let Some((stream, server)) = &mut open {
            let answer = stream.ask().with_context(what)?;
            ensure!(answer.server == *server, "{} changed its endpoint", what());
        } else {
            let mut stream = Connection::open(host, addr).with_context(what)?;
            let answer = stream.ask().with_context(what)?;
            open = Some((stream, answer.server));
        }
        thread::sleep(Duration::from_millis(1));
        Ok(())
    })
}

/// Between two requests of a client that may ask for minutes: each takes one of its 28,000 ports for a minute.
const PAUSE: Duration = Duration::from_millis(5);

/// Does the work while clients ask, each its address, by a new connection each time.
///
/// # Errors
///
/// A request that was not answered, or what `work` returns.
///
/// # Panics
///
/// If `work` does.
pub fn without_a_lost_request<T>(
    asking: &[(&Host, SocketAddr)],
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let clients = asking.iter().map(|(host, addr)| -> Client<'_> {
        let mut ask = requests(host, *addr);
        Box::new(move || {
            thread::sleep(PAUSE);
            ask()
        })
    });
    under_traffic(clients.collect(), 1, |_| work())
}

/// Does the work while the clients ask without a pause, each on a thread of its own. The work is told by a function
/// whether a client has failed, after which there is no point in it any more.
///
/// # Errors
///
/// The first failure of a client, else that of the work; and if a client has asked less than `least` times.
///
/// # Panics
///
/// If the work or a client does.
pub fn under_traffic<T>(
    clients: Vec<Client<'_>>,
    least: u64,
    work: impl FnOnce(&dyn Fn() -> bool) -> Result<T>,
) -> Result<T> {
    let stop = AtomicBool::new(false);
    let asked: Vec<AtomicU64> = clients.iter().map(|_| AtomicU64::new(0)).collect();
    let done = thread::scope(|scope| {
        let threads: Vec<_> = clients
            .into_iter()
            .zip(&asked)
            .map(|(mut client, asked)| {
                let stop = &stop;
                scope.spawn(move || -> Result<()> {
                    while !stop.load(Ordering::Relaxed) {
                        client()?;
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        let done = work(&|| threads.iter().any(ScopedJoinHandle::is_finished));
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        done
    })?;
    for (number, asked) in asked.iter().enumerate() {
        let asked = asked.load(Ordering::Relaxed);
        ensure!(asked >= least, "client {number} asked {asked} times only");
    }
    Ok(done)
}
