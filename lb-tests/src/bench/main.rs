//! `fairlead-bench`: what the kernel programs cost a packet, by `BPF_PROG_TEST_RUN`.
//!
//! A repeated run is given the frame as the run before left it. So the flows here translate a packet into itself: all
//! lookups and all writes of a real one, and the next run meets the same packet. Figures are medians over rounds in
//! which the cases take turns, because the machine's speed changes while they run.

use anyhow::Result;
use lb_tests::packets::{bench, kernel::Kernel};

/// Rounds in which every case is run once.
const ROUNDS: usize = 15;

fn main() -> Result<()> {
    let cases = bench::cases();
    let mut kernel = Kernel::load(lb_userspace::object::bytes()?)?;
    let mut times: Vec<Vec<u32>> = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        for (case, times) in cases.iter().zip(&mut times) {
            times.push(kernel.time(case)?);
        }
    }
    println!(
        "{:<44}{:>10}{:>10}{:>10}",
        "packet", "median ns", "lowest", "highest"
    );
    for (case, mut times) in cases.iter().zip(times) {
        times.sort_unstable();
        let (lowest, highest) = (times[0], times[times.len() - 1]);
        println!(
            "{:<44}{:>10}{lowest:>10}{highest:>10}",
            case.name,
            times[times.len() / 2]
        );
    }
    Ok(())
}
