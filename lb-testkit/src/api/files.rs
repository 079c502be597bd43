//! Files by which clients find the server: a kubeconfig, and what a pod's service account is given.

use std::{fs, path::Path};

use serde_json::json;

use crate::error::{Error, Result};

/// Writes a kubeconfig with a context for each server (`server-1`, …), the first being the current one, and the
/// authority's certificate beside it, as `<name>.ca.crt`.
pub(crate) fn kubeconfig(path: &Path, servers: &[String], token: &str, ca: &str) -> Result<()> {
    let ca_path = path.with_extension("ca.crt");
    write(&ca_path, ca)?;
    let name = |index: usize| format!("server-{}", index + 1);
    let each = |entry: &dyn Fn(usize, &String) -> serde_json::Value| -> Vec<serde_json::Value> {
        servers
            .iter()
            .enumerate()
            .map(|(index, server)| entry(index, server))
            .collect()
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": each(&|index, server| json!({
            "name": name(index),
            "cluster": {"server": server, "certificate-authority": ca_path},
        })),
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": each(&|index, _| json!({
            "name": name(index),
            "context": {"cluster": name(index), "user": "user"},
        })),
        "current-context": name(0),
    });
    // JSON is YAML.
    write(path, &format!("{config:#}\n"))
}

/// Writes what is mounted into a pod under `/var/run/secrets/kubernetes.io/serviceaccount`.
pub(crate) fn service_account(folder: &Path, namespace: &str, token: &str, ca: &str) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io("create", folder.display()))?;
    write(&folder.join("token"), token)?;
    write(&folder.join("ca.crt"), ca)?;
    write(&folder.join("namespace"), namespace)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::io("write", path.display()))
}
