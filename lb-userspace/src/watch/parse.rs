//! Manifests: from text to objects.

use std::fmt;

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Object, validate};
use crate::objects::Reader;

/// What a text holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// The valid objects, in order.
    pub objects: Vec<Located>,
    /// What is wrong. Objects with a problem are not among `objects`.
    pub problems: Vec<Problem>,
    /// What is not wrong but worth a line: documents of kinds that are not used here.
    pub notes: Vec<Note>,
}

/// An object and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    /// Number of the document in the text, from 1.
    pub document: usize,
    /// The object.
    pub object: Object,
}

/// Why a document, or an object in it, was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Number of the document, from 1.
    pub document: usize,
    /// Path of the field, such as `spec.ports[0].port`; empty if it is the document as a whole.
    pub field: String,
    /// What is wrong with it and how it can be put right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}", self.document)?;
        if !self.field.is_empty() {
            write!(f, ", {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Something that an operator may want to know of a document that is not wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Number of the document, from 1.
    pub document: usize,
    /// The note.
    pub message: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}: {}", self.document, self.message)
    }
}

/// Reads all Services, EndpointSlices, Nodes and ServiceCIDRs of a text: any number of YAML or JSON documents, `List`s taken apart, empty
/// documents skipped. Names without namespace are in "default".
///
/// One broken object does not hide the others; what is no YAML ends the text.
pub fn parse(text: &str) -> Parsed {
    let mut parser = Parser::default();
    if text.trim_start().starts_with('{')
        && let Some(values) = json_documents(text)
    {
        for (i, value) in values.into_iter().enumerate() {
            parser.document(i + 1, value);
        }
        return parser.parsed;
    }
    for (i, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        match yaml_value(document) {
            Ok(value) => parser.document(i + 1, value),
            Err(error) => {
                parser.problem(i + 1, "", format!("not YAML: {error}"));
                // Past a syntax error there are no documents, only the same error again and again.
                break;
            }
        }
    }
    parser.parsed
}

/// The documents of a text that is JSON from end to end. YAML reads most JSON too, but not all of its escapes.
fn json_documents(text: &str) -> Option<Vec<Value>> {
    serde_json::Deserializer::from_str(text)
        .into_iter()
        .collect::<Result<_, _>>()
        .ok()
}

/// A YAML document as JSON, which is what the API server makes of it as well.
fn yaml_value(document: serde_yaml_ng::Deserializer<'_>) -> Result<Value, serde_yaml_ng::Error> {
    let mut yaml = serde_yaml_ng::Value::deserialize(document)?;
    yaml.apply_merge()?;
    serde_yaml_ng::from_value(yaml)
}

/// A text that is being read.
#[derive(Default)]
struct Parser {
    parsed: Parsed,
    reader: Reader,
}

impl Parser {
    fn problem(&mut self, document: usize, field: impl Into<String>, message: impl Into<String>) {
        self.parsed.problems.push(Problem {
            document,
            field: field.into(),
            message: message.into(),
        });
    }

    fn note(&mut self, document: usize, message: String) {
        self.parsed.notes.push(Note { document, message });
    }

    fn document(&mut self, document: usize, value: Value) {
        if !value.is_null() {
            self.value(document, "", value);
        }
    }

    /// An object, or a list of objects. `at` is the path of `value` in its document: empty, or ended with a dot.
    fn value(&mut self, document: usize, at: &str, value: Value) {
        let Value::Object(fields) = &value else {
            return self.problem(
                document,
                at.trim_end_matches('.'),
                "not a mapping; a manifest is a mapping with apiVersion, kind, metadata and spec",
            );
        };
        let text_of = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        let (Some(version), Some(kind)) = (text_of("apiVersion"), text_of("kind")) else {
            let missing = if text_of("kind").is_none() {
                "kind"
            } else {
                "apiVersion"
            };
            return self.problem(
                document,
                format!("{at}{missing}"),
                "missing or no text; an object needs apiVersion and kind",
            );
        };
        match (version.as_str(), kind.as_str()) {
            ("v1", "Service") => self.service(document, at, value),
            ("discovery.k8s.io/v1", "EndpointSlice") => self.slice(document, at, value),
            ("v1", "Node") => self.node(document, at, value),
            ("networking.k8s.io/v1", "ServiceCIDR") => self.service_cidr(document, at, value),
            ("v1", "List" | "ServiceList") | ("discovery.k8s.io/v1", "EndpointSliceList") => {
                self.list(document, at, &kind, value);
            }
            (_, "Service" | "EndpointSlice" | "Node" | "ServiceCIDR") => {
                let wanted = match kind.as_str() {
                    "EndpointSlice" => "discovery.k8s.io/v1",
                    "ServiceCIDR" => "networking.k8s.io/v1",
                    _ => "v1",
                };
                self.problem(
                    document,
                    format!("{at}apiVersion"),
                    format!("{version} has no {kind} that can be used here; write {wanted}"),
                );
            }
            _ => {
                let name = fields
                    .get("metadata")
                    .and_then(|m| m.get("name"))
                    .and_then(Value::as_str)
                    .unwrap_or("?");
                self.note(
                    document,
                    format!("{kind} {name} ({version}) is skipped: only Service, EndpointSlice, Node and ServiceCIDR are used"),
                );
            }
        }
    }

