//! Requests that go on while something else happens.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::{Host, http_get};

/// Asks all the time while `work` is done, each client its address, and makes sure that every answer came.
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
    let stop = AtomicBool::new(false);
    let ask = |client: &Host, addr: SocketAddr| -> Result<()> {
        let mut asked = 0u64;
        while !stop.load(Ordering::Relaxed) {
            http_get(client, addr)
                .with_context(|| format!("{} asks {addr} while something else goes on", client.name))?;
            asked += 1;
        }
        ensure!(asked > 0, "{} asked nothing", client.name);
        Ok(())
    };
    thread::scope(|scope| {
        let ask = &ask;
        let clients: Vec<_> = asking
            .iter()
            .map(|(client, addr)| scope.spawn(move || ask(client, *addr)))
            .collect();
        let done = work();
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        done
    })
}
