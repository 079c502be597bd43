//! EndpointSlices of a Service (`pkg/controller/endpointslice`, `k8s.io/endpointslice/reconciler.go`).

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use serde_json::{Value, json};

use super::endpoint;
use crate::api::{
    resources::{NODES, PODS, SERVICES, SLICES},
    state::State,
    store::{Key, Object},
};

/// Endpoints of a slice (`--max-endpoints-per-slice`).
const FULL: usize = 100;
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Whether a Service selects a pod, both of one namespace.
pub(super) fn selects(service: &Value, pod: &Value) -> bool {
    service["spec"]["selector"].as_object().is_some_and(|wanted| {
        !wanted.is_empty()
            && wanted
                .iter()
                .all(|(key, value)| pod["metadata"]["labels"][key] == *value)
    })
}

/// The Service of a slice that is the controller's.
pub(super) fn service_of(slice: &Value) -> Option<Key> {
    let meta = &slice["metadata"];
    if meta["labels"][MANAGED_BY] != CONTROLLER {
        return None;
    }
    let name = meta["labels"][SERVICE_NAME].as_str()?;
    Some((meta["namespace"].as_str()?.to_owned(), name.to_owned()))
}

/// The controller's slices of a Service. Their names begin with the Service's.
fn own_slices(state: &State, key: &Key) -> Vec<Arc<Object>> {
    let prefix = format!("{}-", key.1);
    let from = state
        .store
        .objects(SLICES)
        .range((key.0.clone(), prefix.clone())..);
    from.take_while(|((namespace, name), _)| *namespace == key.0 && name.starts_with(&prefix))
        .filter(|(_, slice)| service_of(&slice.value).as_ref() == Some(key))
        .map(|(_, slice)| slice.clone())
        .collect()
}

fn remove(state: &mut State, slice: &Value) {
    let key = crate::api::store::key_of(slice);
    // It was there just now.
    let _ = state.store.delete(SLICES, &key);
}

/// Removes the slices of a Service that is gone, as the garbage collector does.
pub(super) fn collect(state: &mut State, key: &Key) {
    for slice in own_slices(state, key) {
        remove(state, &slice.value);
    }
}

/// Makes the slices of a Service what they must be. Those of a Service without a selector, and of an ExternalName, are
/// left as they are, as the real controller leaves them.
pub(super) fn reconcile(state: &mut State, key: &Key) {
    let Some(service) = state.store.get(SERVICES, key).cloned() else {
        return;
    };
    let service = &service.value;
    if service["spec"]["type"] == "ExternalName" || !service["spec"]["selector"].is_object() {
        return;
    }
    let in_namespace = state.store.objects(PODS).range((key.0.clone(), String::new())..);
    let pods: Vec<Arc<Object>> = in_namespace
        .take_while(|((namespace, _), _)| *namespace == key.0)
        .filter(|(_, pod)| selects(service, &pod.value))
        .map(|(_, pod)| pod.clone())
        .collect();
    let trigger = trigger_time(state, key, service, &pods);
    let existing = own_slices(state, key);
    let families: Vec<&str> = service["spec"]["ipFamilies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for slice in &existing {
        if !families
            .iter()
            .any(|family| slice.value["addressType"] == *family)
        {
            remove(state, &slice.value);
        }
    }
    for family in families {
        let groups = wanted(state, service, &pods, family);
        let own: Vec<&Value> = existing
            .iter()
            .map(|slice| &slice.value)
            .filter(|slice| slice["addressType"] == family)
            .collect();
        let plan = plan(groups, &own);
        carry_out(state, service, family, plan, trigger.as_deref());
    }
}

/// When what changes now happened: the earliest of the times that pods turned, and, for a new Service, when it was made
/// (`k8s.io/endpointslice/util/trigger_time_tracker.go`).
fn trigger_time(state: &mut State, key: &Key, service: &Value, pods: &[Arc<Object>]) -> Option<String> {
    let times: BTreeMap<String, String> = pods
        .iter()
        .filter_map(|pod| {
            let name = pod.value["metadata"]["name"].as_str()?;
            Some((name.to_owned(), endpoint::turned(&pod.value)?.to_owned()))
        })
        .collect();
    let mut changed = Vec::new();
    let old = match state.controllers.seen.entry(key.clone()) {
        Entry::Vacant(place) => {
            changed.extend(
                service["metadata"]["creationTimestamp"]
                    .as_str()
                    .map(str::to_owned),
            );
            place.insert(times.clone());
            BTreeMap::new()
        }
        Entry::Occupied(mut place) => place.insert(times.clone()),
    };
    changed.extend(
        times
            .into_iter()
            .filter(|(name, time)| old.get(name) != Some(time))
            .map(|(_, time)| time),
    );
    // Times in whole seconds of UTC are ordered as their texts are.
    changed.into_iter().min()
}

/// The endpoints that there must be, by their ports.
fn wanted(state: &State, service: &Value, pods: &[Arc<Object>], family: &str) -> Groups {
    let mut groups = Groups::new();
    for pod in pods
        .iter()
        .map(|pod| &pod.value)
        .filter(|pod| endpoint::is_candidate(pod))
    {
        let node = (
            String::new(),
            pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned(),
        );
        let node = state.store.get(NODES, &node).map(|node| &node.value);
        if let Some(endpoint) = endpoint::endpoint(service, pod, node, family) {
            let ports = endpoint::ports(service, pod);
            let (_, group) = groups
                .entry(ports.to_string())
                .or_insert_with(|| (ports, BTreeMap::new()));
            group.insert(endpoint::identity(&endpoint), endpoint);
        }
    }
    groups
}

