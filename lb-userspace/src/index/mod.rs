//! What is known of Services and EndpointSlices, by name.
//!
//! Slices are joined to their Service by a label. The index tells which Services an event touched, so that the layers
//! after it work in proportion to these and not to the cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;

pub use crate::objects::Name as ServiceName;
use crate::{
    objects::{Name, Node, Service, ServiceCidr, Slice},
    plan::Family,
    watch::{Event, Kind, Object},
};

/// What has changed of the watched objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services that came, changed or went.
    pub services: u64,
    /// EndpointSlices that did.
    pub slices: u64,
    /// When what these slices follow has changed, as far as they say so.
    pub triggers: Vec<(Family, Timestamp)>,
}

/// How far it has come with a list that was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// Nobody was told.
    New,
    /// Another list is to be asked for.
    Told,
    /// It was asked for.
    Asked,
    /// It has begun.
    Answered,
}

/// Services and EndpointSlices by name.
///
/// Objects that a service proxy does not watch (Services of other proxies, headless Services and their slices) are
/// held to be absent, also when a source delivers them.
#[derive(Debug, Default)]
pub struct Index {
    services: BTreeMap<ServiceName, Arc<Service>>,
    slices: BTreeMap<Name, Arc<Slice>>,
    /// Sorted.
    slices_of: BTreeMap<ServiceName, Vec<Name>>,
    nodes: BTreeMap<Name, Arc<Node>>,
    service_cidrs: BTreeMap<Name, Arc<ServiceCidr>>,
    /// Lists that are under way.
    lists: BTreeMap<Kind, Vec<Object>>,
    /// How often each kind was listed to the end.
    listed: BTreeMap<Kind, u64>,
    touched: BTreeSet<ServiceName>,
    changes: Changes,
    /// Whether a list that takes away much is believed only when another one says the same.
    doubting: bool,
    /// Kinds whose last list was not believed.
    doubted: BTreeMap<Kind, Doubt>,
    work: u64,
}

impl Index {
    /// An index that knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// An index that does not believe a list that takes away half or more of what is known of its kind, until one that was
    /// asked for says the same: an API server that restarts may serve lists before it knows everything. What such a list
    /// adds and changes counts at once. [`Self::take_doubts`] tells which kinds are to be listed again after a while, and
    /// [`Self::believe_next`] is told when they are.
    pub fn doubting() -> Self {
        Self {
            doubting: true,
            ..Self::default()
        }
    }

