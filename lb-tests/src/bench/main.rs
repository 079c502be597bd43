//! `fairlead-bench`: Fairlead beside kube-proxy's nftables and iptables modes, and beside no proxy at all.
//!
//! - [`programs`]: what a packet costs the kernel programs, in ns, beside a program that does the least;
//! - [`wire`]: packets a second through a node on one core;
//! - [`load`]: connections and requests a second from pods and from the node;
//! - [`control`]: what the agent does with a large cluster: its memory, its start, and how soon a change is in the kernel.
//!
//! Proxies take turns in one lab, in another order each round: what the machine does meanwhile meets all of them. Figures
//! are medians over the rounds. A measurement that fails is told of with its reason, and the others go on.

mod args;
mod control;
mod figures;
mod iptables;
mod load;
mod machine;
mod nftables;
mod object;
mod programs;
mod proxies;
mod report;
mod scenes;
mod services;
mod stats;
mod wire;

use std::{fs, thread};

use anyhow::{Context as _, Result};
use clap::Parser as _;

use self::{
    args::{Args, Part},
    figures::Figures,
};

fn main() -> Result<()> {
    let args = Args::parse();
    let extent = args.extent();
    let machine = machine::describe();
    eprintln!("building the benchmark's kernel programs");
    let object = object::build()?;
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let cpu = args.cpu.unwrap_or(cpus - 1);
    let mut figures = Figures::default();
    if args.wants(Part::Ns) {
        programs::measure(&object, cpu, &extent, &mut figures)?;
    }
    if args.wants(Part::Packets) || args.wants(Part::Load) {
        scenes::measure(&object, cpu, &args, &extent, &mut figures)?;
    }
    if args.wants(Part::Control) {
        figures.control = Some(control::measure(&extent)?);
    }
    print!("{}", report::text(&machine, &figures));
    let files = [
        (
            &args.json,
            serde_json::to_string_pretty(&report::json(&machine, &figures))? + "\n",
        ),
        (&args.markdown, report::markdown(&machine, &figures)),
    ];
    for (path, text) in files {
        if let Some(path) = path {
            fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        }
    }
    Ok(())
}
