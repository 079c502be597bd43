//! What Prometheus' client libraries tell of every process, by their names.

use std::{fs, sync::atomic::AtomicU64};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use rustix::{
    param::{clock_ticks_per_second, page_size},
    time::{ClockId, clock_gettime},
};

use super::own::set;

/// Figures of this process.
#[derive(Debug, Default)]
pub(super) struct Process {
    cpu: Counter<f64, AtomicU64>,
    resident: Gauge,
    virtual_memory: Gauge,
    open_fds: Gauge,
    start: Gauge<f64, AtomicU64>,
}

impl Process {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let this = Self::default();
        let registry = registry.sub_registry_with_prefix("process");
        registry.register("cpu_seconds", "CPU time of the agent", this.cpu.clone());
        registry.register(
            "resident_memory_bytes",
            "Memory that the agent holds",
            this.resident.clone(),
        );
        registry.register(
            "virtual_memory_bytes",
            "Addresses that the agent has mapped",
            this.virtual_memory.clone(),
        );
        registry.register("open_fds", "File descriptors of the agent", this.open_fds.clone());
        registry.register(
            "start_time_seconds",
            "When the agent was started, in seconds since 1970",
            this.start.clone(),
        );
        this
    }

    /// Reads them anew; what cannot be read stays as it was.
    pub(super) fn read(&self) {
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // One of them is the folder's.
            set(&self.open_fds, entries.count().saturating_sub(1) as u64);
        }
        let Some(stat) = fs::read_to_string("/proc/self/stat").ok() else {
            return;
        };
        let Some(figures) = figures(&stat) else { return };
        let ticks = clock_ticks_per_second() as f64;
        let cpu = figures.cpu_ticks as f64 / ticks;
        self.cpu
            .inner()
            .store(cpu.to_bits(), std::sync::atomic::Ordering::Relaxed);
        set(&self.virtual_memory, figures.virtual_bytes);
        set(&self.resident, figures.resident_pages * page_size() as u64);
        let seconds = |clock| {
            let time = clock_gettime(clock);
            time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
        };
        let boot = seconds(ClockId::Realtime) - seconds(ClockId::Boottime);
        self.start.set(boot + figures.start_ticks as f64 / ticks);
    }
}

/// Figures of a line of `/proc/<pid>/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Figures {
    cpu_ticks: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

/// proc(5) counts the fields from 1; the second, the name in parentheses, may hold anything.
fn figures(stat: &str) -> Option<Figures> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Figures {
        cpu_ticks: field(14)? + field(15)?,
        start_ticks: field(22)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_process_is_read_whatever_its_name() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 3 0 4200 1000000 250 18446744073709551615";
        let expected = Figures {
            cpu_ticks: 42,
            start_ticks: 4200,
            virtual_bytes: 1_000_000,
            resident_pages: 250,
        };
        assert_eq!(figures(line), Some(expected));
        assert_eq!(figures("7 (short) S 1"), None);
    }
}
