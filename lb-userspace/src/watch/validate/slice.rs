//! Rules for EndpointSlices.

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{Fault, Faults, SUBDOMAIN_RULE, is_subdomain};
use crate::{objects::SERVICE_NAME_LABEL, plan::Family};

/// Checks an EndpointSlice, and fills in the namespace.
pub(in crate::watch) fn slice(slice: &mut EndpointSlice) -> Vec<Fault> {
    let mut faults = Faults::default();
    faults.metadata(&mut slice.metadata, is_subdomain, SUBDOMAIN_RULE);
    let family = match slice.address_type.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        "FQDN" => None,
        "" => {
            faults.add("addressType", "missing; write IPv4 or IPv6");
            None
        }
        other => {
            faults.add(
                "addressType",
                format!("{other:?} is not known; write IPv4 or IPv6"),
            );
            None
        }
    };
    for (i, endpoint) in slice.endpoints.iter().enumerate() {
        if endpoint.addresses.is_empty() {
            faults.add(
                format!("endpoints[{i}].addresses"),
                "missing; an endpoint needs an address",
            );
        }
        let Some(family) = family else { continue };
        for (j, text) in endpoint.addresses.iter().enumerate() {
            let field = format!("endpoints[{i}].addresses[{j}]");
            if let Some(ip) = faults.address(&field, text)
                && Family::of(ip) != family
            {
                let found = Family::of(ip);
                faults.add(
                    field,
                    format!("{ip} is {found}, but addressType is {family}; use a slice of its own"),
                );
            }
        }
    }
    let ports = slice.ports.as_deref().unwrap_or_default();
    faults.port_names("ports", ports.iter().map(|port| port.name.as_deref()));
    for (i, port) in ports.iter().enumerate() {
        if let Some(number) = port.port {
            faults.port(format_args!("ports[{i}].port"), number);
        }
        faults.protocol(format_args!("ports[{i}].protocol"), port.protocol.as_deref());
    }
    faults.0
}

/// Why a valid slice serves nothing, if so.
pub(in crate::watch) fn unused_slice(slice: &EndpointSlice) -> Option<String> {
    let name = slice.metadata.name.as_deref().unwrap_or_default();
    if slice.address_type == "FQDN" {
        return Some(format!(
            "EndpointSlice {name} is not used: its addressType is FQDN, not IPv4 or IPv6"
        ));
    }
    let label = slice
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(SERVICE_NAME_LABEL));
    label.is_none().then(|| {
        format!("EndpointSlice {name} belongs to no Service; name one in the label {SERVICE_NAME_LABEL}")
    })
}
