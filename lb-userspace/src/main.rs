//! `fairlead`: the agent and its command line.

use std::{
    error::Error,
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Result;
use clap::Parser as _;
use lb_userspace::{
    cleanup,
    cli::{
        args::{Cli, Command, LogFormat, PinArgs},
        config::Config,
    },
    devices::Devices,
    logging, probe, run,
    status::{self, StatusError},
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
        Command::Run(args) => match Config::new(&args) {
            Ok(config) => run_agent(&config),
            // As clap does for arguments that it refuses itself.
            Err(error) => return fail(&error, 2),
        },
        Command::Cleanup(args) => clean_up(&args),
        Command::Status(args) => show_status(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref(), 1),
    }
}

fn fail(error: &(dyn Error + 'static), code: u8) -> ExitCode {
    eprintln!("fairlead: {}", one_line(error));
    ExitCode::from(code)
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

fn run_agent(config: &Config) -> Result<()> {
    runtime()?.block_on(run::run(config))?;
    Ok(())
}

/// Removes what an agent left; clsact filters are looked for on every device.
fn clean_up(args: &PinArgs) -> Result<()> {
    probe::check_privileges()?;
    let removed = runtime()?.block_on(async {
        let inventory = Devices::start()?.inventory().await?;
        let devices: Vec<(u32, String)> = inventory
            .devices
            .into_values()
            .map(|device| (device.index, device.name))
            .collect();
        anyhow::Ok(cleanup::run(&args.bpffs, &devices).await?)
    })?;
    let text = format!(
        "removed {} links, {} programs and {} maps from {}, and filters from {} devices",
        removed.links,
        removed.programs,
        removed.maps,
        args.bpffs.display(),
        removed.filtered_devices
    );
    quiet_if_closed(writeln!(io::stdout(), "{text}"))?;
    Ok(())
}

fn show_status(args: &PinArgs) -> Result<()> {
    match status::write(&args.bpffs, &mut io::stdout().lock()) {
        Err(StatusError::Write(error)) => Ok(quiet_if_closed(Err(error))?),
        other => Ok(other?),
    }
}

/// That the reader has had enough (`fairlead status | head`) is no error.
fn quiet_if_closed(written: io::Result<()>) -> io::Result<()> {
    written.or_else(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    })
}
