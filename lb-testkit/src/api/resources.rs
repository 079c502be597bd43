//! The resources that the server has.

/// A kind of object.
#[derive(Debug)]
pub(crate) struct Resource {
    /// API group; empty for the core group.
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    /// The word in paths: `services`.
    pub(crate) plural: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) namespaced: bool,
    /// What people type instead.
    pub(crate) short: &'static [&'static str],
    /// Fields that a field selector may name beside the name and the namespace, as the strategies of
    /// `pkg/registry` list them.
    pub(crate) fields: &'static [&'static str],
    /// Whether its status is a resource of its own, which writes to the object leave alone.
    pub(crate) status: bool,
}

/// Position of a resource in [`RESOURCES`].
pub(crate) type Id = usize;

pub(crate) const SERVICES: Id = 0;
pub(crate) const PODS: Id = 1;
pub(crate) const NODES: Id = 2;
pub(crate) const NAMESPACES: Id = 3;
pub(crate) const SLICES: Id = 4;
#[cfg(test)]
pub(crate) const SERVICE_CIDRS: Id = 5;

/// All of them.
pub(crate) static RESOURCES: [Resource; 8] = [
    Resource {
        fields: &["spec.clusterIP", "spec.type"],
        short: &["svc"],
        status: true,
        ..core("services", "Service", true)
    },
    Resource {
        fields: &[
            "spec.nodeName",
            "status.phase",
            "status.podIP",
            "spec.hostNetwork",
        ],
        short: &["po"],
        status: true,
        ..core("pods", "Pod", true)
    },
    Resource {
        fields: &["spec.unschedulable"],
        short: &["no"],
        status: true,
        ..core("nodes", "Node", false)
    },
    Resource {
        fields: &["status.phase"],
        short: &["ns"],
        status: true,
        ..core("namespaces", "Namespace", false)
    },
    Resource {
        group: "discovery.k8s.io",
        ..core("endpointslices", "EndpointSlice", true)
    },
    Resource {
        group: "networking.k8s.io",
        status: true,
        ..core("servicecidrs", "ServiceCIDR", false)
    },
    Resource {
        fields: &["involvedObject.kind", "involvedObject.name", "reason", "type"],
        ..core("events", "Event", true)
    },
    Resource {
        group: "events.k8s.io",
        fields: &["regarding.kind", "regarding.name", "reason", "type"],
        ..core("events", "Event", true)
    },
];

const fn core(plural: &'static str, kind: &'static str, namespaced: bool) -> Resource {
    Resource {
        group: "",
        version: "v1",
        plural,
        kind,
        namespaced,
        short: &[],
        fields: &[],
        status: false,
    }
}

impl Resource {
    /// `v1`, `discovery.k8s.io/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `services`, `endpointslices.discovery.k8s.io`: how messages name it.
    pub(crate) fn qualified(&self) -> String {
        qualify(self.plural, self.group)
    }
}

/// A resource's name with its group.
pub(crate) fn qualify(plural: &str, group: &str) -> String {
    if group.is_empty() {
        plural.to_owned()
    } else {
        format!("{plural}.{group}")
    }
}

/// The resource of a path.
pub(crate) fn of_path(group: &str, version: &str, plural: &str) -> Option<Id> {
    RESOURCES
        .iter()
        .position(|one| one.group == group && one.version == version && one.plural == plural)
}

/// The resource of an object.
pub(crate) fn of_kind(api_version: &str, kind: &str) -> Option<Id> {
    RESOURCES
        .iter()
        .position(|one| one.kind == kind && one.api_version() == api_version)
}

/// The resource that a test names: by its plural, with its group where it is not the first of that name.
///
/// # Panics
///
/// If there is none: the test is wrong.
pub(crate) fn named(name: &str) -> Id {
    RESOURCES
        .iter()
        .position(|one| one.plural == name || one.qualified() == name)
        .unwrap_or_else(|| panic!("the test API server has no resource {name:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_kinds_lead_to_one_resource() {
        for (id, resource) in RESOURCES.iter().enumerate() {
            assert_eq!(named(&resource.qualified()), id);
            assert_eq!(of_kind(&resource.api_version(), resource.kind), Some(id));
            assert_eq!(
                of_path(resource.group, resource.version, resource.plural),
                Some(id)
            );
        }
        assert_eq!(RESOURCES[SLICES].qualified(), "endpointslices.discovery.k8s.io");
        assert_eq!(RESOURCES[SERVICE_CIDRS].kind, "ServiceCIDR");
        assert_eq!(RESOURCES[NODES].plural, "nodes");
        assert_eq!(RESOURCES[NAMESPACES].plural, "namespaces");
        assert_eq!(RESOURCES[PODS].plural, "pods");
        assert_eq!(RESOURCES[SERVICES].plural, "services");
    }
}
