//! The manifests in `deploy/`: rendered, and checked against the types of the Kubernetes API.

mod kustomize;
mod strict;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::{apps::v1::DaemonSet, rbac::v1::ClusterRole};
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

/// A right: API group, resource, verb.
pub type Right = (String, String, String);

/// The ClusterRole in `deploy/base`, and the rights that it gives. It gives them for all objects of a resource.
///
/// # Errors
///
/// If the folder cannot be rendered, or the role is of another shape.
pub fn role() -> Result<(Value, BTreeSet<Right>)> {
    let objects = render(&folder("base"))?;
    let object = find(&objects, "ClusterRole").context("a role")?;
    let role: ClusterRole = serde_json::from_value(object.clone())?;
    let mut rights = BTreeSet::new();
    for rule in role.rules.context("rules")? {
        ensure!(rule.resource_names.is_none() && rule.non_resource_urls.is_none());
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    rights.insert((group.clone(), resource.clone(), verb.clone()));
                }
            }
        }
    }
    Ok((object.clone(), rights))
}
