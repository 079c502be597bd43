//! A `KubeProxyConfiguration` as settings.

use serde_json::{Map, Value};

use super::{KNOWN, Notice, Refused};
use crate::cli::settings::Settings;

/// Fields that mean the same here, with the settings that they become.
const MAPPED: [(&str, &str); 13] = [
    ("clientConnection.kubeconfig", "kubeconfig"),
    ("hostnameOverride", "hostnameOverride"),
    ("healthzBindAddress", "healthzBindAddress"),
    ("metricsBindAddress", "metricsBindAddress"),
    ("nodePortAddresses", "nodeportAddresses"),
    ("logging.format", "logFormat"),
    ("iptables.syncPeriod", "auditPeriod"),
    ("ipvs.syncPeriod", "auditPeriod"),
    ("nftables.syncPeriod", "auditPeriod"),
    ("conntrack.tcpEstablishedTimeout", "tcpEstablishedTimeout"),
    ("conntrack.tcpCloseWaitTimeout", "tcpCloseWaitTimeout"),
    ("conntrack.udpTimeout", "udpTimeout"),
    ("conntrack.udpStreamTimeout", "udpStreamTimeout"),
];

/// Why a field that nobody knows has no effect; kube-proxy goes on without such fields too.
const UNKNOWN: &str = "kube-proxy 1.36 has no such field";

/// What is wrong with a file.
pub(in crate::cli) enum Problem {
    /// A field that is refused.
    Refused(Refused),
    /// A field whose value has the wrong type.
    Type(serde_path_to_error::Error<serde_json::Error>),
}

/// The settings, and what has no effect.
///
/// A field that is empty, zero or false was not set: kube-proxy writes all of them into the files that it makes.
pub(in crate::cli) fn translate(file: &Map<String, Value>) -> Result<(Settings, Vec<Notice>), Problem> {
    let mut fields = Vec::new();
    flatten("", file, &mut fields);
    let mut settings = Map::new();
    let mut notices = Vec::new();
    for (path, value) in fields {
        if let Some((_, setting)) = MAPPED.iter().find(|(field, _)| *field == path) {
            settings.insert((*setting).to_owned(), value.clone());
            continue;
        }
        let known = KNOWN
            .iter()
            .find(|known| known.fields.iter().any(|field| is_or_holds(field, &path)));
        match known {
            Some(known) => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                notices.extend(known.judge(path, &text).map_err(Problem::Refused)?);
            }
            None => notices.push(Notice {
                name: path,
                why: UNKNOWN,
            }),
        }
    }
    let settings = serde_path_to_error::deserialize(Value::Object(settings)).map_err(Problem::Type)?;
    Ok((settings, notices))
}

/// Whether `field` is `path`, or an object that it is in.
fn is_or_holds(field: &str, path: &str) -> bool {
    path.strip_prefix(field)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The leaves that are set, with their paths. Of the fields whose `false` means something only that is kept.
fn flatten<'a>(above: &str, object: &'a Map<String, Value>, fields: &mut Vec<(String, &'a Value)>) {
    for (name, value) in object {
        let path = if above.is_empty() {
            name.clone()
        } else {
            format!("{above}.{name}")
        };
        match value {
            // Its names are feature gates, not fields.
            Value::Object(object) if path != "featureGates" => flatten(&path, object, fields),
            value if is_set(&path, value) => fields.push((path, value)),
            _ => {}
        }
    }
}

fn is_set(path: &str, value: &Value) -> bool {
    match value {
        Value::Null => false,
        // Here alone the default is true.
        Value::Bool(value) => *value || path == "iptables.localhostNodePorts",
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !matches!(text.as_str(), "" | "0" | "0s"),
        Value::Array(list) => !list.is_empty(),
        Value::Object(object) => !object.is_empty(),
    }
}
