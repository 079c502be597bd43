//! What kube-proxy can be told and Fairlead cannot: its flags and fields, so that its command line and its file can be
//! taken over. The others mean the same here, and are in [`Settings`](super::settings::Settings).

mod file;
mod table;

use std::fmt;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, error::Error as ClapError};
use thiserror::Error;

pub(super) use self::file::{Problem, translate};
pub use self::table::{KNOWN, Known, Verdict};

/// Something that was taken, and has no effect. Told once as a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The flag, with dashes, or the path of the field.
    pub name: String,
    /// Why it has no effect, and what to use in its place.
    pub why: &'static str,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has no effect: {}", self.name, self.why)
    }
}

/// Something of kube-proxy's that Fairlead must not seem to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{name}={value}: {why}")]
pub struct Refused {
    /// The flag, with dashes, or the path of the field.
    pub name: String,
    /// What was given.
    pub value: String,
    /// Why it is refused, and what to use in its place.
    pub why: &'static str,
}

/// Flags of kube-proxy's that were given and have no meaning here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeProxyFlags(Vec<(&'static Known, String)>);

impl KubeProxyFlags {
    /// What there is to say about them.
    ///
    /// # Errors
    ///
    /// The first that is refused.
    pub fn judge(&self) -> Result<Vec<Notice>, Refused> {
        let mut notices = Vec::new();
        for (known, value) in &self.0 {
            notices.extend(known.judge(format!("--{}", known.flag), value)?);
        }
        Ok(notices)
    }
}

impl Known {
    fn judge(&self, name: String, value: &str) -> Result<Option<Notice>, Refused> {
        match self.verdict {
            Verdict::Ignored(why) => Ok(Some(Notice { name, why })),
            Verdict::Refused(why) => Err(refused(name, value, why)),
            Verdict::OnlyTrue(why) if value != "true" => Err(refused(name, value, why)),
            Verdict::OnlyFalse(_) if value == "false" => Ok(None),
            Verdict::OnlyFalse(why) => Ok(Some(Notice { name, why })),
            Verdict::OnlyTrue(_) => Ok(None),
        }
    }
}

fn refused(name: String, value: &str, why: &'static str) -> Refused {
    let value = value.to_owned();
    Refused { name, value, why }
}

impl Args for KubeProxyFlags {
    fn augment_args(command: Command) -> Command {
        let flags = KNOWN.iter().filter(|known| !known.flag.is_empty());
        command.args(flags.map(|known| {
            let arg = Arg::new(known.flag)
                .long(known.flag)
                .hide(true)
                .action(ArgAction::Set)
                .allow_hyphen_values(true);
            let arg = if known.flag == "v" { arg.short('v') } else { arg };
            if known.switch {
                arg.num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true")
            } else {
                arg.num_args(1)
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for KubeProxyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, ClapError> {
        let given = KNOWN.iter().filter(|known| !known.flag.is_empty());
        let given = given.filter_map(|known| {
            let value = matches.get_one::<String>(known.flag)?;
            Some((known, value.clone()))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), ClapError> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