    /// Takes in one event of a source.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::Init(kind) => {
                self.lists.insert(kind, Vec::new());
                if self.doubted.get(&kind) == Some(&Doubt::Asked) {
                    self.doubted.insert(kind, Doubt::Answered);
                }
            }
            Event::InitApply(object) => self.lists.entry(object.kind()).or_default().push(object),
            Event::InitDone(kind) => {
                let objects = self.lists.remove(&kind).unwrap_or_default();
                *self.listed.entry(kind).or_default() += 1;
                if self.doubts(kind, &objects) {
                    self.doubted.entry(kind).or_insert(Doubt::New);
                    objects.into_iter().for_each(|object| self.apply(object));
                } else {
                    self.doubted.remove(&kind);
                    self.replace(kind, objects);
                }
            }
            Event::Apply(object) => self.apply(object),
            Event::Delete(object) => self.delete(&object),
        }
    }

    /// Whether a list is not to be believed yet.
    fn doubts(&self, kind: Kind, objects: &[Object]) -> bool {
        if !self.doubting || self.doubted.get(&kind) == Some(&Doubt::Answered) {
            return false;
        }
        let listed: BTreeSet<&Name> = objects.iter().map(Object::name).collect();
        let known = self.names_of(kind);
        let left = known.iter().filter(|name| listed.contains(name)).count();
        !known.is_empty() && left <= known.len() / 2
    }

    /// Kinds with a list that was not believed, each once until one is.
    pub fn take_doubts(&mut self) -> Vec<Kind> {
        let untold = self.doubted.iter_mut().filter(|(_, doubt)| **doubt == Doubt::New);
        untold
            .map(|(kind, doubt)| {
                *doubt = Doubt::Told;
                *kind
            })
            .collect()
    }

    /// Whether the last list of some kind was not believed.
    pub fn is_in_doubt(&self) -> bool {
        !self.doubted.is_empty()
    }

    /// A list was asked for that is to be believed, if the last one was not.
    pub fn believe_next(&mut self, kind: Kind) {
        if let Some(doubt) = self.doubted.get_mut(&kind) {
            *doubt = Doubt::Asked;
        }
    }

    fn names_of(&self, kind: Kind) -> BTreeSet<Name> {
        match kind {
            Kind::Service => self.services.keys().cloned().collect(),
            Kind::EndpointSlice => self.slices.keys().cloned().collect(),
            Kind::Node => self.nodes.keys().cloned().collect(),
            Kind::ServiceCidr => self.service_cidrs.keys().cloned().collect(),
        }
    }

    /// An object is new or has changed.
    pub fn apply(&mut self, object: Object) {
        self.work += 1;
        if !is_watched(&object) {
            return self.remove(object.kind(), object.name());
        }
        match object {
            Object::Service(service) => {
                if self.services.get(&service.name) != Some(&service) {
                    self.changes.services += 1;
                    self.touched.insert(service.name.clone());
                    self.services.insert(service.name.clone(), service);
                }
            }
            Object::EndpointSlice(slice) => self.apply_slice(slice),
            Object::Node(node) => {
                self.nodes.insert(node.name.clone(), node);
            }
            Object::ServiceCidr(cidr) => {
                self.service_cidrs.insert(cidr.name.clone(), cidr);
            }
        }
    }

    /// An object is gone.
    pub fn delete(&mut self, object: &Object) {
        self.work += 1;
        self.remove(object.kind(), object.name());
    }

    /// Replaces all objects of a kind. What is the same as before touches nothing.
    pub fn reset(&mut self, kind: Kind, objects: Vec<Object>) {
        *self.listed.entry(kind).or_default() += 1;
        self.replace(kind, objects);
    }

    fn replace(&mut self, kind: Kind, objects: Vec<Object>) {
        let mut gone = self.names_of(kind);
        for object in objects.into_iter().filter(|object| object.kind() == kind) {
            gone.remove(object.name());
            self.apply(object);
        }
        self.work += gone.len() as u64;
        for name in gone {
            self.remove(kind, &name);
        }
    }

    /// Whether every kind that is needed was listed once. Before that nothing may be programmed: a Service whose slices are
    /// not known yet would reject connections.
    pub fn is_listed(&self) -> bool {
        Kind::NEEDED.iter().all(|kind| self.times_listed(*kind) > 0)
    }

    /// How often a kind was listed to the end, believed or not.
    pub fn times_listed(&self, kind: Kind) -> u64 {
        self.listed.get(&kind).copied().unwrap_or_default()
    }

    /// How many cluster IP frontends the Services have, and how many endpoints the slices.
    pub fn size(&self) -> (usize, usize) {
        let services = self.services.values();
        let slices = self.slices.values();
        (
            services
                .map(|service| service.cluster_ips.len() * service.ports.len())
                .sum(),
            slices.map(|slice| slice.endpoints.len()).sum(),
        )
    }

    /// The Services that were touched since the last call: none before every kind that is needed was listed.
    pub fn take_touched(&mut self) -> BTreeSet<ServiceName> {
        if self.is_listed() {
            std::mem::take(&mut self.touched)
        } else {
            BTreeSet::new()
        }
    }

    /// What has changed since the last call, for figures.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// The Service of that name.
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name).map(|service| &**service)
    }

    /// The slices of a Service, by name.
    pub fn slices(&self, name: &ServiceName) -> impl Iterator<Item = &Slice> {
        let names = self.slices_of.get(name).into_iter().flatten();
        names
            .filter_map(|name| self.slices.get(name))
            .map(|slice| &**slice)
    }

    /// Names of all Services.
    pub fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    /// The Node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        let name = Name {
            name: name.into(),
            ..Name::default()
        };
        self.nodes.get(&name).map(|node| &**node)
    }

    /// The networks that cluster IPs are given from, as far as they are known.
    pub fn service_cidrs(&self) -> BTreeSet<IpNet> {
        let cidrs = self.service_cidrs.values();
        cidrs.flat_map(|cidr| cidr.nets.iter().copied()).collect()
    }

    /// Objects that were looked at since the start; for tests of the work that an event costs.
    pub fn work(&self) -> u64 {
        self.work
    }

    fn apply_slice(&mut self, slice: Arc<Slice>) {
        if self.slices.get(&slice.name) == Some(&slice) {
            return;
        }
        // The label may name another Service than before.
        self.take_out(&slice.name);
        self.changes.slices += 1;
        let trigger = slice.family.zip(slice.trigger.0);
        self.changes.triggers.extend(trigger);
        if let Some(service) = slice.service.clone() {
            let names = self.slices_of.entry(service.clone());
            let names = names.or_insert_with(|| Vec::with_capacity(1));
            if let Err(place) = names.binary_search(&slice.name) {
                names.insert(place, slice.name.clone());
            }
            self.touched.insert(service);
        }
        self.slices.insert(slice.name.clone(), slice);
    }

    fn remove(&mut self, kind: Kind, name: &Name) {
        match kind {
            Kind::Service => {
                if self.services.remove(name).is_some() {
                    self.changes.services += 1;
                    self.touched.insert(name.clone());
                }
            }
            Kind::EndpointSlice => {
                if self.slices.contains_key(name) {
                    self.changes.slices += 1;
                    self.take_out(name);
                }
            }
            Kind::Node => {
                self.nodes.remove(name);
            }
            Kind::ServiceCidr => {
                self.service_cidrs.remove(name);
            }
        }
    }

    fn take_out(&mut self, name: &Name) {
        let Some(service) = self.slices.remove(name).and_then(|slice| slice.service.clone()) else {
            return;
        };
        if let Some(names) = self.slices_of.get_mut(&service) {
            names.retain(|other| other != name);
            if names.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        self.touched.insert(service);
    }
}

/// The selectors that a service proxy watches with.
fn is_watched(object: &Object) -> bool {
    match object {
        Object::Service(service) => !service.other_proxy && !service.headless,
        Object::EndpointSlice(slice) => !slice.headless,
        Object::Node(_) | Object::ServiceCidr(_) => true,
    }
}

#[cfg(test)]
mod tests;