    fn list(&mut self, document: usize, at: &str, kind: &str, mut value: Value) {
        let items = match value.get_mut("items").map(Value::take) {
            None | Some(Value::Null) => return,
            Some(Value::Array(items)) => items,
            Some(_) => {
                return self.problem(
                    document,
                    format!("{at}items"),
                    "not a list; items is a list of objects",
                );
            }
        };
        let of_items = match kind {
            "ServiceList" => Some(("v1", "Service")),
            "EndpointSliceList" => Some(("discovery.k8s.io/v1", "EndpointSlice")),
            _ => None,
        };
        for (i, mut item) in items.into_iter().enumerate() {
            // The API server leaves apiVersion and kind out of the items of a typed list.
            if let (Some((version, kind)), Some(fields)) = (of_items, item.as_object_mut()) {
                fields.entry("apiVersion").or_insert_with(|| version.into());
                fields.entry("kind").or_insert_with(|| kind.into());
            }
            self.value(document, &format!("{at}items[{i}]."), item);
        }
    }

    fn service(&mut self, document: usize, at: &str, value: Value) {
        let Some(mut service) = self.typed::<Service>(document, at, value) else {
            return;
        };
        if self.accepted(document, at, validate::service(&mut service)) {
            let object = Object::Service(self.reader.service(&service).into());
            self.parsed.objects.push(Located { document, object });
        }
    }

    fn node(&mut self, document: usize, at: &str, value: Value) {
        let Some(mut node) = self.typed::<Node>(document, at, value) else {
            return;
        };
        if self.accepted(document, at, validate::node(&mut node)) {
            let object = Object::Node(self.reader.node(&node).into());
            self.parsed.objects.push(Located { document, object });
        }
    }

    fn service_cidr(&mut self, document: usize, at: &str, value: Value) {
        let Some(mut cidr) = self.typed::<ServiceCIDR>(document, at, value) else {
            return;
        };
        if self.accepted(document, at, validate::service_cidr(&mut cidr)) {
            let object = Object::ServiceCidr(self.reader.service_cidr(&cidr).into());
            self.parsed.objects.push(Located { document, object });
        }
    }

    fn slice(&mut self, document: usize, at: &str, value: Value) {
        let Some(mut slice) = self.typed::<EndpointSlice>(document, at, value) else {
            return;
        };
        if !self.accepted(document, at, validate::slice(&mut slice)) {
            return;
        }
        if let Some(note) = validate::unused_slice(&slice) {
            self.note(document, note);
        }
        let object = Object::EndpointSlice(self.reader.slice(&slice).into());
        self.parsed.objects.push(Located { document, object });
    }

    fn typed<T: DeserializeOwned>(&mut self, document: usize, at: &str, value: Value) -> Option<T> {
        match serde_path_to_error::deserialize(value) {
            Ok(object) => Some(object),
            Err(error) => {
                let path = error.path().to_string();
                let path = if path == "." {
                    at.trim_end_matches('.').to_owned()
                } else {
                    format!("{at}{path}")
                };
                self.problem(document, path, error.into_inner().to_string());
                None
            }
        }
    }

    /// Whether an object has no faults; takes down those that it has.
    fn accepted(&mut self, document: usize, at: &str, faults: Vec<validate::Fault>) -> bool {
        let none = faults.is_empty();
        for fault in faults {
            self.problem(document, format!("{at}{}", fault.field), fault.message);
        }
        none
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