/// Ports as text → ports, and endpoints by identity.
type Groups = BTreeMap<String, (Value, BTreeMap<String, Value>)>;

/// What is to be done with the slices of a family.
#[derive(Default)]
struct Plan {
    /// Slices whose content may be another now.
    kept: Vec<Planned>,
    new: Vec<(Value, Vec<Value>)>,
    /// Slices that hold nothing any more.
    gone: Vec<Value>,
}

/// A slice and what it is to hold.
struct Planned {
    slice: Value,
    ports: Value,
    endpoints: Vec<Value>,
}

/// Leaves endpoints in the slices where they are, fills up those that change anyway, and makes new ones last.
fn plan(groups: Groups, existing: &[&Value]) -> Plan {
    let mut plan = Plan::default();
    for slice in existing {
        if !groups.contains_key(&slice["ports"].to_string()) {
            plan.gone.push((*slice).clone());
        }
    }
    for (ports, mut endpoints) in groups.into_values() {
        let mut own = Vec::new();
        for slice in existing.iter().filter(|slice| slice["ports"] == ports) {
            let had = slice["endpoints"].as_array().cloned().unwrap_or_default();
            let stay: Vec<Value> = had
                .iter()
                .filter_map(|one| endpoints.remove(&endpoint::identity(one)))
                .collect();
            if stay.is_empty() && !had.is_empty() {
                plan.gone.push((*slice).clone());
                continue;
            }
            let changed = stay != had;
            let planned = Planned {
                slice: (*slice).clone(),
                ports: ports.clone(),
                endpoints: stay,
            };
            own.push((changed, planned));
        }
        let mut rest: Vec<Value> = endpoints.into_values().collect();
        for (_, one) in own.iter_mut().filter(|(changed, _)| *changed) {
            let room = FULL.saturating_sub(one.endpoints.len()).min(rest.len());
            one.endpoints.extend(rest.drain(..room));
        }
        let mut own: Vec<Planned> = own.into_iter().map(|(_, one)| one).collect();
        let fits = |one: &&mut Planned| one.endpoints.len() + rest.len() <= FULL;
        if !rest.is_empty()
            && let Some(one) = own.iter_mut().filter(fits).max_by_key(|one| one.endpoints.len())
        {
            one.endpoints.append(&mut rest);
        }
        while !rest.is_empty() {
            let some = rest.drain(..rest.len().min(FULL)).collect();
            plan.new.push((ports.clone(), some));
        }
        plan.kept.append(&mut own);
    }
    if plan.kept.is_empty() && plan.new.is_empty() {
        // A Service has a slice, be it an empty one without ports.
        plan.new.push((Value::Null, Vec::new()));
    }
    plan
}

fn carry_out(state: &mut State, service: &Value, family: &str, mut plan: Plan, trigger: Option<&str>) {
    // What is new takes the place of what is gone.
    let reused = plan.new.len().min(plan.gone.len());
    for ((ports, endpoints), slice) in plan.new.drain(..reused).zip(plan.gone.drain(..reused)) {
        plan.kept.push(Planned {
            slice,
            ports,
            endpoints,
        });
    }
    for one in plan.kept {
        let mut slice = one.slice.clone();
        fill(&mut slice, service, one.ports, one.endpoints);
        if slice != one.slice {
            set_trigger(&mut slice, trigger);
            // It was there just now.
            let _ = state.store.update(SLICES, slice);
        }
    }
    for (ports, endpoints) in plan.new {
        let meta = &service["metadata"];
        let mut slice = json!({
            "metadata": {
                "namespace": meta["namespace"],
                "generateName": format!("{}-", meta["name"].as_str().unwrap_or_default()),
                "generation": 1,
                "ownerReferences": [{
                    "apiVersion": "v1", "kind": "Service", "name": meta["name"], "uid": meta["uid"],
                    "controller": true, "blockOwnerDeletion": true,
                }],
            },
            "addressType": family,
        });
        fill(&mut slice, service, ports, endpoints);
        set_trigger(&mut slice, trigger);
        // Its name is a new one.
        let _ = state.store.create(SLICES, slice);
    }
    for slice in plan.gone {
        remove(state, &slice);
    }
}

/// Ports, endpoints and labels of a slice. Empty lists are null, as the real controller's encoder has them.
fn fill(slice: &mut Value, service: &Value, ports: Value, endpoints: Vec<Value>) {
    let mut labels = service["metadata"]["labels"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    labels.remove(HEADLESS);
    labels.remove(endpoint::ZONE);
    labels.insert(SERVICE_NAME.to_owned(), service["metadata"]["name"].clone());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.into());
    if service["spec"]["clusterIP"] == "None" {
        labels.insert(HEADLESS.to_owned(), "".into());
    }
    slice["metadata"]["labels"] = labels.into();
    slice["ports"] = ports;
    slice["endpoints"] = if endpoints.is_empty() {
        Value::Null
    } else {
        endpoints.into()
    };
}

fn set_trigger(slice: &mut Value, trigger: Option<&str>) {
    let meta = &mut slice["metadata"];
    match (trigger, meta["annotations"].as_object_mut()) {
        (Some(time), Some(annotations)) => {
            annotations.insert(TRIGGER.to_owned(), time.into());
        }
        (Some(time), None) => meta["annotations"] = json!({TRIGGER: time}),
        (None, Some(annotations)) => {
            annotations.remove(TRIGGER);
        }
        (None, None) => {
            // Indexing has put a null there.
            if let Some(meta) = meta.as_object_mut() {
                meta.remove("annotations");
            }
        }
    }
}
