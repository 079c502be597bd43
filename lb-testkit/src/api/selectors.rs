//! Label and field selectors (`apimachinery/pkg/labels`, `pkg/fields`).

use std::fmt;

use serde_json::Value;

use super::{
    resources::Resource,
    status::{Outcome, Status},
};

/// What a list or a watch asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Selector {
    labels: Vec<Label>,
    fields: Vec<Field>,
}

/// A requirement on a label.
#[derive(Clone, Debug, PartialEq)]
enum Label {
    Exists(String),
    Absent(String),
    In(String, Vec<String>),
    /// Also true without the label.
    NotIn(String, Vec<String>),
}

/// A requirement on a field: path, value, and whether it is to be equal.
#[derive(Clone, Debug, PartialEq)]
struct Field {
    path: String,
    value: String,
    equal: bool,
}

impl Selector {
    /// Parses both; either may be empty.
    ///
    /// # Errors
    ///
    /// 400, if one does not parse or a field cannot be selected by.
    pub(crate) fn parse(labels: &str, fields: &str, resource: &Resource) -> Outcome<Self> {
        let labels_parsed = parts(labels)
            .into_iter()
            .map(|part| {
                label(part).ok_or_else(|| {
                    Status::bad_request(format!("unable to parse requirement: {part:?} in {labels:?}"))
                })
            })
            .collect::<Outcome<_>>()?;
        let fields_parsed = parts(fields)
            .into_iter()
            .map(|part| {
                let field =
                    field(part).ok_or_else(|| Status::bad_request(format!("invalid selector: {part:?}")))?;
                let known = field.path == "metadata.name"
                    || (resource.namespaced && field.path == "metadata.namespace")
                    || resource.fields.contains(&&*field.path);
                if known {
                    return Ok(field);
                }
                Err(Status::bad_request(format!(
                    "Unable to find {:?} that match label selector {labels:?}, field selector {fields:?}: \
                     field label not supported: {}",
                    format!("{}, Resource={}", resource.api_version(), resource.plural),
                    field.path
                )))
            })
            .collect::<Outcome<_>>()?;
        Ok(Self {
            labels: labels_parsed,
            fields: fields_parsed,
        })
    }

    /// Whether an object is meant.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels.iter().all(|one| one.matches(labels)) && self.fields.iter().all(|one| one.matches(object))
    }
}

impl Label {
    fn matches(&self, labels: &Value) -> bool {
        let value = |key: &str| labels.get(key).and_then(Value::as_str);
        match self {
            Self::Exists(key) => value(key).is_some(),
            Self::Absent(key) => value(key).is_none(),
            Self::In(key, values) => value(key).is_some_and(|it| values.iter().any(|one| one == it)),
            Self::NotIn(key, values) => !value(key).is_some_and(|it| values.iter().any(|one| one == it)),
        }
    }
}

impl Field {
    fn matches(&self, object: &Value) -> bool {
        let value = self
            .path
            .split('.')
            .fold(object, |inner, step| inner.get(step).unwrap_or(&Value::Null));
        let text = match value {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        (text == self.value) == self.equal
    }
}

/// Splits at commas outside parentheses.
fn parts(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
    .collect()
}

fn label(part: &str) -> Option<Label> {
    if let Some(key) = part.strip_prefix('!') {
        return Some(Label::Absent(key_of(key)?));
    }
    if let Some((head, values)) = part.strip_suffix(')').and_then(|part| part.split_once('(')) {
        let values = values.split(',').map(|one| one.trim().to_owned()).collect();
        let (key, operator) = head.trim().rsplit_once(char::is_whitespace)?;
        return match operator {
            "in" => Some(Label::In(key_of(key)?, values)),
            "notin" => Some(Label::NotIn(key_of(key)?, values)),
            _ => None,
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Some(Label::NotIn(key_of(key)?, vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Label::In(key_of(key)?, vec![value.trim().to_owned()]));
    }
    Some(Label::Exists(key_of(part)?))
}

fn key_of(text: &str) -> Option<String> {
    let text = text.trim();
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    (!text.is_empty() && text.chars().all(fits)).then(|| text.to_owned())
}

fn field(part: &str) -> Option<Field> {
    let (path, value, equal) = if let Some((path, value)) = part.split_once("!=") {
        (path, value, false)
    } else {
        let (path, value) = part.split_once("==").or_else(|| part.split_once('='))?;
        (path, value, true)
    };
    Some(Field {
        path: key_of(path)?,
        value: value.trim().to_owned(),
        equal,
    })
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} label and {} field requirements",
            self.labels.len(),
            self.fields.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::resources::{RESOURCES, SERVICES};

    #[test]
    fn label_selectors_say_which_objects_are_meant() {
        let labelled = json!({"metadata": {"labels": {"app": "web", "example.com/x": ""}}});
        let bare = json!({"metadata": {}});
        for (selector, with_label, without) in [
            ("", true, true),
            ("app", true, false),
            ("!app", false, true),
            ("!example.com/x", false, true),
            ("app=web", true, false),
            ("app==web", true, false),
            ("app = other", false, false),
            ("app!=web", false, true),
            ("app in (a, web)", true, false),
            ("app notin (a, web)", false, true),
            ("app notin (a),!y", true, true),
            ("app=web,!example.com/x", false, false),
        ] {
            let parsed = Selector::parse(selector, "", &RESOURCES[SERVICES]).unwrap();
            assert_eq!(parsed.matches(&labelled), with_label, "{selector}");
            assert_eq!(parsed.matches(&bare), without, "{selector}");
        }
    }

    #[test]
    fn field_selectors_compare_text_and_take_absence_as_empty() {
        let object = json!({"metadata": {"name": "a"}, "spec": {"clusterIP": "None"}});
        for (selector, meant) in [
            ("metadata.name=a", true),
            ("metadata.name==b", false),
            ("spec.clusterIP!=None", false),
            ("spec.type=", true),
            ("spec.clusterIP=None,metadata.name!=b", true),
        ] {
            let parsed = Selector::parse("", selector, &RESOURCES[SERVICES]).unwrap();
            assert_eq!(parsed.matches(&object), meant, "{selector}");
        }
    }

    #[test]
    fn what_does_not_parse_or_cannot_be_selected_by_is_a_bad_request() {
        for (labels, fields) in [
            ("a b c", ""),
            ("=x", ""),
            ("a within (x)", ""),
            ("", "spec.ports=1"),
            ("", "x"),
        ] {
            let error = Selector::parse(labels, fields, &RESOURCES[SERVICES]).unwrap_err();
            assert_eq!(error.code, 400, "{labels} {fields}");
        }
        let error = Selector::parse("", "spec.ports=1", &RESOURCES[SERVICES]).unwrap_err();
        assert!(
            error.message.ends_with("field label not supported: spec.ports"),
            "{error}"
        );
    }
}
