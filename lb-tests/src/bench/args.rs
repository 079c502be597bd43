//! What the user typed.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};

/// Measures Fairlead beside nftables, iptables and no proxy at all, in one lab of network namespaces on this machine.
///
/// Everything else that runs on the machine is measured with it: the spread of the figures tells how much that was.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "fairlead-bench",
    bin_name = "cargo xtask bench --",
    max_term_width = 100
)]
pub(crate) struct Args {
    /// A few seconds for everything: to see that it works. The figures are worth little.
    #[arg(long)]
    pub(crate) quick: bool,
    /// How often each thing is measured; the order changes from round to round [default: 7]
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<usize>,
    /// How long one measurement of the lab takes, in milliseconds [default: 1000]
    #[arg(long, value_name = "MS")]
    pub(crate) time: Option<u64>,
    /// Numbers of services, each measured by itself, 2 at least [default: 10,1000]
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = clap::value_parser!(u16).range(2..=20_000))]
    pub(crate) services: Vec<u16>,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    pub(crate) only: Vec<Part>,
    /// The CPU for what runs on one CPU: ns per packet and packets a second [default: the last one]
    #[arg(long, value_name = "N")]
    pub(crate) cpu: Option<usize>,
    /// Writes all figures to a file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Writes the tables of docs/benchmarks.md to a file.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// Writes the rules and settings of nftables and iptables, and the manifests, to a folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) rules: Option<PathBuf>,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// What a packet costs the kernel programs, in ns.
    Ns,
    /// Packets a second on one core.
    Packets,
    /// Connections and requests a second.
    Load,
    /// The agent's memory, start and speed of change, with the largest number of services [default: 10000]
    Control,
}

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    /// How often.
    pub(crate) rounds: usize,
    /// How long each measurement in the lab takes.
    pub(crate) time: Duration,
    /// Runs of a kernel program in one measurement.
    pub(crate) runs: u32,
    /// Numbers of services.
    pub(crate) services: Vec<usize>,
    /// The number of services that the agent by itself is measured with.
    pub(crate) control: usize,
    /// How many changes of endpoints are timed.
    pub(crate) changes: usize,
}

impl Args {
    /// How much is measured.
    pub(crate) fn extent(&self) -> Extent {
        let (rounds, time, runs, services, control, changes): (_, _, _, &[u16], _, _) = if self.quick {
            (1, 100, 5_000, &[10], 100, 10)
        } else {
            (7, 1_000, 100_000, &[10, 1000], 10_000, 1_000)
        };
        let control = self.services.iter().max().copied().unwrap_or(control);
        let services = if self.services.is_empty() {
            services
        } else {
            &self.services
        };
        Extent {
            rounds: self.rounds.unwrap_or(rounds).max(1),
            time: Duration::from_millis(self.time.unwrap_or(time).max(1)),
            runs,
            services: services.iter().map(|count| usize::from(*count)).collect(),
            control: usize::from(control),
            changes,
        }
    }

    /// Whether a part is wanted.
    pub(crate) fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}
