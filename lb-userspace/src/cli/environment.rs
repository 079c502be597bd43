//! What the environment tells. Flags and the file go before it.

use std::{env, ffi::OsString, path::PathBuf};

/// What the environment tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `NODE_NAME`: the node's name, as a pod is told it by the field `spec.nodeName`.
    pub node_name: Option<String>,
    /// `KUBECONFIG`, where kubectl too looks for the file.
    pub kubeconfig: Option<PathBuf>,
    /// Whether this is a pod: `KUBERNETES_SERVICE_HOST` names the API server.
    pub in_pod: bool,
}

impl Environment {
    /// The environment of this process. An empty variable is none.
    pub fn read() -> Self {
        let variable = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty());
        Self {
            // What is no text is no node's name; as such it is refused later.
            node_name: variable("NODE_NAME").map(|name| name.to_string_lossy().into_owned()),
            kubeconfig: variable("KUBECONFIG").map(PathBuf::from),
            in_pod: variable("KUBERNETES_SERVICE_HOST").is_some(),
        }
    }
}
