//! Services as the server completes them.

use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use lb_testkit::api::ApiServer;
use serde_json::{Value, json};

use crate::{client, service};

fn created(api: &ApiServer, name: &str, spec: &Value) -> Value {
    api.create_service(name, spec).unwrap()["spec"].take()
}

fn patched(api: &ApiServer, name: &str, spec: &Value) -> Value {
    let name = format!("default/{name}");
    api.patch("services", &name, &json!({"spec": spec})).unwrap()["spec"].take()
}

#[tokio::test]
async fn what_a_service_leaves_out_is_filled_in() {
    let api = ApiServer::on_loopback().unwrap();
    let services: Api<Service> = Api::namespaced(client(&api).await, "default");
    let new: Service = serde_json::from_value(service("web")).unwrap();
    let spec = services
        .create(&PostParams::default(), &new)
        .await
        .unwrap()
        .spec
        .unwrap();
    assert_eq!(spec.type_.as_deref(), Some("ClusterIP"));
    assert_eq!(spec.session_affinity.as_deref(), Some("None"));
    assert_eq!(spec.internal_traffic_policy.as_deref(), Some("Cluster"));
    assert_eq!(spec.external_traffic_policy, None);
    assert_eq!(spec.ip_families.as_deref(), Some(&["IPv4".to_owned()][..]));
    assert_eq!(spec.ip_family_policy.as_deref(), Some("SingleStack"));
    assert_eq!(spec.cluster_ips.unwrap(), [spec.cluster_ip.clone().unwrap()]);
    let port = &spec.ports.unwrap()[0];
    assert_eq!(port.protocol.as_deref(), Some("TCP"));
    assert_eq!(serde_json::to_value(&port.target_port).unwrap(), json!(port.port));
    assert_eq!(port.node_port, None);
    let patch = json!({"spec": {"sessionAffinity": "ClientIP"}});
    let affine = services
        .patch("web", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap()
        .spec
        .unwrap();
    let seconds = affine
        .session_affinity_config
        .unwrap()
        .client_ip
        .unwrap()
        .timeout_seconds;
    assert_eq!(seconds, Some(10_800));
    assert_eq!(affine.cluster_ip, spec.cluster_ip);
}

#[test]
fn dual_stack_services_have_an_address_of_each_family() {
    let api = ApiServer::on_loopback().unwrap();
    let spec = created(
        &api,
        "dual",
        &json!({"ipFamilyPolicy": "PreferDualStack", "ports": [{"port": 80}]}),
    );
    assert_eq!(spec["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(spec["clusterIPs"].as_array().unwrap().len(), 2);
    assert!(
        spec["clusterIPs"][1]
            .as_str()
            .unwrap()
            .starts_with("fd00:10:96::")
    );
    let first_is_six = json!({"ipFamilies": ["IPv6"], "ipFamilyPolicy": "RequireDualStack"});
    assert_eq!(
        created(&api, "six", &first_is_six)["ipFamilies"],
        json!(["IPv6", "IPv4"])
    );
    let less = patched(&api, "dual", &json!({"ipFamilyPolicy": "SingleStack"}));
    assert_eq!(less["clusterIPs"], json!([spec["clusterIP"]]));
    assert_eq!(less["ipFamilies"], json!(["IPv4"]));
    let more = patched(&api, "dual", &json!({"ipFamilyPolicy": "PreferDualStack"}));
    assert_eq!(more["clusterIPs"].as_array().unwrap().len(), 2);
    assert_eq!(more["clusterIP"], spec["clusterIP"]);

    api.cluster_families(&["IPv4"]);
    let single = created(&api, "single", &json!({"ipFamilyPolicy": "PreferDualStack"}));
    assert_eq!(single["ipFamilies"], json!(["IPv4"]));
    assert!(
        api.create_service("none", &json!({"ipFamilyPolicy": "RequireDualStack"}))
            .is_err()
    );
}

#[test]
fn an_address_belongs_to_one_service_until_that_is_gone() {
    let api = ApiServer::on_loopback().unwrap();
    let chosen = json!({"clusterIP": "10.96.0.10", "ports": [{"port": 80}]});
    assert_eq!(created(&api, "a", &chosen)["clusterIPs"], json!(["10.96.0.10"]));
    let error = api.create_service("b", &chosen).unwrap_err().to_string();
    assert!(error.contains("provided IP is already allocated"), "{error}");
    api.delete("services", "default/a").unwrap();
    created(&api, "b", &chosen);
    // A Service that is not stored holds nothing, and takes nothing from the one of its name.
    assert!(
        api.create_service("b", &json!({"clusterIP": "10.96.0.11"}))
            .is_err()
    );
    created(&api, "e", &json!({"clusterIP": "10.96.0.11"}));
    assert!(api.create_service("f", &chosen).is_err());
    let one = created(&api, "c", &json!({}));
    let two = created(&api, "d", &json!({}));
    assert_ne!(one["clusterIP"], two["clusterIP"]);
}

#[test]
fn node_ports_are_allocated_kept_and_released_with_the_type() {
    let api = ApiServer::on_loopback().unwrap();
    let ports = json!([{"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}]);
    let spec = created(&api, "dns", &json!({"type": "NodePort", "ports": ports}));
    let node_port = spec["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30_000..=32_767).contains(&node_port));
    assert_eq!(spec["ports"][1]["nodePort"], node_port);
    assert_eq!(spec["externalTrafficPolicy"], "Cluster");
    // What names no node port keeps the one it has.
    let again = patched(&api, "dns", &json!({"ports": ports}));
    assert_eq!(again["ports"][0]["nodePort"], node_port);
    let taken = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": node_port}]});
    assert!(api.create_service("other", &taken).is_err());
    let inside = patched(&api, "dns", &json!({"type": "ClusterIP"}));
    assert_eq!(inside["ports"][0]["nodePort"], Value::Null);
    assert_eq!(inside["externalTrafficPolicy"], Value::Null);
    assert_eq!(inside["clusterIP"], spec["clusterIP"]);
    created(&api, "other", &taken);
}

#[test]
fn load_balancers_have_health_check_ports_under_the_local_policy() {
    let api = ApiServer::on_loopback().unwrap();
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    let spec = created(&api, "lb", &local);
    assert!(spec["healthCheckNodePort"].as_u64().unwrap() >= 30_000);
    assert_eq!(spec["allocateLoadBalancerNodePorts"], true);
    assert_ne!(spec["healthCheckNodePort"], spec["ports"][0]["nodePort"]);
    let cluster = patched(&api, "lb", &json!({"externalTrafficPolicy": "Cluster"}));
    assert_eq!(cluster["healthCheckNodePort"], Value::Null);
    let without =
        json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]});
    assert_eq!(
        created(&api, "bare", &without)["ports"][0]["nodePort"],
        Value::Null
    );
}

#[test]
fn an_external_name_has_no_address_and_gets_one_when_it_turns_back() {
    let api = ApiServer::on_loopback().unwrap();
    let spec = created(&api, "web", &json!({"type": "NodePort", "ports": [{"port": 80}]}));
    let external = patched(
        &api,
        "web",
        &json!({"type": "ExternalName", "externalName": "example.com"}),
    );
    for field in [
        "clusterIP",
        "clusterIPs",
        "ipFamilies",
        "ipFamilyPolicy",
        "internalTrafficPolicy",
    ] {
        assert_eq!(external[field], Value::Null, "{field}");
    }
    assert_eq!(external["ports"][0]["nodePort"], Value::Null);
    // Both are free again.
    let port = &spec["ports"][0]["nodePort"];
    created(
        &api,
        "next",
        &json!({"type": "NodePort", "clusterIP": spec["clusterIP"], "ports": [{"port": 1, "nodePort": port}]}),
    );
    let back = patched(&api, "web", &json!({"type": "NodePort", "externalName": null}));
    assert!(back["clusterIP"].is_string() && back["clusterIP"] != spec["clusterIP"]);
    assert!(back["ports"][0]["nodePort"].is_u64() && back["ports"][0]["nodePort"] != *port);
}

#[test]
fn headless_services_have_no_address() {
    let api = ApiServer::on_loopback().unwrap();
    let spec = created(&api, "web", &json!({"clusterIP": "None", "selector": {"a": "b"}}));
    assert_eq!(spec["clusterIPs"], json!(["None"]));
    assert_eq!(spec["ipFamilies"], json!(["IPv4"]));
    let spec = created(&api, "bare", &json!({"clusterIP": "None"}));
    assert_eq!(spec["ipFamilyPolicy"], "RequireDualStack");
}

#[test]
fn the_server_publishes_itself() {
    let api = ApiServer::on_loopback().unwrap();
    let spec = api.publish_itself().unwrap()["spec"].take();
    assert_eq!(spec["clusterIP"], "10.96.0.1");
    let slices = api.slices("kubernetes");
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0]["endpoints"][0]["addresses"], json!(["127.0.0.1"]));
    assert_eq!(slices[0]["ports"][0]["port"], spec["ports"][0]["targetPort"]);
}
