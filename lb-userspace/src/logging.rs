//! Logs: to standard error, as text or JSON.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt};

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How much is logged unless told otherwise.
pub const DEFAULT: &str = "info";

/// Starts logging. `RUST_LOG` goes before `level`, which is a level or a filter in the syntax of tracing-subscriber.
///
/// # Errors
///
/// What is wrong with the filter.
pub fn start(format: Format, level: &str) -> Result<(), String> {
    let (source, text) = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => (format!("RUST_LOG={filter}"), filter),
        _ => (format!("--log-level {level}"), level.to_owned()),
    };
    let filter = filter(&text).map_err(|problem| format!("{source}: {problem}"))?;
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

/// The filter of a text. A plain level is ours: the loader of the kernel programs writes hundreds of lines at debug, and
/// what the kernel programs log was asked for by --bpf-log. Any other filter is taken as it is.
fn filter(text: &str) -> Result<EnvFilter, String> {
    // tracing-subscriber takes any word for the name of a module, and "inof" would silence everything.
    for directive in text.split(',') {
        let word = directive.trim();
        let is_level = !word.is_empty() && word.parse::<LevelFilter>().is_ok();
        if !is_level && !word.contains(['=', '[', '/', ':', '_']) {
            return Err(format!(
                "`{word}` is no level; use error, warn, info, debug, trace or off, or a filter such as \
                 info,lb_userspace::diff=debug"
            ));
        }
    }
    let filter = match text.trim().parse::<LevelFilter>() {
        Ok(LevelFilter::OFF) | Err(_) => text.to_owned(),
        Ok(level) => format!("{level},aya=warn,aya_obj=warn,fairlead_ebpf=trace"),
    };
    EnvFilter::try_new(filter).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_taken_and_misspelt_levels_are_not() {
        for good in [
            "info",
            "WARN",
            "off",
            "debug,hyper=warn",
            "lb_userspace::diff=debug",
            "lb_userspace",
        ] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["inof", "", "info,wran", "lb_userspace=loud"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
