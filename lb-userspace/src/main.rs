//! `fairlead`: the agent and its command line.

use std::{error::Error, io, process::ExitCode};

use anyhow::Result;
use clap::Parser as _;
use lb_userspace::{
    cleanup,
    cli::{
        args::{Cli, Command, LogFormat, PinArgs, RunArgs},
        config::Config,
    },
    devices::Devices,
    logging, probe, run, status,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = match cli.log_format {
        LogFormat::Text => logging::Format::Text,
        LogFormat::Json => logging::Format::Json,
    };
    if let Err(problem) = logging::start(format, &cli.log_level) {
        eprintln!("fairlead: {problem}");
        return ExitCode::from(2);
    }
    let result = match cli.command {
        Command::Run(args) => run_agent(&args),
        Command::Cleanup(args) => clean_up(&args),
        Command::Status(args) => status::write(&args.bpffs, &mut io::stdout().lock()).map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fairlead: {}", one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// An error with those of its causes that its own text does not already contain.
fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

fn run_agent(args: &RunArgs) -> Result<()> {
    let config = Config::new(args)?;
    runtime()?.block_on(run::run(&config))?;
    Ok(())
}

/// Removes what an agent left; clsact filters are looked for on every device.
fn clean_up(args: &PinArgs) -> Result<()> {
    probe::check_privileges()?;
    let inventory = runtime()?.block_on(async { Devices::start()?.inventory().await })?;
    let devices: Vec<String> = inventory
        .devices
        .into_values()
        .map(|device| device.name)
        .collect();
    let removed = cleanup::run(&args.bpffs, &devices)?;
    println!(
        "removed {} links, {} programs and {} maps from {}, and filters from {} devices",
        removed.links,
        removed.programs,
        removed.maps,
        args.bpffs.display(),
        removed.filtered_devices
    );
    Ok(())
}
