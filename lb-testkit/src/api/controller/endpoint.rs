//! A pod as an endpoint (`k8s.io/endpointslice/utils.go`, `trafficdist`).

use serde_json::{Value, json};

/// Label of a node's zone.
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";

fn ready_condition(pod: &Value) -> Option<&Value> {
    let conditions = pod["status"]["conditions"].as_array()?;
    conditions.iter().find(|one| one["type"] == "Ready")
}

/// When a pod turned ready or unready.
pub(super) fn turned(pod: &Value) -> Option<&str> {
    ready_condition(pod)?["lastTransitionTime"].as_str()
}

/// Whether a pod can be an endpoint at all: it has not ended, and has an address. Terminating ones are.
pub(super) fn is_candidate(pod: &Value) -> bool {
    let status = &pod["status"];
    let ended = matches!(status["phase"].as_str(), Some("Failed" | "Succeeded"));
    let has_ip = |ip: &Value| ip.as_str().is_some_and(|ip| !ip.is_empty());
    !ended && (has_ip(&status["podIP"]) || status["podIPs"].as_array().is_some_and(|ips| !ips.is_empty()))
}

/// The pod's addresses of a family.
fn addresses(pod: &Value, family: &str) -> Vec<String> {
    let ips = pod["status"]["podIPs"].as_array().into_iter().flatten();
    ips.filter_map(|one| one["ip"].as_str())
        .filter(|ip| ip.contains(':') == (family == "IPv6"))
        .map(str::to_owned)
        .collect()
}

/// The ports of a Service at a pod. Named ones have the pod's numbers; those that the pod does not have are left out.
pub(super) fn ports(service: &Value, pod: &Value) -> Value {
    let mut ports = Vec::new();
    for port in service["spec"]["ports"].as_array().into_iter().flatten() {
        let number = match &port["targetPort"] {
            Value::String(name) => {
                let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
                let mut declared = containers.flat_map(|one| one["ports"].as_array().into_iter().flatten());
                let found = declared.find(|one| {
                    let protocol = one["protocol"].as_str().unwrap_or("TCP");
                    one["name"] == name.as_str() && port["protocol"] == protocol
                });
                match found {
                    Some(found) => found["containerPort"].clone(),
                    None => continue,
                }
            }
            number => number.clone(),
        };
        let mut entry = json!({
            "name": port["name"].as_str().unwrap_or_default(), "port": number, "protocol": port["protocol"],
        });
        if !port["appProtocol"].is_null() {
            entry["appProtocol"] = port["appProtocol"].clone();
        }
        ports.push(entry);
    }
    ports.into()
}

/// A pod as an endpoint of a family, if it has an address there.
pub(super) fn endpoint(service: &Value, pod: &Value, node: Option<&Value>, family: &str) -> Option<Value> {
    let addresses = addresses(pod, family);
    if addresses.is_empty() {
        return None;
    }
    let serving = ready_condition(pod).is_some_and(|condition| condition["status"] == "True");
    let terminating = !pod["metadata"]["deletionTimestamp"].is_null();
    let ready = service["spec"]["publishNotReadyAddresses"] == true || (serving && !terminating);
    let meta = &pod["metadata"];
    let mut endpoint = json!({
        "addresses": addresses,
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {
            "kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"],
        },
    });
    let node_name = pod["spec"]["nodeName"].as_str().filter(|name| !name.is_empty());
    if let Some(name) = node_name {
        endpoint["nodeName"] = name.into();
    }
    let zone = node.and_then(|node| node["metadata"]["labels"][ZONE].as_str());
    if let Some(zone) = zone {
        endpoint["zone"] = zone.into();
    }
    if pod["spec"]["hostname"].is_string() && pod["spec"]["subdomain"] == service["metadata"]["name"] {
        endpoint["hostname"] = pod["spec"]["hostname"].clone();
    }
    let distribution = service["spec"]["trafficDistribution"]
        .as_str()
        .unwrap_or_default();
    let close = matches!(distribution, "PreferClose" | "PreferSameZone" | "PreferSameNode");
    if ready && close {
        let mut hints = json!({});
        if let Some(zone) = zone {
            hints["forZones"] = json!([{"name": zone}]);
        }
        if let (Some(name), "PreferSameNode") = (node_name, distribution) {
            hints["forNodes"] = json!([{"name": name}]);
        }
        if hints != json!({}) {
            endpoint["hints"] = hints;
        }
    }
    Some(endpoint)
}

/// What makes an endpoint the same one: its pod and its addresses.
pub(super) fn identity(endpoint: &Value) -> String {
    format!("{} {}", endpoint["targetRef"]["uid"], endpoint["addresses"])
}
