//! Objects for tests, from YAML and without the checks of manifests: as an API server might deliver them.

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use super::Object;
use crate::objects::Reader;

/// A Service, from YAML without apiVersion and kind.
pub(crate) fn service(yaml: &str) -> Object {
    let service: Service =
        serde_yaml_ng::from_str(&format!("apiVersion: v1\nkind: Service\n{yaml}")).expect("a Service");
    Object::Service(Reader::default().service(&service).into())
}

/// An EndpointSlice, from YAML without apiVersion and kind.
pub(crate) fn slice(yaml: &str) -> Object {
    let text = format!("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n{yaml}");
    let slice: EndpointSlice = serde_yaml_ng::from_str(&text).expect("an EndpointSlice");
    Object::EndpointSlice(Reader::default().slice(&slice).into())
}
