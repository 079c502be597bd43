//! Objects as the API server takes them with `fieldValidation=Strict`.

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        core::v1::{ConfigMap, Service, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    serde::{Serialize, de::DeserializeOwned},
};
use serde_json::Value;

/// Makes sure that an object is of a type of the API, and that all of its fields are fields of that type.
///
/// # Errors
///
/// What is wrong, with the path of the field.
pub fn check(object: &Value) -> Result<()> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    match (text("apiVersion"), text("kind")) {
        ("v1", "ServiceAccount") => check_as::<ServiceAccount>(object),
        ("v1", "ConfigMap") => check_as::<ConfigMap>(object),
        ("v1", "Service") => check_as::<Service>(object),
        ("apps/v1", "DaemonSet") => check_as::<DaemonSet>(object),
        ("apps/v1", "Deployment") => check_as::<Deployment>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => check_as::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => check_as::<ClusterRoleBinding>(object),
        (version, kind) => bail!("{kind} of {version} is not known here; add its type"),
    }
}

fn check_as<T: Serialize + DeserializeOwned>(object: &Value) -> Result<()> {
    let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
    let typed: T = serde_json::from_value(object.clone()).with_context(|| name.clone())?;
    // The types leave out what they do not know: what does not come back is no field.
    let back = serde_json::to_value(typed)?;
    same("", object, &back).with_context(|| name)
}

fn same(path: &str, given: &Value, back: &Value) -> Result<()> {
    match (given, back) {
        (Value::Object(given), Value::Object(back)) => given.iter().try_for_each(|(name, value)| {
            let path = format!("{path}.{name}");
            let back = back.get(name).with_context(|| format!("{path} is no field"))?;
            same(&path, value, back)
        }),
        (Value::Array(given), Value::Array(back)) if given.len() == back.len() => {
            let mut pairs = given.iter().zip(back).enumerate();
            pairs.try_for_each(|(index, (given, back))| same(&format!("{path}[{index}]"), given, back))
        }
        _ => {
            ensure!(given == back, "{path}: {given} was read as {back}");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::check;

    #[test]
    fn a_field_that_does_not_exist_is_named_by_its_path() {
        let object = |container| {
            json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "x"}, "spec": {
                "selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": [container]}},
            }})
        };
        assert!(check(&object(json!({"name": "a", "args": ["b"]}))).is_ok());
        let error = format!(
            "{:#}",
            check(&object(json!({"name": "a", "arg": ["b"]}))).unwrap_err()
        );
        assert!(
            error.contains(".spec.template.spec.containers[0].arg is no field"),
            "{error}"
        );
        let error = format!("{:#}", check(&object(json!({"name": 7}))).unwrap_err());
        assert!(error.contains("string"), "{error}");
    }
}
