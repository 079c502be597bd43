//! TLS, tokens, and requests about one object.

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use lb_testkit::api::{Access, ApiServer, Verb};
use serde_json::json;
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject as _};

use crate::{client, client_as, service};

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("not an answer of the server: {other}"),
    }
}

#[tokio::test]
async fn a_client_with_a_kubeconfig_talks_to_the_server() {
    let api = ApiServer::on_loopback().unwrap();
    let client = client(&api).await;
    assert_eq!(client.apiserver_version().await.unwrap().major, "1");
    let groups = client.list_api_groups().await.unwrap();
    assert!(groups.groups.iter().any(|group| group.name == "discovery.k8s.io"));
    let resources = client.list_core_api_resources("v1").await.unwrap();
    assert!(
        resources
            .resources
            .iter()
            .any(|one| one.name == "services" && one.namespaced)
    );
    let namespaces: Api<Namespace> = Api::all(client);
    assert_eq!(
        namespaces.list(&ListParams::default()).await.unwrap().items.len(),
        2
    );
    assert_eq!(api.requests(Verb::List, "namespaces"), 1);
    assert_eq!(api.connections(), 1);
}

#[tokio::test]
async fn a_server_with_another_authority_is_not_trusted() {
    let api = ApiServer::on_loopback().unwrap();
    let other = ApiServer::on_loopback().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    other
        .kubeconfig(&path, lb_testkit::api::ADMIN, &api.urls())
        .unwrap();
    let kubeconfig = kube::config::Kubeconfig::read_from(&path).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
    let client = Client::try_from(config.unwrap()).unwrap();
    let error = client.apiserver_version().await.unwrap_err();
    assert!(format!("{error:?}").contains("InvalidCertificate"), "{error:?}");
}

#[tokio::test]
async fn wrong_tokens_and_missing_rights_are_told_apart() {
    let api = ApiServer::on_loopback().unwrap();
    let services: Api<Service> = Api::all(client_as(&api, "wrong").await);
    assert_eq!(
        code(&services.list(&ListParams::default()).await.unwrap_err()),
        401
    );

    let role = json!({"rules": [{"apiGroups": [""], "resources": ["services"], "verbs": ["list", "watch"]}]});
    api.user(
        "token",
        "system:serviceaccount:kube-system:fairlead",
        Access::rules(&role),
    );
    let client = client_as(&api, "token").await;
    let services: Api<Service> = Api::all(client.clone());
    assert!(services.list(&ListParams::default()).await.is_ok());
    let slices: Api<EndpointSlice> = Api::all(client.clone());
    let error = slices.list(&ListParams::default()).await.unwrap_err();
    assert_eq!(code(&error), 403);
    assert!(
        error.to_string().contains(
            "endpointslices.discovery.k8s.io is forbidden: User \"system:serviceaccount:kube-system:fairlead\" cannot \
             list resource \"endpointslices\" in API group \"discovery.k8s.io\" at the cluster scope"
        ),
        "{error}"
    );
    api.forget_user("token");
    assert_eq!(
        code(&services.list(&ListParams::default()).await.unwrap_err()),
        401
    );
}

