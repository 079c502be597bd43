//! What the API server would refuse, where it matters to a service proxy.
//!
//! The rules follow Kubernetes' `pkg/apis/core/validation` and `pkg/apis/discovery/validation`. The API server also
//! fills fields in (namespace, cluster IP, node port); with manifests only the namespace is filled in, the rest must be
//! in the manifest.

mod cluster;
mod service;
mod slice;

use std::{collections::BTreeSet, fmt::Display, net::IpAddr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::plan::Protocol;

pub(super) use self::{
    cluster::{node, service_cidr},
    service::service,
    slice::{slice, unused_slice},
};

/// Why an object is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Path of the field in the object.
    pub(super) field: String,
    /// What is wrong and how to put it right.
    pub(super) message: String,
}

/// Gathers the faults of one object.
#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Fault {
            field: field.into(),
            message: message.into(),
        });
    }

    /// Checks a text that must be one of a few words.
    fn one_of(&mut self, field: impl Into<String>, value: Option<&str>, words: &[&str]) {
        if let Some(value) = value
            && !words.contains(&value)
        {
            self.add(
                field,
                format!("{value:?} is not known; write {}", words.join(" or ")),
            );
        }
    }

    /// Reads an address that a service or an endpoint can have.
    fn address(&mut self, field: impl Display, text: &str) -> Option<IpAddr> {
        let found = text
            .parse()
            .map_err(|_| format!("{text:?} is no IP address; write one like 10.96.0.10 or fd00::10"))
            .and_then(|ip| special_use(ip).map_or(Ok(ip), Err));
        match found {
            Ok(ip) => Some(ip),
            Err(message) => {
                self.add(field.to_string(), message);
                None
            }
        }
    }

    /// Reads a port number; 0 stands for a missing one as well.
    fn port(&mut self, field: impl Display, number: i32) {
        if !(1..=65535).contains(&number) {
            self.add(
                field.to_string(),
                format!("{number} is no port number (or it is missing); write 1 to 65535"),
            );
        }
    }

    /// Reads a protocol; TCP if there is none.
    fn protocol(&mut self, field: impl Display, text: Option<&str>) -> Option<Protocol> {
        let protocol = Protocol::from_name(text);
        if protocol.is_none() {
            let text = text.unwrap_or_default();
            self.add(
                field.to_string(),
                format!("{text:?} is not known; write TCP, UDP or SCTP"),
            );
        }
        protocol
    }

    /// Checks port names: each may stand once, the empty name too.
    fn port_names<'a>(&mut self, path: &str, names: impl Iterator<Item = Option<&'a str>>) {
        let mut seen = BTreeSet::new();
        for (i, name) in names.enumerate() {
            let name = name.unwrap_or_default();
            if !name.is_empty() && !is_label(name) {
                self.add(
                    format!("{path}[{i}].name"),
                    format!("{name:?} is no port name; {LABEL_RULE}"),
                );
            } else if !seen.insert(name) {
                self.add(
                    format!("{path}[{i}].name"),
                    format!("{name:?} stands twice; give each port a name of its own"),
                );
            }
        }
    }

    /// Checks the name.
    fn name(&mut self, metadata: &ObjectMeta, is_name: fn(&str) -> bool, rule: &str) {
        match metadata.name.as_deref() {
            None | Some("") => self.add("metadata.name", "missing; every object needs a name"),
            Some(name) if !is_name(name) => self.add("metadata.name", format!("{name:?} is no name; {rule}")),
            Some(_) => {}
        }
    }

    /// Checks name and namespace, fills in the namespace.
    fn metadata(&mut self, metadata: &mut ObjectMeta, is_name: fn(&str) -> bool, rule: &str) {
        self.name(metadata, is_name, rule);
        let namespace = metadata
            .namespace
            .take()
            .filter(|namespace| !namespace.is_empty());
        let namespace = namespace.unwrap_or_else(|| "default".into());
        if !is_label(&namespace) {
            self.add(
                "metadata.namespace",
                format!("{namespace:?} is no namespace; {LABEL_RULE}"),
            );
        }
        metadata.namespace = Some(namespace);
    }
}

const LABEL_RULE: &str = "use up to 63 small letters, digits and '-', with a letter or digit at both ends";
const SUBDOMAIN_RULE: &str =
    "use up to 253 small letters, digits, '-' and '.', with a letter or digit at both ends of each part";

/// RFC 1123 label, in lower case.
fn is_label(text: &str) -> bool {
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(inner)
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

/// RFC 1123 subdomain, in lower case. As in Kubernetes its parts have no limit of their own.
fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

/// Why an address can belong to no service and to no endpoint, if so (Kubernetes: ValidateNonSpecialIP).
fn special_use(ip: IpAddr) -> Option<String> {
    let what = match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            return Some(format!(
                "{ip} is an IPv4 address in IPv6 clothes; write it as IPv4"
            ));
        }
        _ if ip.is_unspecified() => "the unspecified address",
        _ if ip.is_loopback() => "a loopback address",
        _ if ip.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V4(v4) if v4.is_link_local() => "a link-local address",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local address",
        _ => return None,
    };
    Some(format!(
        "{ip} is {what}; write an address that other nodes can reach"
    ))
}
