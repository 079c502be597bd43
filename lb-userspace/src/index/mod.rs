//! What is known of Services and EndpointSlices, by name.
//!
//! Slices are joined to their Service by a label. The index tells which Services an event touched, so that the layers
//! after it work in proportion to these and not to the cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use k8s_openapi::{
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::watch::{Event, Kind, Object};

/// Label of an EndpointSlice: the Service that it belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Label of a Service that another proxy serves, whatever its value.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// Label of an EndpointSlice of a headless Service, whatever its value.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// What identifies a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl ServiceName {
    fn of(metadata: &ObjectMeta) -> Self {
        Self {
            namespace: metadata.namespace.clone().unwrap_or_else(|| "default".into()),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }
}

/// What identifies an EndpointSlice: namespace and name.
type SliceName = (String, String);

/// Services and EndpointSlices by name.
///
/// Objects that a service proxy does not watch (Services of other proxies, headless Services and their slices) are
/// held to be absent, also when a source delivers them.
#[derive(Debug, Default)]
pub struct Index {
    services: BTreeMap<ServiceName, Arc<Service>>,
    slices: BTreeMap<SliceName, Arc<EndpointSlice>>,
    slices_of: BTreeMap<ServiceName, BTreeSet<SliceName>>,
    /// Lists that are under way.
    lists: BTreeMap<Kind, Vec<Object>>,
    /// Kinds that were listed once.
    listed: BTreeSet<Kind>,
    touched: BTreeSet<ServiceName>,
    work: u64,
}

impl Index {
    /// An index that knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in one event of a source.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::Init(kind) => {
                self.lists.insert(kind, Vec::new());
            }
            Event::InitApply(object) => self.lists.entry(object.kind()).or_default().push(object),
            Event::InitDone(kind) => {
                let objects = self.lists.remove(&kind).unwrap_or_default();
                self.reset(kind, objects);
            }
            Event::Apply(object) => self.apply(object),
            Event::Delete(object) => self.delete(&object),
        }
    }

    /// An object is new or has changed.
    pub fn apply(&mut self, object: Object) {
        self.work += 1;
        if !is_watched(&object) {
            return self.remove(&object);
        }
        match object {
            Object::Service(service) => {
                let name = ServiceName::of(&service.metadata);
                if self.services.get(&name) != Some(&service) {
                    self.services.insert(name.clone(), service);
                    self.touched.insert(name);
                }
            }
            Object::EndpointSlice(slice) => self.apply_slice(slice),
        }
    }

    /// An object is gone.
    pub fn delete(&mut self, object: &Object) {
        self.work += 1;
        self.remove(object);
    }

    /// Replaces all objects of a kind. What is the same as before touches nothing.
    pub fn reset(&mut self, kind: Kind, objects: Vec<Object>) {
        let mut gone: BTreeSet<SliceName> = match kind {
            Kind::Service => self
                .services
                .keys()
                .map(|name| (name.namespace.clone(), name.name.clone()))
                .collect(),
            Kind::EndpointSlice => self.slices.keys().cloned().collect(),
        };
        for object in objects.into_iter().filter(|object| object.kind() == kind) {
            let key = object.key();
            gone.remove(&(key.namespace, key.name));
            self.apply(object);
        }
        self.work += gone.len() as u64;
        for (namespace, name) in gone {
            match kind {
                Kind::Service => self.remove_service(ServiceName { namespace, name }),
                Kind::EndpointSlice => self.remove_slice(&(namespace, name)),
            }
        }
        self.listed.insert(kind);
    }

    /// Whether every kind was listed once. Before that nothing may be programmed: a Service whose slices are not known
    /// yet would reject connections.
    pub fn is_listed(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.listed.contains(kind))
    }

    /// The Services that were touched since the last call: none before every kind was listed.
    pub fn take_touched(&mut self) -> BTreeSet<ServiceName> {
        if self.is_listed() {
            std::mem::take(&mut self.touched)
        } else {
            BTreeSet::new()
        }
    }

    /// The Service of that name.
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name).map(|service| &**service)
    }

    /// The slices of a Service, by name.
    pub fn slices(&self, name: &ServiceName) -> impl Iterator<Item = &EndpointSlice> {
        let names = self.slices_of.get(name).into_iter().flatten();
        names
            .filter_map(|name| self.slices.get(name))
            .map(|slice| &**slice)
    }

    /// Names of all Services.
    pub fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    /// Objects that were looked at since the start; for tests of the work that an event costs.
    pub fn work(&self) -> u64 {
        self.work
    }

    fn apply_slice(&mut self, slice: Arc<EndpointSlice>) {
        let name = slice_name(&slice);
        if self.slices.get(&name) == Some(&slice) {
            return;
        }
        // The label may name another Service than before.
        self.remove_slice(&name);
        if let Some(service) = service_of(&slice) {
            self.slices_of
                .entry(service.clone())
                .or_default()
                .insert(name.clone());
            self.touched.insert(service);
        }
        self.slices.insert(name, slice);
    }

    fn remove(&mut self, object: &Object) {
        match object {
            Object::Service(service) => self.remove_service(ServiceName::of(&service.metadata)),
            Object::EndpointSlice(slice) => self.remove_slice(&slice_name(slice)),
        }
    }

    fn remove_service(&mut self, name: ServiceName) {
        if self.services.remove(&name).is_some() {
            self.touched.insert(name);
        }
    }

    fn remove_slice(&mut self, name: &SliceName) {
        let Some(service) = self.slices.remove(name).and_then(|slice| service_of(&slice)) else {
            return;
        };
        if let Some(names) = self.slices_of.get_mut(&service) {
            names.remove(name);
            if names.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        self.touched.insert(service);
    }
}

fn slice_name(slice: &EndpointSlice) -> SliceName {
    let name = ServiceName::of(&slice.metadata);
    (name.namespace, name.name)
}

fn label<'a>(metadata: &'a ObjectMeta, label: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(label).map(String::as_str)
}

fn service_of(slice: &EndpointSlice) -> Option<ServiceName> {
    let name = label(&slice.metadata, SERVICE_NAME_LABEL)?.to_owned();
    Some(ServiceName {
        namespace: slice
            .metadata
            .namespace
            .clone()
            .unwrap_or_else(|| "default".into()),
        name,
    })
}

/// The selectors that a service proxy watches with.
fn is_watched(object: &Object) -> bool {
    match object {
        Object::Service(service) => {
            let cluster_ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
            label(&service.metadata, PROXY_NAME_LABEL).is_none() && cluster_ip != Some("None")
        }
        Object::EndpointSlice(slice) => label(&slice.metadata, HEADLESS_LABEL).is_none(),
    }
}

#[cfg(test)]
mod tests;
