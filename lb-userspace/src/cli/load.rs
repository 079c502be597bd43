//! Flags and file together.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{
    args::ConfigArgs,
    config::{Config, ConfigError},
    environment::Environment,
    file::{self, FileError},
    kube_proxy::{Notice, Refused},
    settings::{self, Settings},
};

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A value.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A flag of kube-proxy's.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// A configuration, and what was said in vain.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What has no effect.
    pub notices: Vec<Notice>,
}

/// The configuration of a command line: a flag goes before the file, the file before the environment, the environment
/// before the defaults.
///
/// # Errors
///
/// [`LoadError`] names flag or field, and the remedy.
pub fn load(args: &ConfigArgs, environment: &Environment) -> Result<Loaded, LoadError> {
    let mut notices = args.kube_proxy.judge()?;
    let mut lower = Settings::default();
    if let Some(path) = &args.config {
        let (settings, more) = file::read(path)?;
        lower = settings;
        notices.extend(more);
    }
    let merged = args.settings.clone().over(lower.clone());
    let config = Config::new(&merged, environment)
        .map_err(|error| blame(error, &args.settings, &lower, args.config.as_deref()))?;
    Ok(Loaded { config, notices })
}

/// The error about the field where the value was not given by a flag.
fn blame(error: ConfigError, flags: &Settings, lower: &Settings, file: Option<&Path>) -> ConfigError {
    match (error, file) {
        (ConfigError::Value { flag, value, problem }, Some(path)) if !flags.has(flag) && lower.has(flag) => {
            ConfigError::FileValue {
                file: PathBuf::from(path),
                field: settings::field(flag),
                value,
                problem,
            }
        }
        (error, _) => error,
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
