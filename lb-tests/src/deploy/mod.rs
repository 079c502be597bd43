//! The manifests in `deploy/`: rendered, and checked against the types of the Kubernetes API.

mod kustomize;
mod strict;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::DaemonSet;
use serde_json::Value;

pub use self::{kustomize::render, strict::check};

/// A folder in `deploy/`.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

/// What one finds of a kind among objects.
pub fn find<'a>(objects: &'a [Value], kind: &str) -> Option<&'a Value> {
    objects.iter().find(|object| object["kind"] == kind)
}

/// The DaemonSet of a folder in `deploy/`, rendered.
///
/// # Errors
///
/// If the folder cannot be rendered, or holds none.
pub fn daemon_set(name: &str) -> Result<DaemonSet> {
    let objects = render(&folder(name))?;
    let object = find(&objects, "DaemonSet").context("a DaemonSet")?;
    Ok(serde_json::from_value(object.clone())?)
}
