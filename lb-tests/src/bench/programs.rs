//! What packets cost the kernel programs.

use std::thread;

use anyhow::{Result, anyhow};
use lb_tests::packets::bench::{Bench, Program, cases};

use super::{
    args::Extent,
    figures::{Cost, Figures},
    wire,
};

/// Measures all cases, in turns with what they are compared to.
///
/// # Errors
///
/// If the kernel refuses the programs. What fails later is noted with its case.
pub(crate) fn measure(object: &[u8], cpu: usize, extent: &Extent, figures: &mut Figures) -> Result<()> {
    // On a thread of its own: it goes into another network namespace and stays on one CPU.
    let work = || {
        wire::stay_on(cpu)?;
        rounds(object, extent)
    };
    let costs = thread::scope(|scope| scope.spawn(work).join());
    figures.costs = costs.map_err(|_| anyhow!("the thread that runs the kernel programs panicked"))??;
    Ok(())
}

fn rounds(object: &[u8], extent: &Extent) -> Result<Vec<(String, Cost)>> {
    let cases = cases();
    let mut costs: Vec<(String, Cost)> = cases
        .iter()
        .map(|case| (case.name.clone(), Cost::default()))
        .collect();
    for round in 1..=extent.rounds {
        eprintln!("round {round} of {}: ns per packet", extent.rounds);
        let mut bench = Bench::load(object, round % 2 == 1)?;
        for (case, (_, cost)) in cases.iter().zip(&mut costs) {
            let mut programs = [
                Program::Restore,
                Program::Floor,
                Program::Real,
                Program::Uncounted,
            ];
            programs.rotate_left(round % 4);
            for program in programs {
                match bench.time(case, program, extent.runs) {
                    Ok(ns) => match program {
                        Program::Restore => &mut cost.restore,
                        Program::Floor => &mut cost.floor,
                        Program::Real => &mut cost.real,
                        Program::Uncounted => &mut cost.uncounted,
                    }
                    .push(f64::from(ns)),
                    Err(error) => {
                        eprintln!("failed: {error:#}");
                        cost.failures.push(format!("{error:#}"));
                    }
                }
            }
        }
    }
    Ok(costs)
}
