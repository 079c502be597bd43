//! EndpointSlices.

use std::{net::IpAddr, num::NonZeroU16, sync::Arc};

use k8s_openapi::{api::discovery::v1 as api, jiff::Timestamp};

use super::{Name, Names, Reader, label};
use crate::plan::{Family, Protocol};

/// Label of an EndpointSlice: the Service that it belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Label of a headless Service and of its EndpointSlices, whatever its value. A Service with a cluster IP that has it is left
/// alone as well: kube-proxy watches Services without it only.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Annotation of an EndpointSlice: when what it follows has changed last
/// (`EndpointsLastChangeTriggerTime` in `staging/src/k8s.io/api/core/v1/annotation_key_constants.go` of Kubernetes).
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its name.
    pub name: Name,
    /// The Service that it belongs to, if any.
    pub service: Option<Name>,
    /// It belongs to a headless Service, which no proxy serves.
    pub headless: bool,
    /// The family of its addresses; none if they are no IP addresses.
    pub family: Option<Family>,
    /// Its ports, in order.
    pub ports: Box<[SlicePort]>,
    /// Its endpoints, in order. Those whose first address is none of the family are left out.
    pub endpoints: Box<[Endpoint]>,
    /// When what it follows has changed last. It is no part of what the slice says.
    pub trigger: Trigger,
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Its name; empty if it has none.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number; none stands for all ports, which no Service can have.
    pub number: Option<NonZeroU16>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its first address. The API forbids others to matter.
    pub addr: IpAddr,
    /// Takes new connections.
    pub ready: bool,
    /// Would answer, whether or not it is to get new connections.
    pub serving: bool,
    /// Is being deleted.
    pub terminating: bool,
    /// The node that it runs on.
    pub node: Option<Arc<str>>,
    /// Whom it is meant for; everybody if there is nothing here.
    pub hints: Option<Box<Hints>>,
}

/// Whom an endpoint is meant for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Clients on these nodes.
    pub nodes: Box<[Arc<str>]>,
    /// Clients in these zones.
    pub zones: Box<[Arc<str>]>,
}

/// A point in time that does not count when slices are compared: its change alone changes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trigger(pub Option<Timestamp>);

impl PartialEq for Trigger {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Trigger {}

impl Reader {
    /// An EndpointSlice of the API.
    pub fn slice(&mut self, slice: &api::EndpointSlice) -> Slice {
        let name = self.name(&slice.metadata);
        let family = match slice.address_type.as_str() {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        };
        let ports = slice.ports.iter().flatten();
        let endpoints = slice.endpoints.iter();
        Slice {
            service: label(&slice.metadata, SERVICE_NAME_LABEL).map(|service| Name {
                namespace: name.namespace.clone(),
                name: self.names.get(service),
            }),
            name,
            headless: label(&slice.metadata, HEADLESS_LABEL).is_some(),
            family,
            ports: ports.filter_map(|port| self.slice_port(port)).collect(),
            endpoints: endpoints
                .filter_map(|endpoint| self.endpoint(endpoint, family?))
                .collect(),
            trigger: Trigger(trigger(slice)),
        }
    }

    fn slice_port(&mut self, port: &api::EndpointPort) -> Option<SlicePort> {
        Some(SlicePort {
            name: self.names.get(port.name.as_deref().unwrap_or_default()),
            protocol: Protocol::from_name(port.protocol.as_deref())?,
            number: port
                .port
                .and_then(|number| u16::try_from(number).ok())
                .and_then(NonZeroU16::new),
        })
    }

    fn endpoint(&mut self, endpoint: &api::Endpoint, family: Family) -> Option<Endpoint> {
        let addr: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        let conditions = endpoint.conditions.as_ref();
        (Family::of(addr) == family).then(|| Endpoint {
            addr,
            ready: conditions.and_then(|c| c.ready).unwrap_or(true),
            serving: conditions.and_then(|c| c.serving).unwrap_or(true),
            terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
            node: endpoint.node_name.as_deref().map(|node| self.names.get(node)),
            hints: endpoint
                .hints
                .as_ref()
                .and_then(|hints| read_hints(&mut self.names, hints)),
        })
    }
}

fn read_hints(names: &mut Names, hints: &api::EndpointHints) -> Option<Box<Hints>> {
    let nodes = hints.for_nodes.iter().flatten().map(|node| names.get(&node.name));
    let nodes: Box<[_]> = nodes.collect();
    let zones = hints.for_zones.iter().flatten().map(|zone| names.get(&zone.name));
    let zones: Box<[_]> = zones.collect();
    (!nodes.is_empty() || !zones.is_empty()).then(|| Box::new(Hints { nodes, zones }))
}

fn trigger(slice: &api::EndpointSlice) -> Option<Timestamp> {
    let text = slice.metadata.annotations.as_ref()?.get(TRIGGER_ANNOTATION)?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Slice {
        let slice: api::EndpointSlice = serde_yaml_ng::from_str(yaml).expect("an EndpointSlice");
        Reader::default().slice(&slice)
    }

    #[test]
    fn an_endpoint_is_small() {
        assert!(size_of::<Endpoint>() <= 48, "{}", size_of::<Endpoint>());
    }

    #[test]
    fn absent_conditions_mean_ready_serving_and_not_terminating() {
        let slice = read(
            "{metadata: {name: a}, addressType: IPv4, endpoints: [{addresses: [10.1.0.1]}, {addresses: [10.1.0.2], conditions: {ready: false}}]}",
        );
        let conditions: Vec<_> = slice
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.ready, endpoint.serving, endpoint.terminating))
            .collect();
        assert_eq!(conditions, [(true, true, false), (false, true, false)]);
    }

    #[test]
    fn only_the_first_address_counts_and_it_is_of_the_slice_s_family() {
        let slice = read(
            "{metadata: {name: a}, addressType: IPv6, endpoints: [{addresses: ['fd00::1', 'fd00::2']}, {addresses: [10.1.0.1]}, {addresses: []}, {addresses: [x]}]}",
        );
        let addresses: Vec<String> = slice.endpoints.iter().map(|e| e.addr.to_string()).collect();
        assert_eq!(addresses, ["fd00::1"]);
        assert_eq!(
            read("{metadata: {name: a}, addressType: FQDN, endpoints: [{addresses: [a.example]}]}").family,
            None
        );
    }

    #[test]
    fn the_time_of_the_trigger_is_no_change() {
        let with = |time: &str| {
            read(&format!(
                "{{metadata: {{name: a, resourceVersion: '{}', annotations: {{endpoints.kubernetes.io/last-change-trigger-time: '{time}'}}}}, addressType: IPv4, endpoints: []}}",
                time.len()
            ))
        };
        let (a, b) = (with("2026-01-01T00:00:00Z"), with("2026-01-01T00:00:01.5Z"));
        assert_eq!(a, b);
        let between = b.trigger.0.unwrap().duration_since(a.trigger.0.unwrap());
        assert_eq!(between.as_millis(), 1_500);
        assert!(with("soon").trigger.0.is_none());
    }

    #[test]
    fn hints_are_read_and_empty_ones_are_none() {
        let slice = read(
            "{metadata: {name: a}, addressType: IPv4, endpoints: [{addresses: [10.1.0.1], hints: {forZones: [{name: a}, {name: b}], forNodes: [{name: n1}]}}, {addresses: [10.1.0.2], hints: {forZones: []}}]}",
        );
        let hints = slice.endpoints[0].hints.as_deref().unwrap();
        assert_eq!((hints.zones.len(), &*hints.nodes[0]), (2, "n1"));
        assert!(slice.endpoints[1].hints.is_none());
    }
}
