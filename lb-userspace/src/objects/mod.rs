//! What is watched, reduced to what a service proxy goes by.
//!
//! The objects of the Kubernetes API are large: an endpoint of an EndpointSlice takes some hundred bytes and a dozen
//! allocations. Here it takes 48 bytes. Sources turn what they read into these types at once ([`Reader`]), so an agent
//! keeps ten thousand Services with a hundred thousand endpoints in some megabytes, texts are parsed once, and a change of a field that
//! nobody here goes by is no change.
//!
//! Absent fields have the meaning that the API gives them. What cannot be read (an address that is none, a protocol that
//! is not known) is left out: the API server checks objects, and manifests are checked before
//! ([`crate::watch::parse`]).

mod names;
mod node;
mod service;
mod service_cidr;
mod slice;

use std::{fmt, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use self::{
    names::Names,
    node::Node,
    service::{PROXY_NAME_LABEL, Service, ServicePort},
    service_cidr::ServiceCidr,
    slice::{Endpoint, HEADLESS_LABEL, Hints, SERVICE_NAME_LABEL, Slice, SlicePort, Trigger},
};

/// What identifies an object of a kind: namespace and name. Cloning is cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// Its namespace; empty for kinds that have none.
    pub namespace: Arc<str>,
    /// Its name, unique for the kind in the namespace.
    pub name: Arc<str>,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Makes objects of those of the API. What many of them name (namespaces, nodes, zones, ports) is stored once.
#[derive(Debug, Default)]
pub struct Reader {
    names: Names,
}

impl Reader {
    /// The name of an object in a namespace. A missing namespace is "default", as for the API server.
    fn name(&mut self, metadata: &ObjectMeta) -> Name {
        Name {
            namespace: self.names.get(metadata.namespace.as_deref().unwrap_or("default")),
            name: metadata.name.as_deref().unwrap_or_default().into(),
        }
    }

    /// The name of an object of a kind without namespaces.
    fn cluster_name(&mut self, metadata: &ObjectMeta) -> Name {
        Name {
            namespace: self.names.get(""),
            name: metadata.name.as_deref().unwrap_or_default().into(),
        }
    }
}

fn label<'a>(metadata: &'a ObjectMeta, label: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(label).map(String::as_str)
}
