//! `fairlead`: the agent and its command line.

use std::{
    error::Error,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::Result;
use clap::Parser as _;
use lb_userspace::{
    cleanup,
    cli::{
        LoadError, Loaded,
        args::{Cli, Command, ConfigArgs, LogFormat, PinArgs, RunArgs},
        config::Config,
        environment::Environment,
        file, load,
    },
    devices::Devices,
    errors::chain,
    init, logging, probe, run,
    status::{self, StatusError},
};
use tracing::warn;

fn main() -> ExitCode {
    let Cli {
        command,
        log_format,
        log_level,
    } = Cli::parse();
    let logs = (log_format, log_level);
    let result = match command {
        Command::Run(args) => return run(*args, logs),
        Command::Config(args) => return show_config(*args, logs),
        Command::Cleanup(args) => start_logging(logs).map(|()| clean_up(&args.bpffs)),
        Command::Status(args) => start_logging(logs).map(|()| show_status(&args)),
    };
    result.map_or_else(|code| code, end)
}

/// The flags of every command.
type Logs = (Option<LogFormat>, Option<String>);

/// Starts logging. As clap does, what is wrong with a flag ends the program with 2.
fn start_logging((format, level): Logs) -> Result<(), ExitCode> {
    let format = match format {
        None | Some(LogFormat::Text) => logging::Format::Text,
        Some(LogFormat::Json) => logging::Format::Json,
    };
    logging::start(format, level.as_deref().unwrap_or(logging::DEFAULT)).map_err(|problem| {
        eprintln!("fairlead: {problem}");
        ExitCode::from(2)
    })
}

/// The configuration of a command line. Logs, which it configures too, are started, and what has no effect is told.
fn load_config(mut args: ConfigArgs, logs: Logs, environment: &Environment) -> Result<Config, ExitCode> {
    (args.settings.log_format, args.settings.log_level) = logs;
    let Loaded { config, notices } = load(&args, environment).map_err(|error: LoadError| fail(&error, 2))?;
    start_logging((Some(config.log_format), Some(config.log_level.clone())))?;
    for notice in &notices {
        warn!("{notice}");
    }
    Ok(config)
}

fn run(args: RunArgs, logs: Logs) -> ExitCode {
    let environment = Environment::read();
    let config = match load_config(args.config, logs, &environment) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let result = if args.cleanup {
        clean_up(&config.bpffs)
    } else if args.init_only {
        initialise(&config)
    } else if let Err(error) = config.check_source(&environment) {
        return fail(&error, 2);
    } else {
        run_agent(&config)
    };
    end(result)
}

fn show_config(args: ConfigArgs, logs: Logs) -> ExitCode {
    let config = match load_config(args, logs, &Environment::read()) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let shown = file::write(&config.settings())
        .map_err(anyhow::Error::from)
        .and_then(|text| Ok(quiet_if_closed(write!(io::stdout(), "{text}"))?));
    end(shown)
}

fn end(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref(), 1),
    }
}

fn fail(error: &(dyn Error + 'static), code: u8) -> ExitCode {
    eprintln!("fairlead: {}", chain(error).replace('\n', " "));
    ExitCode::from(code)
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

/// Does what needs most privileges, and says what that was.
fn initialise(config: &Config) -> Result<()> {
    let done = init::run(config)?;
    quiet_if_closed(writeln!(io::stdout(), "{done}"))?;
    Ok(())
}

/// Removes what an agent left; clsact filters are looked for on every device.
fn clean_up(bpffs: &Path) -> Result<()> {
    probe::check_privileges()?;
    let removed = runtime()?.block_on(async {
        let inventory = Devices::start()?.inventory().await?;
        let devices: Vec<(u32, String)> = inventory
            .devices
            .into_values()
            .map(|device| (device.index, device.name))
            .collect();
        anyhow::Ok(cleanup::run(bpffs, &devices).await?)
    })?;
    let text = format!(
        "removed {} links, {} programs and {} maps from {}, and filters from {} devices",
        removed.links,
        removed.programs,
        removed.maps,
        bpffs.display(),
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
