//! Forwards what the kernel programs log to the agent's log.

use std::time::Duration;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::task::JoinHandle;
use tracing::warn;

/// How often the log is looked at: somebody reads along, and the buffer of 128 KiB fills more slowly than that.
const PERIOD: Duration = Duration::from_millis(100);

/// The task that forwards; it ends with this value.
#[derive(Debug)]
pub struct Forwarding(JoinHandle<()>);

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts forwarding, if the programs log at all (`level` is not 0). Must be called inside a tokio runtime.
pub fn forward(bpf: &mut Ebpf, level: u8) -> Option<Forwarding> {
    if level == 0 {
        return None;
    }
    let mut logger = match EbpfLogger::init(bpf) {
        Ok(logger) => logger,
        Err(error) => {
            warn!("the log of the kernel programs cannot be read: {error}");
            return None;
        }
    };
    Some(Forwarding(tokio::spawn(async move {
        let mut ticks = tokio::time::interval(PERIOD);
        loop {
            ticks.tick().await;
            logger.flush();
        }
    })))
}
