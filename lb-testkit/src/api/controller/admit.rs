//! A Service as the API server completes it (`pkg/registry/core/service/storage`, `pkg/apis/core/v1/defaults.go`).

use std::net::IpAddr;

use serde_json::{Value, json};

use super::allocate::Allocator;
use crate::api::{
    resources::{RESOURCES, SERVICES},
    status::{Outcome, Status},
    store::Key,
};

/// Seconds that affinity lasts by default.
const AFFINITY: u32 = 10_800;

fn text<'a>(spec: &'a Value, field: &str) -> &'a str {
    spec[field].as_str().unwrap_or_default()
}

fn texts(spec: &Value, field: &str) -> Vec<String> {
    let values = spec[field].as_array().into_iter().flatten();
    values.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn set_default(spec: &mut Value, field: &str, value: impl Into<Value>) {
    if spec[field].is_null() {
        spec[field] = value.into();
    }
}

fn drop_fields(spec: &mut Value, fields: &[&str]) {
    if let Some(map) = spec.as_object_mut() {
        for field in fields {
            map.remove(*field);
        }
    }
}

fn is_external_name(spec: &Value) -> bool {
    text(spec, "type") == "ExternalName"
}

fn is_headless(spec: &Value) -> bool {
    text(spec, "clusterIP") == "None"
}

fn needs_node_ports(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn needs_health_port(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

/// Whether clients outside reach it.
fn is_outside(spec: &Value) -> bool {
    let has_external = spec["externalIPs"].as_array().is_some_and(|ips| !ips.is_empty());
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer") || has_external && !is_external_name(spec)
}

/// Completes a new Service, or a changed one.
///
/// # Errors
///
/// 422, if an address or a port cannot be had.
pub(super) fn service(
    allocator: &mut Allocator,
    key: &Key,
    before: Option<&Value>,
    value: &mut Value,
) -> Outcome<()> {
    let mut spec = value["spec"].take();
    if !spec.is_object() {
        spec = json!({});
    }
    set_default(&mut spec, "type", "ClusterIP");
    set_default(&mut spec, "sessionAffinity", "None");
    if text(&spec, "sessionAffinity") == "ClientIP" {
        set_default(
            &mut spec,
            "sessionAffinityConfig",
            json!({"clientIP": {"timeoutSeconds": AFFINITY}}),
        );
    } else {
        drop_fields(&mut spec, &["sessionAffinityConfig"]);
    }
    default_ports(&mut spec);
    if let Some(before) = before {
        keep_allocated(&before["spec"], &mut spec);
    }
    default_policies(&mut spec);
    let done = addresses(allocator, key, &mut spec).and_then(|()| node_ports(allocator, key, &mut spec));
    value["spec"] = spec;
    set_default(value, "status", json!({"loadBalancer": {}}));
    done
}

fn default_ports(spec: &mut Value) {
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        set_default(port, "protocol", "TCP");
        let number = port["port"].clone();
        set_default(port, "targetPort", number);
    }
}

/// A change that does not name what was allocated keeps it.
fn keep_allocated(old: &Value, spec: &mut Value) {
    if !is_external_name(old) && !is_external_name(spec) && text(spec, "clusterIP").is_empty() {
        spec["clusterIP"] = old["clusterIP"].clone();
        if texts(spec, "clusterIPs").is_empty() {
            spec["clusterIPs"] = old["clusterIPs"].clone();
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            set_default(spec, field, old[field].clone());
        }
    }
    if needs_node_ports(old) && needs_node_ports(spec) {
        let had = old["ports"].as_array().cloned().unwrap_or_default();
        for port in spec["ports"].as_array_mut().into_iter().flatten() {
            if port["nodePort"].as_u64().unwrap_or(0) == 0 {
                let same = |one: &&Value| one["port"] == port["port"] && one["protocol"] == port["protocol"];
                if let Some(one) = had.iter().find(same) {
                    port["nodePort"] = one["nodePort"].clone();
                }
            }
        }
    }
    if needs_health_port(old) && needs_health_port(spec) {
        set_default(spec, "healthCheckNodePort", old["healthCheckNodePort"].clone());
    }
}

/// Policies of those types that have them; what another type had goes.
fn default_policies(spec: &mut Value) {
    if is_outside(spec) {
        set_default(spec, "externalTrafficPolicy", "Cluster");
    } else {
        drop_fields(spec, &["externalTrafficPolicy"]);
    }
    if is_external_name(spec) {
        drop_fields(spec, &["internalTrafficPolicy"]);
    } else {
        set_default(spec, "internalTrafficPolicy", "Cluster");
    }
    if text(spec, "type") == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    } else {
        drop_fields(spec, &["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
}

fn family_of(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

fn invalid(key: &Key, problem: &str) -> Box<Status> {
    Status::invalid(&RESOURCES[SERVICES], &key.1, problem)
}

/// Families and cluster IPs.
fn addresses(allocator: &mut Allocator, key: &Key, spec: &mut Value) -> Outcome<()> {
    if is_external_name(spec) {
        drop_fields(spec, &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
        return Ok(());
    }
    let mut given = texts(spec, "clusterIPs");
    let single = text(spec, "clusterIP").to_owned();
    if given.is_empty() && !single.is_empty() {
        given = vec![single];
    }
    let headless = given.first().is_some_and(|one| one == "None");
    let families = families(allocator, key, spec, &given)?;
    spec["ipFamilies"] = json!(families);
    if headless {
        spec["clusterIP"] = "None".into();
        spec["clusterIPs"] = json!(["None"]);
        return Ok(());
    }
    let mut addresses = Vec::new();
    for (index, family) in families.iter().enumerate() {
        let address = match given.get(index) {
            None => allocator.any_address(key, family),
            Some(text) => {
                let problem =
                    |why: &str| invalid(key, &format!("spec.clusterIPs: Invalid value: {given:?}: {why}"));
                let address: IpAddr = text.parse().map_err(|_| problem("must be a valid IP address"))?;
                if !allocator.claim_address(key, address) {
                    return Err(problem(&format!(
                        "failed to allocate IP {text}: provided IP is already allocated"
                    )));
                }
                address
            }
        };
        addresses.push(address.to_string());
    }
    spec["clusterIP"] = addresses[0].clone().into();
    spec["clusterIPs"] = json!(addresses);
    Ok(())
}

/// The families that a Service has, by what it asks for and what the cluster has.
fn families(allocator: &Allocator, key: &Key, spec: &mut Value, given: &[String]) -> Outcome<Vec<String>> {
    let mut wanted = texts(spec, "ipFamilies");
    for (index, address) in given.iter().enumerate().filter(|(_, address)| *address != "None") {
        if index >= wanted.len() {
            wanted.push(family_of(address).to_owned());
        }
    }
    if text(spec, "ipFamilyPolicy").is_empty() {
        let without_selector =
            is_headless(spec) && spec["selector"].is_null() && allocator.families.len() == 2;
        let dual = wanted.len() == 2 || (without_selector && wanted.is_empty());
        let policy = if dual { "RequireDualStack" } else { "SingleStack" };
        spec["ipFamilyPolicy"] = policy.into();
    }
    let policy = text(spec, "ipFamilyPolicy").to_owned();
    if let Some(absent) = wanted
        .iter()
        .find(|one| !allocator.families.contains(&one.as_str()))
    {
        return Err(invalid(
            key,
            &format!("spec.ipFamilies[0]: Invalid value: {absent:?}: not configured on this cluster"),
        ));
    }
    for family in &allocator.families {
        if !wanted.iter().any(|one| one == family) && (wanted.is_empty() || policy != "SingleStack") {
            wanted.push((*family).to_owned());
        }
    }
    if policy == "SingleStack" {
        wanted.truncate(1);
    }
    if policy == "RequireDualStack" && wanted.len() < 2 {
        let problem = "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for \
                       dual-stack services";
        return Err(invalid(key, problem));
    }
    Ok(wanted)
}

/// Node ports, and the port for health checks.
fn node_ports(allocator: &mut Allocator, key: &Key, spec: &mut Value) -> Outcome<()> {
    let none_left = || {
        Status::new(
            500,
            "InternalError",
            "failed to allocate a nodePort: range is full",
        )
    };
    let claim = |allocator: &mut Allocator, port: u64, field: &str| {
        let taken = || {
            invalid(
                key,
                &format!("{field}: Invalid value: {port}: provided port is already allocated"),
            )
        };
        let number = u16::try_from(port).map_err(|_| taken())?;
        allocator.claim_port(key, number).then_some(()).ok_or_else(taken)
    };
    let needed = needs_node_ports(spec);
    let keeps = needed || text(spec, "type") == "LoadBalancer";
    // Ports of one number with different protocols share their node port.
    let mut of_port: Vec<(Value, u64)> = Vec::new();
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        let given = port["nodePort"].as_u64().unwrap_or(0);
        if !keeps || (given == 0 && !needed) {
            drop_fields(port, &["nodePort"]);
            continue;
        }
        let shared = of_port.iter().find(|(number, _)| *number == port["port"]);
        let chosen = match (given, shared) {
            (0, Some((_, chosen))) => *chosen,
            (0, None) => allocator.any_port(key).ok_or_else(none_left)?.into(),
            (given, _) => {
                claim(allocator, given, "spec.ports[0].nodePort")?;
                given
            }
        };
        of_port.push((port["port"].clone(), chosen));
        port["nodePort"] = chosen.into();
    }
    if !needs_health_port(spec) {
        drop_fields(spec, &["healthCheckNodePort"]);
        return Ok(());
    }
    match spec["healthCheckNodePort"].as_u64().unwrap_or(0) {
        0 => {
            let port = allocator.any_port(key).ok_or_else(none_left)?;
            spec["healthCheckNodePort"] = port.into();
            Ok(())
        }
        given => claim(allocator, given, "spec.healthCheckNodePort"),
    }
}
