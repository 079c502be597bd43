//! EndpointSlices as the controller keeps them.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, api::ListParams};
use lb_testkit::api::{ApiServer, Pod};
use serde_json::{Value, json};

use crate::client;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Pod number `number` of `app: web` on node1.
fn pod(number: u8) -> Pod {
    let ips = [
        ip(&format!("10.244.1.{number}")),
        ip(&format!("fd00:10:244:1::{number}")),
    ];
    Pod::new(&format!("web-{number}"), &ips)
        .label("app", "web")
        .node("node1")
}

fn web() -> Value {
    json!({"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]})
}

fn server() -> ApiServer {
    let api = ApiServer::on_loopback().unwrap();
    api.create_node("node1", &[ip("172.18.0.2")], Some("a")).unwrap();
    api.create_service("web", &web()).unwrap();
    api
}

/// All endpoints of `web`.
fn endpoints(api: &ApiServer) -> Vec<Value> {
    let slices = api.slices("default/web");
    let all = slices.iter().filter_map(|slice| slice["endpoints"].as_array());
    all.flatten().cloned().collect()
}

fn conditions(ready: bool, serving: bool, terminating: bool) -> Value {
    json!({"ready": ready, "serving": serving, "terminating": terminating})
}

#[tokio::test]
async fn pods_become_endpoints() {
    let api = server();
    let pod = api.create_pod(pod(1)).unwrap();
    let slices: Api<EndpointSlice> = Api::namespaced(client(&api).await, "default");
    let list = slices.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(list.len(), 1);
    let slice = &list[0];
    assert!(slice.metadata.name.as_ref().unwrap().starts_with("web-"));
    let labels = slice.metadata.labels.as_ref().unwrap();
    assert_eq!(labels["kubernetes.io/service-name"], "web");
    assert_eq!(
        labels["endpointslice.kubernetes.io/managed-by"],
        "endpointslice-controller.k8s.io"
    );
    assert_eq!(slice.metadata.owner_references.as_ref().unwrap()[0].name, "web");
    assert_eq!(slice.address_type, "IPv4");
    let port = &slice.ports.as_ref().unwrap()[0];
    assert_eq!((port.name.as_deref(), port.port), (Some("http"), Some(8080)));
    let endpoint = serde_json::to_value(&slice.endpoints[0]).unwrap();
    assert_eq!(
        endpoint,
        json!({
            "addresses": ["10.244.1.1"],
            "conditions": conditions(true, true, false),
            "nodeName": "node1",
            "zone": "a",
            "targetRef": {"kind": "Pod", "namespace": "default", "name": "web-1", "uid": pod["metadata"]["uid"]},
        })
    );
}

#[tokio::test]
async fn a_service_without_pods_has_an_empty_slice() {
    let api = server();
    let slices: Api<EndpointSlice> = Api::all(client(&api).await);
    let list = slices.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(list.len(), 1);
    assert!(list[0].endpoints.is_empty() && list[0].ports.is_none());
    let version = api.version();
    // Its own name, and no change by looking again.
    api.patch(
        "services",
        "default/web",
        &json!({"spec": {"sessionAffinity": "ClientIP"}}),
    )
    .unwrap();
    assert_eq!(api.version(), version + 1);
}

#[test]
fn conditions_follow_readiness_and_termination() {
    let api = server();
    api.create_pod(pod(1).unready()).unwrap();
    let now = |api: &ApiServer| endpoints(api)[0]["conditions"].clone();
    assert_eq!(now(&api), conditions(false, false, false));
    api.set_ready("default/web-1", true).unwrap();
    assert_eq!(now(&api), conditions(true, true, false));
    api.terminate("default/web-1").unwrap();
    assert_eq!(now(&api), conditions(false, true, true));
    api.set_ready("default/web-1", false).unwrap();
    assert_eq!(now(&api), conditions(false, false, true));
    let publish = |yes: bool| json!({"spec": {"publishNotReadyAddresses": yes}});
    api.patch("services", "default/web", &publish(true)).unwrap();
    assert_eq!(now(&api), conditions(true, false, true));
    api.patch("services", "default/web", &publish(false)).unwrap();
    assert_eq!(now(&api), conditions(false, false, true));
    api.evict("default/web-1").unwrap();
    assert!(endpoints(&api).is_empty());
    api.delete("pods", "default/web-1").unwrap();
    assert_eq!(api.slices("web").len(), 1);
}

#[test]
fn labels_and_selectors_decide_who_is_an_endpoint() {
    let api = server();
    api.create_pod(pod(1)).unwrap();
    api.create_pod(pod(2).label("app", "other")).unwrap();
    assert_eq!(endpoints(&api).len(), 1);
    let label = |app: &str| json!({"metadata": {"labels": {"app": app}}});
    api.patch("pods", "default/web-2", &label("web")).unwrap();
    assert_eq!(endpoints(&api).len(), 2);
    api.patch("pods", "default/web-1", &label("other")).unwrap();
    assert_eq!(endpoints(&api)[0]["addresses"], json!(["10.244.1.2"]));
    api.patch(
        "services",
        "default/web",
        &json!({"spec": {"selector": {"app": "other"}}}),
    )
    .unwrap();
    assert_eq!(endpoints(&api)[0]["addresses"], json!(["10.244.1.1"]));
}

#[test]
fn dual_stack_services_have_slices_of_both_families() {
    let api = server();
    api.create_pod(pod(1)).unwrap();
    api.patch(
        "services",
        "default/web",
        &json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}}),
    )
    .unwrap();
    let slices = api.slices("web");
    let of = |family: &str| {
        slices
            .iter()
            .find(|slice| slice["addressType"] == family)
            .unwrap()
    };
    assert_eq!(of("IPv4")["endpoints"][0]["addresses"], json!(["10.244.1.1"]));
    assert_eq!(
        of("IPv6")["endpoints"][0]["addresses"],
        json!(["fd00:10:244:1::1"])
    );
    api.patch(
        "services",
        "default/web",
        &json!({"spec": {"ipFamilyPolicy": "SingleStack"}}),
    )
    .unwrap();
    assert_eq!(api.slices("web").len(), 1);
}

