//! The traffic policies of a Service, and its session affinity.

use lb_common::abi::Policies;

use crate::objects::Service;

/// Which traffic of a Service only goes to endpoints on this node, and how long clients stay with their endpoint. The
/// policy for external traffic counts where there can be such traffic: the API server refuses it for others
/// (`ValidateService` of Kubernetes).
pub(super) const fn of_service(service: &Service) -> Policies {
    Policies {
        internal_local: service.internal_local,
        external_local: service.external_local,
        affinity: service.affinity,
    }
}
