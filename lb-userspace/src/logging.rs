//! Logs: to standard error, as text or JSON.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt};

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. `RUST_LOG` goes before `level`, which is a level or a filter in the syntax of tracing-subscriber.
///
/// # Errors
///
/// What is wrong with the filter.
pub fn start(format: Format, level: &str) -> Result<(), String> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => {
            EnvFilter::try_new(&filter).map_err(|error| format!("RUST_LOG={filter}: {error}"))?
        }
        _ => EnvFilter::try_new(with_quiet_loader(level))
            .map_err(|error| format!("--log-level {level}: {error}"))?,
    };
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .log_internal_errors(false);
    match format {
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        Format::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// A plain level is ours: the loader of the kernel programs writes hundreds of lines at debug. A filter is taken as it is.
fn with_quiet_loader(level: &str) -> String {
    if level.contains(['=', ',']) {
        level.to_owned()
    } else {
        format!("{level},aya=warn,aya_obj=warn")
    }
}