#[test]
fn named_ports_with_different_numbers_go_to_different_slices() {
    let api = server();
    let ports = json!([{"name": "http", "port": 80, "targetPort": "web"}]);
    api.patch("services", "default/web", &json!({"spec": {"ports": ports}}))
        .unwrap();
    api.create_pod(pod(1).port("web", "TCP", 8080)).unwrap();
    api.create_pod(pod(2).port("web", "TCP", 9090)).unwrap();
    api.create_pod(pod(3).port("web", "UDP", 7070)).unwrap();
    let mut seen: Vec<(Value, Value)> = api
        .slices("web")
        .iter()
        .map(|slice| {
            (
                slice["ports"][0]["port"].clone(),
                slice["endpoints"][0]["addresses"][0].clone(),
            )
        })
        .collect();
    seen.sort_by_key(|(_, address)| address.to_string());
    assert_eq!(
        seen,
        [
            (json!(8080), json!("10.244.1.1")),
            (json!(9090), json!("10.244.1.2")),
            // It has no such port, and stays without.
            (Value::Null, json!("10.244.1.3")),
        ]
    );
}

#[test]
fn slices_hold_a_hundred_endpoints_and_endpoints_stay_where_they_are() {
    let api = server();
    for number in 1..=150 {
        api.create_pod(pod(number)).unwrap();
    }
    let sizes = |api: &ApiServer| {
        let mut sizes: Vec<usize> = api
            .slices("web")
            .iter()
            .map(|slice| slice["endpoints"].as_array().map_or(0, Vec::len))
            .collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes(&api), [50, 100]);
    let before = api.version();
    api.delete("pods", "default/web-150").unwrap();
    // The pod, and the slice that had it.
    assert_eq!(api.version(), before + 2);
    assert_eq!(sizes(&api).iter().sum::<usize>(), 149);
}

#[test]
fn hints_follow_the_traffic_distribution() {
    let api = server();
    api.create_pod(pod(1)).unwrap();
    api.create_pod(pod(2).unready()).unwrap();
    let hints = |distribution: Value| {
        api.patch(
            "services",
            "default/web",
            &json!({"spec": {"trafficDistribution": distribution}}),
        )
        .unwrap();
        let mut all = endpoints(&api);
        all.sort_by_key(|one| one["addresses"].to_string());
        assert_eq!(all[1]["hints"], Value::Null, "it is not ready");
        all[0]["hints"].clone()
    };
    assert_eq!(hints(json!("PreferClose")), json!({"forZones": [{"name": "a"}]}));
    assert_eq!(
        hints(json!("PreferSameZone")),
        json!({"forZones": [{"name": "a"}]})
    );
    assert_eq!(
        hints(json!("PreferSameNode")),
        json!({"forZones": [{"name": "a"}], "forNodes": [{"name": "node1"}]})
    );
    assert_eq!(hints(Value::Null), Value::Null);
}

#[test]
fn headless_services_are_marked_on_their_slices() {
    let api = server();
    let headless = json!({"clusterIP": "None", "selector": {"app": "web"}});
    api.create_service("none", &headless).unwrap();
    api.create_pod(pod(1)).unwrap();
    let slice = &api.slices("none")[0];
    assert_eq!(slice["metadata"]["labels"]["service.kubernetes.io/headless"], "");
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["10.244.1.1"]));
    assert_eq!(
        api.slices("web")[0]["metadata"]["labels"]["service.kubernetes.io/headless"],
        Value::Null
    );
}

#[test]
fn the_time_of_a_change_is_noted() {
    const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";
    let api = server();
    let pod = api.create_pod(pod(1)).unwrap();
    let turned = &pod["status"]["conditions"][0]["lastTransitionTime"];
    let noted = |api: &ApiServer| api.slices("web")[0]["metadata"]["annotations"][TRIGGER].clone();
    assert_eq!(noted(&api), *turned);
    let later = json!([{"type": "Ready", "status": "False", "lastTransitionTime": "2100-01-02T03:04:05Z"}]);
    api.patch("pods", "default/web-1", &json!({"status": {"conditions": later}}))
        .unwrap();
    assert_eq!(noted(&api), "2100-01-02T03:04:05Z");
    // A change that no pod caused has no time.
    api.patch(
        "services",
        "default/web",
        &json!({"spec": {"ports": [{"port": 81}]}}),
    )
    .unwrap();
    assert_eq!(noted(&api), Value::Null);
}

#[test]
fn slices_go_with_their_service_and_others_are_left_alone() {
    let api = server();
    api.create_pod(pod(1)).unwrap();
    let name = api.slices("web")[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let own = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "default", "name": "web-by-hand", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["192.0.2.1"]}],
    });
    api.create(own).unwrap();
    api.delete("endpointslices", &format!("default/{name}")).unwrap();
    assert_eq!(endpoints(&api).len(), 2, "the controller makes its slice anew");
    api.patch(
        "services",
        "default/web",
        &json!({"spec": {"type": "ExternalName", "externalName": "x"}}),
    )
    .unwrap();
    assert_eq!(endpoints(&api).len(), 2, "the real controller leaves them too");
    api.delete("services", "default/web").unwrap();
    assert_eq!(endpoints(&api).len(), 1);
}
