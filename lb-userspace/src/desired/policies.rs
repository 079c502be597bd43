//! The traffic policies of a Service, and its session affinity.

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use lb_common::abi::{Policies, TableRef};

/// Which traffic of a Service only goes to endpoints on this node, and how long clients stay with their endpoint. The
/// policy for external traffic counts where there can be such traffic: the API server refuses it for others
/// (`ValidateService` of Kubernetes).
pub(super) fn of_service(service: &Service) -> Policies {
    let is_local = |policy: Option<&String>| policy.is_some_and(|policy| policy == "Local");
    let Some(spec) = &service.spec else {
        return Policies::default();
    };
    Policies {
        internal_local: is_local(spec.internal_traffic_policy.as_ref()),
        external_local: is_local(spec.external_traffic_policy.as_ref()),
        affinity: affinity(spec),
    }
}

/// How long (s) a client stays with its endpoint; 0 for no longer than a flow.
fn affinity(spec: &ServiceSpec) -> u32 {
    /// `DefaultClientIPServiceAffinitySeconds` of Kubernetes.
    const DEFAULT: i32 = 10_800;
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return 0;
    }
    let config = spec.session_affinity_config.as_ref();
    let client_ip = config.and_then(|config| config.client_ip.as_ref());
    let seconds = client_ip
        .and_then(|config| config.timeout_seconds)
        .unwrap_or(DEFAULT);
    u32::try_from(seconds).unwrap_or(0).min(TableRef::MAX_AFFINITY)
}
