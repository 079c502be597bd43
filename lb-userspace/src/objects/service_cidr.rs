//! Networks that cluster IPs are given from.

use std::collections::BTreeSet;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1 as api;

use super::{Name, Reader};

/// A ServiceCIDR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Its name.
    pub name: Name,
    /// Its networks, with no bits set beyond the prefix.
    pub nets: BTreeSet<IpNet>,
}

impl Reader {
    /// A ServiceCIDR of the API.
    pub fn service_cidr(&mut self, cidr: &api::ServiceCIDR) -> ServiceCidr {
        let texts = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
        ServiceCidr {
            name: self.cluster_name(&cidr.metadata),
            nets: texts
                .filter_map(|text| text.parse::<IpNet>().ok())
                .map(|net| net.trunc())
                .collect(),
        }
    }
}