#[tokio::test]
async fn a_pod_finds_the_server_by_its_service_account() {
    let api = ApiServer::on_loopback().unwrap();
    let folder = tempfile::tempdir().unwrap();
    api.service_account(folder.path(), lb_testkit::api::ADMIN, "kube-system")
        .unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read("namespace"), "kube-system");
    // kube reads these files at a fixed path: what it makes of them is made here.
    let mut config = Config::new(api.url().parse().unwrap());
    let ca = CertificateDer::from_pem_slice(read("ca.crt").as_bytes()).unwrap();
    config.root_cert = Some(vec![ca.to_vec()]);
    config.auth_info.token_file = Some(folder.path().join("token").display().to_string());
    let client = Client::try_from(config).unwrap();
    let nodes: Api<Node> = Api::all(client);
    assert!(nodes.list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn objects_are_made_read_changed_and_removed() {
    let api = ApiServer::on_loopback().unwrap();
    let services: Api<Service> = Api::namespaced(client(&api).await, "default");
    let post = PostParams::default();
    let new: Service = serde_json::from_value(service("web")).unwrap();
    let stored = services.create(&post, &new).await.unwrap();
    assert!(stored.metadata.uid.is_some() && stored.metadata.creation_timestamp.is_some());
    assert_eq!(code(&services.create(&post, &new).await.unwrap_err()), 409);
    assert_eq!(services.get("web").await.unwrap(), stored);
    assert_eq!(code(&services.get("none").await.unwrap_err()), 404);

    let mut changed = stored.clone();
    changed.spec.as_mut().unwrap().external_ips = Some(vec!["192.0.2.1".to_owned()]);
    let updated = services.replace("web", &post, &changed).await.unwrap();
    assert_ne!(
        updated.metadata.resource_version,
        stored.metadata.resource_version
    );
    let error = services.replace("web", &post, &stored).await.unwrap_err();
    assert_eq!(code(&error), 409);

    let patch = json!({"metadata": {"labels": {"a": "b"}}});
    let patched = services
        .patch("web", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    assert_eq!(patched.metadata.labels.unwrap()["a"], "b");
    assert_eq!(
        api.get("services", "default/web").unwrap()["metadata"]["labels"]["a"],
        "b"
    );

    services.delete("web", &DeleteParams::default()).await.unwrap();
    assert_eq!(api.get("services", "default/web"), None);
    assert_eq!(
        code(
            &services
                .delete("web", &DeleteParams::default())
                .await
                .unwrap_err()
        ),
        404
    );
}

#[tokio::test]
async fn status_is_written_apart_from_the_object() {
    let api = ApiServer::on_loopback().unwrap();
    api.create(service("web")).unwrap();
    let services: Api<Service> = Api::namespaced(client(&api).await, "default");
    let status =
        json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}, "spec": {"type": "X"}});
    let after = services
        .patch_status("web", &PatchParams::default(), &Patch::Merge(status))
        .await
        .unwrap();
    assert_ne!(after.spec.unwrap().type_.as_deref(), Some("X"));
    let change = json!({"status": null, "metadata": {"labels": {"a": "b"}}});
    services
        .patch("web", &PatchParams::default(), &Patch::Merge(change))
        .await
        .unwrap();
    let stored = api.get("services", "default/web").unwrap();
    assert_eq!(stored["status"]["loadBalancer"]["ingress"][0]["ip"], "192.0.2.9");
    assert_eq!(stored["metadata"]["labels"]["a"], "b");
}

#[tokio::test]
async fn json_patches_change_and_test() {
    let api = ApiServer::on_loopback().unwrap();
    api.create(service("web")).unwrap();
    let client = client(&api).await;
    let send = |operations: serde_json::Value| {
        let client = client.clone();
        async move {
            let request = hyper::Request::patch("/api/v1/namespaces/default/services/web")
                .header("content-type", "application/json-patch+json")
                .body(operations.to_string().into_bytes())
                .unwrap();
            client.request::<Service>(request).await
        }
    };
    let port = json!([{"op": "test", "path": "/spec/ports/0/port", "value": 80},
        {"op": "replace", "path": "/spec/ports/0/port", "value": 81}]);
    assert_eq!(
        send(port.clone()).await.unwrap().spec.unwrap().ports.unwrap()[0].port,
        81
    );
    assert_eq!(code(&send(port).await.unwrap_err()), 422);
}

#[tokio::test]
async fn events_are_recorded_and_counted() {
    let api = ApiServer::on_loopback().unwrap();
    let stored = api.create(service("web")).unwrap();
    let recorder = Recorder::new(client(&api).await, Reporter::from("fairlead"));
    let service: Service = serde_json::from_value(stored).unwrap();
    let event = Event {
        type_: EventType::Warning,
        reason: "FailedToStartServiceHealthcheck".to_owned(),
        note: Some("port taken".to_owned()),
        action: "Listen".to_owned(),
        secondary: None,
    };
    let reference = kube::Resource::object_ref(&service, &());
    for _ in 0..2 {
        recorder.publish(&event, &reference).await.unwrap();
    }
    let events = api.list("events.events.k8s.io");
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["regarding"]["name"], "web");
    assert_eq!(events[0]["series"]["count"], 2);
}

#[tokio::test]
async fn every_resource_is_read_by_its_type() {
    let api = ApiServer::on_loopback().unwrap();
    api.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}}))
        .unwrap();
    api.create(
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}),
    )
    .unwrap();
    api.create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "a", "name": "p"}}))
        .unwrap();
    api.create(
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "a", "name": "s"}, "endpoints": [{"addresses": ["10.0.0.1"]}]}),
    )
    .unwrap();
    let client = client(&api).await;
    let all = ListParams::default();
    assert_eq!(
        Api::<Node>::all(client.clone())
            .list(&all)
            .await
            .unwrap()
            .items
            .len(),
        1
    );
    assert_eq!(
        Api::<Pod>::all(client.clone())
            .list(&all)
            .await
            .unwrap()
            .items
            .len(),
        1
    );
    let cidrs = Api::<ServiceCIDR>::all(client.clone()).list(&all).await.unwrap();
    assert_eq!(
        cidrs.items[0].spec.as_ref().unwrap().cidrs.as_deref(),
        Some(&["10.96.0.0/16".to_owned()][..])
    );
    let slices = Api::<EndpointSlice>::all(client).list(&all).await.unwrap();
    assert_eq!(slices.items[0].endpoints[0].addresses, ["10.0.0.1"]);
}
