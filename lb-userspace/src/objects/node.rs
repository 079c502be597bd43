//! Nodes: this one, above all.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use super::{Name, Reader, label};

/// Label of a Node: the zone that it is in.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Taint of a Node that the cluster autoscaler is about to delete (`ToBeDeletedTaint` in `pkg/proxy/healthcheck/proxy_health.go` of
/// Kubernetes): load balancers are to leave it first.
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Name,
    /// Identifies it among nodes that had the name before; empty in manifests.
    pub uid: Box<str>,
    /// The zone that it is in.
    pub zone: Option<Arc<str>>,
    /// It is being deleted.
    pub deleting: bool,
    /// The cluster autoscaler is about to delete it.
    pub to_be_deleted: bool,
}

impl Reader {
    /// A Node of the API.
    pub fn node(&mut self, node: &api::Node) -> Node {
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        Node {
            name: self.cluster_name(&node.metadata),
            uid: node.metadata.uid.as_deref().unwrap_or_default().into(),
            zone: label(&node.metadata, ZONE_LABEL)
                .filter(|zone| !zone.is_empty())
                .map(|zone| self.names.get(zone)),
            deleting: node.metadata.deletion_timestamp.is_some(),
            to_be_deleted: taints.into_iter().any(|taint| taint.key == TO_BE_DELETED_TAINT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Node {
        let node: api::Node = serde_yaml_ng::from_str(yaml).expect("a Node");
        Reader::default().node(&node)
    }

    #[test]
    fn zone_taint_and_deletion_are_read() {
        let node = read(
            "metadata: {name: n1, uid: u, labels: {topology.kubernetes.io/zone: a}}\nspec: {taints: [{key: x, effect: NoExecute}]}",
        );
        assert_eq!(
            (
                &*node.name.name,
                node.zone.as_deref(),
                node.deleting,
                node.to_be_deleted
            ),
            ("n1", Some("a"), false, false)
        );
        let node = read(
            "metadata: {name: n1, deletionTimestamp: '2026-01-01T00:00:00Z', labels: {topology.kubernetes.io/zone: ''}}\n\
             spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}",
        );
        assert_eq!(
            (node.zone.as_deref(), node.deleting, node.to_be_deleted),
            (None, true, true)
        );
    }
}
