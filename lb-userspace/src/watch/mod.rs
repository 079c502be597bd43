//! Where Services and EndpointSlices come from.
//!
//! Every source tells what it sees as [`Event`]s, by the contract of kube's watcher: a list first ([`Event::Init`], any
//! number of [`Event::InitApply`], [`Event::InitDone`]), for each kind by itself; then single changes. A list replaces
//! everything that was known of its kind.
//!
//! There are two sources: the Kubernetes API ([`Kubernetes`]), and a folder of manifests ([`Manifests`]), where [`parse`]
//! makes objects of a text and is pure, [`store`] keeps the objects of every file and is pure, `reader` reads the folder and
//! `follow` watches it.

mod folder;
mod follow;
mod kubernetes;
mod manifests;
pub mod parse;
mod pending;
mod reader;
mod source;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
mod validate;

use std::{fmt, sync::Arc};

pub use self::{
    kubernetes::{ApiState, ConnectionError, Kubernetes, KubernetesError},
    manifests::{Manifests, ManifestsError},
    source::Source,
};
use crate::objects::{Name, Node, Service, ServiceCidr, Slice};

/// The kinds of objects that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
    /// v1 Node.
    Node,
    /// networking.k8s.io/v1 ServiceCIDR.
    ServiceCidr,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Service, Self::EndpointSlice, Self::Node, Self::ServiceCidr];

    /// Those without which nothing can be programmed: a Service whose slices are not known would reject connections.
    pub const NEEDED: [Self; 2] = [Self::Service, Self::EndpointSlice];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
        })
    }
}

/// A watched object. Cloning is cheap.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    EndpointSlice(Arc<Slice>),
    /// A Node.
    Node(Arc<Node>),
    /// A ServiceCIDR.
    ServiceCidr(Arc<ServiceCidr>),
}

impl Object {
    /// The object's kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Node(_) => Kind::Node,
            Self::ServiceCidr(_) => Kind::ServiceCidr,
        }
    }

    /// Its namespace and name.
    pub fn name(&self) -> &Name {
        match self {
            Self::Service(service) => &service.name,
            Self::EndpointSlice(slice) => &slice.name,
            Self::Node(node) => &node.name,
            Self::ServiceCidr(cidr) => &cidr.name,
        }
    }

    /// What identifies the object.
    pub fn key(&self) -> ObjectKey {
        ObjectKey {
            kind: self.kind(),
            name: self.name().clone(),
        }
    }
}

/// What identifies an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub name: Name,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// One thing that a source tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A list of all objects of the kind begins. What is known stays in force until the list is complete.
    Init(Kind),
    /// An object of the list.
    InitApply(Object),
    /// The list is complete and replaces what was known of the kind.
    InitDone(Kind),
    /// The object is new or has changed.
    Apply(Object),
    /// The object is gone; this is the last that was seen of it.
    Delete(Object),
}
