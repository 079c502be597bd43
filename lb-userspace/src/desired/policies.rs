//! The traffic policies of a Service.

use k8s_openapi::api::core::v1::Service;
use lb_common::abi::Policies;

/// Which traffic of a Service only goes to endpoints on this node. The policy for external traffic counts where there
/// can be such traffic: the API server refuses it for others (`ValidateService` of Kubernetes).
pub(super) fn of_service(service: &Service) -> Policies {
    let is_local = |policy: Option<&String>| policy.is_some_and(|policy| policy == "Local");
    service
        .spec
        .as_ref()
        .map_or_else(Policies::default, |spec| Policies {
            internal_local: is_local(spec.internal_traffic_policy.as_ref()),
            external_local: is_local(spec.external_traffic_policy.as_ref()),
        })
}
