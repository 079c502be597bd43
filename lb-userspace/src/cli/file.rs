//! The file of `--config`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};
use serde_yaml_ng::{Mapping, Value as Yaml};
use thiserror::Error;

use super::{
    kube_proxy::{self, Notice, Problem, Refused},
    settings::Settings,
};

/// The version and kind of Fairlead's own file.
const OWN: (&str, &str) = ("fairlead.dev/v1alpha1", "FairleadConfiguration");
/// Those of kube-proxy's.
const KUBE_PROXY: (&str, &str) = ("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration");

/// Why a file gives no settings.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("read {}: {source}; --config names a file that this process may read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is not one YAML document with an object.
    #[error("{}: {problem}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
    /// It is of another kind.
    #[error(
        "{}: apiVersion {version:?} and kind {kind:?} are not known; write `apiVersion: {}` and `kind: {}`, or give a {} of {}",
        path.display(), OWN.0, OWN.1, KUBE_PROXY.1, KUBE_PROXY.0
    )]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it says.
        version: String,
        /// What it says.
        kind: String,
    },
    /// A field is unknown or holds what it cannot hold.
    #[error("{}: {field}: {problem}; `fairlead config` prints every field", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The path of the field.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// A field of kube-proxy's that is refused.
    #[error("{}: {refused}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The field, and why.
        refused: Refused,
    },
}

/// The settings of a file, and which of its fields have no effect.
///
/// # Errors
///
/// [`FileError`] names the file, the field and the remedy.
pub fn read(path: &Path) -> Result<(Settings, Vec<Notice>), FileError> {
    let text = fs::read_to_string(path).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(path, &text)
}

/// The same for a text; `path` is for errors.
///
/// # Errors
///
/// As [`read`].
pub fn parse(path: &Path, text: &str) -> Result<(Settings, Vec<Notice>), FileError> {
    let wrong = |problem: String| FileError::Yaml {
        path: path.to_owned(),
        problem,
    };
    // In two steps, because a map of JSON takes the last of two fields with one name.
    let mut fields: Map<String, Value> = serde_yaml_ng::from_str(text)
        .and_then(|yaml: Yaml| serde_yaml_ng::from_value(yaml))
        .map_err(|error| wrong(error.to_string()))?;
    let mut word = |name: &str| match fields.remove(name) {
        Some(Value::String(word)) => word,
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let (version, kind) = (word("apiVersion"), word("kind"));
    let of = (version.as_str(), kind.as_str());
    if of == OWN {
        let settings = serde_path_to_error::deserialize(Value::Object(fields))
            .map_err(|error| at_field(path, &error))?;
        Ok((settings, Vec::new()))
    } else if of == KUBE_PROXY {
        kube_proxy::translate(&fields).map_err(|problem| match problem {
            Problem::Refused(refused) => FileError::Refused {
                path: path.to_owned(),
                refused,
            },
            Problem::Type(error) => at_field(path, &error),
        })
    } else {
        Err(FileError::Kind {
            path: path.to_owned(),
            version,
            kind,
        })
    }
}

fn at_field(path: &Path, error: &serde_path_to_error::Error<serde_json::Error>) -> FileError {
    FileError::Field {
        path: path.to_owned(),
        field: error.path().to_string(),
        problem: error.inner().to_string(),
    }
}

/// Settings as a file that [`read`] reads.
///
/// # Errors
///
/// If a path is no text: YAML cannot hold it.
pub fn write(settings: &Settings) -> Result<String, serde_yaml_ng::Error> {
    let mut file = Mapping::new();
    file.insert("apiVersion".into(), OWN.0.into());
    file.insert("kind".into(), OWN.1.into());
    if let Yaml::Mapping(fields) = serde_yaml_ng::to_value(settings)? {
        file.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
    }
    serde_yaml_ng::to_string(&file)
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
