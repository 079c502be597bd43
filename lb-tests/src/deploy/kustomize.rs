//! As much of kustomize as `deploy/` uses, so that its folders can be rendered where there is no kustomize: a field of a
//! kustomization that is not known here is an error. A test compares with `kubectl kustomize` where there is one.
//!
//! The hash in the name of a generated ConfigMap is left out.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kustomization {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    namespace: Option<String>,
    #[serde(default)]
    labels: Vec<Labels>,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    components: Vec<String>,
    #[serde(default)]
    config_map_generator: Vec<ConfigMap>,
    #[serde(default)]
    images: Vec<Image>,
    #[serde(default)]
    patches: Vec<Patch>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Labels {
    pairs: Map<String, Value>,
    include_selectors: bool,
    include_templates: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConfigMap {
    name: String,
    namespace: Option<String>,
    behavior: Option<String>,
    files: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Image {
    name: String,
    new_name: String,
    new_tag: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    target: Target,
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    kind: String,
    name: String,
}

/// The objects of a folder with a `kustomization.yaml`.
///
/// # Errors
///
/// What cannot be read, or is not known here.
pub fn render(folder: &Path) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    apply(folder, &mut objects).with_context(|| format!("render {}", folder.display()))?;
    Ok(objects)
}

/// The documents of a YAML file.
fn documents<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Vec<T>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_yaml_ng::Deserializer::from_str(&text)
        .map(|document| T::deserialize(document).with_context(|| format!("parse {}", path.display())))
        .collect()
}

fn apply(folder: &Path, objects: &mut Vec<Value>) -> Result<()> {
    let mut all: Vec<Kustomization> = documents(&folder.join("kustomization.yaml"))?;
    let this = all.pop().context("a kustomization.yaml with one document")?;
    for resource in &this.resources {
        let path = folder.join(resource);
        if path.is_dir() {
            objects.extend(render(&path)?);
        } else {
            objects.extend(documents::<Value>(&path)?);
        }
    }
    for generated in &this.config_map_generator {
        generate(folder, generated, objects)?;
    }
    for patch in &this.patches {
        let of_target = |object: &&mut Value| {
            object["kind"] == patch.target.kind && object["metadata"]["name"] == patch.target.name
        };
        let target = objects
            .iter_mut()
            .find(of_target)
            .context("the target of a patch")?;
        for change in documents::<Value>(&folder.join(&patch.path))? {
            merge(target, change);
        }
    }
    for component in &this.components {
        apply(&folder.join(component), objects)?;
    }
    for object in objects {
        if let Some(namespace) = &this.namespace
            && !object["kind"]
                .as_str()
                .is_some_and(|kind| kind.starts_with("Cluster"))
        {
            object["metadata"]["namespace"] = namespace.as_str().into();
        }
        for labels in &this.labels {
            label(object, labels)?;
        }
        for image in &this.images {
            rename(object, image);
        }
    }
    Ok(())
}

fn generate(folder: &Path, generated: &ConfigMap, objects: &mut Vec<Value>) -> Result<()> {
    let mut data = Map::new();
    for file in &generated.files {
        let text = fs::read_to_string(folder.join(file)).with_context(|| format!("read {file}"))?;
        data.insert(file.clone(), text.into());
    }
    let of_name =
        |object: &&mut Value| object["kind"] == "ConfigMap" && object["metadata"]["name"] == generated.name;
    let existing = objects.iter_mut().find(of_name);
    match (generated.behavior.as_deref(), existing) {
        (Some("replace"), Some(existing)) => {
            ensure!(
                existing["metadata"]["namespace"].as_str() == generated.namespace.as_deref(),
                "the ConfigMap {} to replace is in another namespace",
                generated.name
            );
            existing["data"] = data.into();
        }
        (None, None) => objects.push(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generated.name}, "data": data,
        })),
        (behavior, existing) => bail!(
            "the ConfigMap {}: behavior {behavior:?}, and there {} one",
            generated.name,
            if existing.is_some() { "is" } else { "is not" }
        ),
    }
    Ok(())
}

/// A strategic merge: objects field by field, lists of named things by name, anything else replaced.
fn merge(target: &mut Value, change: Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (name, value) in change {
                merge(target.entry(name).or_insert(Value::Null), value);
            }
        }
        (Value::Array(target), Value::Array(change))
            if change.iter().all(|item| item["name"].is_string()) =>
        {
            // kustomize puts what is new in front.
            let mut new = Vec::new();
            for item in change {
                match target.iter_mut().find(|other| other["name"] == item["name"]) {
                    Some(other) => merge(other, item),
                    None => new.push(item),
                }
            }
            target.splice(0..0, new);
        }
        (target, change) => *target = change,
    }
}

fn label(object: &mut Value, labels: &Labels) -> Result<()> {
    ensure!(!labels.include_selectors, "includeSelectors is not known here");
    let own = object.get_mut("metadata").context("metadata")?;
    merge(own, json!({"labels": labels.pairs}));
    if labels.include_templates
        && let Some(template) = object.pointer_mut("/spec/template")
    {
        merge(template, json!({"metadata": {"labels": labels.pairs}}));
    }
    Ok(())
}

fn rename(object: &mut Value, image: &Image) {
    for list in ["containers", "initContainers"] {
        let containers = object.pointer_mut(&format!("/spec/template/spec/{list}"));
        for container in containers.and_then(Value::as_array_mut).into_iter().flatten() {
            let name = container["image"].as_str().unwrap_or_default();
            let (name, _) = name.rsplit_once(':').unwrap_or((name, ""));
            if name == image.name {
                container["image"] = format!("{}:{}", image.new_name, image.new_tag).into();
            }
        }
    }
}
