//! Lists.

use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    api::{ListParams, VersionMatch},
};
use lb_testkit::api::ApiServer;
use serde_json::json;

use crate::{client, service};

fn names(list: &[Service]) -> Vec<&str> {
    list.iter()
        .filter_map(|service| service.metadata.name.as_deref())
        .collect()
}

async fn services(api: &ApiServer) -> Api<Service> {
    Api::all(client(api).await)
}

fn is_expired(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410 && status.reason == "Expired")
}

#[tokio::test]
async fn selectors_choose() {
    let api = ApiServer::on_loopback().unwrap();
    api.create(service("plain")).unwrap();
    let mut headless = service("headless");
    headless["spec"]["clusterIP"] = "None".into();
    api.create(headless).unwrap();
    let mut other = service("other");
    other["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "another"});
    api.create(other).unwrap();
    let list = services(&api).await;
    let ask = ListParams::default()
        .labels("!service.kubernetes.io/service-proxy-name")
        .fields("spec.clusterIP!=None");
    assert_eq!(names(&list.list(&ask).await.unwrap().items), ["plain"]);
    let ask = ListParams::default().fields("spec.ports=80");
    assert!(matches!(list.list(&ask).await, Err(kube::Error::Api(status)) if status.code == 400));
}

#[tokio::test]
async fn a_namespace_is_listed_alone() {
    let api = ApiServer::on_loopback().unwrap();
    api.create(service("here")).unwrap();
    let mut elsewhere = service("there");
    elsewhere["metadata"]["namespace"] = "kube-system".into();
    api.create(elsewhere).unwrap();
    let client = client(&api).await;
    let all = ListParams::default();
    let one: Api<Service> = Api::namespaced(client.clone(), "kube-system");
    assert_eq!(names(&one.list(&all).await.unwrap().items), ["there"]);
    let both: Api<Service> = Api::all(client);
    assert_eq!(names(&both.list(&all).await.unwrap().items), ["here", "there"]);
}

#[tokio::test]
async fn pages_show_one_state_until_it_is_forgotten() {
    let api = ApiServer::on_loopback().unwrap();
    for name in ["a", "b", "c", "d", "e"] {
        api.create(service(name)).unwrap();
    }
    let list = services(&api).await;
    let ask = ListParams::default().limit(2);
    let first = list.list(&ask).await.unwrap();
    assert_eq!(names(&first.items), ["a", "b"]);
    assert_eq!(first.metadata.remaining_item_count, Some(3));
    api.delete("services", "default/c").unwrap();
    api.create(service("cc")).unwrap();
    let token = first.metadata.continue_.unwrap();
    let second = list.list(&ask.clone().continue_token(&token)).await.unwrap();
    assert_eq!(names(&second.items), ["c", "d"]);
    assert_eq!(second.metadata.resource_version, first.metadata.resource_version);
    let token = second.metadata.continue_.unwrap();
    let third = list.list(&ask.clone().continue_token(&token)).await.unwrap();
    assert_eq!(names(&third.items), ["e"]);
    assert_eq!(third.metadata.continue_, None);
    api.compact();
    let error = list.list(&ask.continue_token(&token)).await.unwrap_err();
    assert!(is_expired(&error), "{error}");
}

#[tokio::test]
async fn versions_are_exact_or_at_least() {
    let api = ApiServer::on_loopback().unwrap();
    api.create(service("a")).unwrap();
    let old = api.version().to_string();
    api.create(service("b")).unwrap();
    let list = services(&api).await;
    let ask = |version: &str, how| ListParams::default().at(version).matching(how);
    let exact = list.list(&ask(&old, VersionMatch::Exact)).await.unwrap();
    assert_eq!(names(&exact.items), ["a"]);
    assert_eq!(exact.metadata.resource_version, Some(old.clone()));
    let newer = list.list(&ask(&old, VersionMatch::NotOlderThan)).await.unwrap();
    assert_eq!(names(&newer.items), ["a", "b"]);
    api.compact();
    let error = list.list(&ask(&old, VersionMatch::Exact)).await.unwrap_err();
    assert!(is_expired(&error), "{error}");
}
