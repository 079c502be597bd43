//! The networks that cluster IPs are given from, for the kernel: what is sent to an address in them that no Service has is
//! dropped.

use std::collections::BTreeSet;

use ipnet::IpNet;
use lb_common::limits;
use tracing::{error, warn};

use crate::{apply::KernelMaps, cli::config::Config, index::Index, watch::Kind};

/// Those of the flag and those of the API.
#[derive(Debug)]
pub(super) struct ServiceCidrs {
    of_flag: BTreeSet<IpNet>,
    /// Those of the API are waited for.
    from_api: bool,
    /// Addresses of no service are left alone.
    none: bool,
    /// As they were told to the kernel last.
    told: Option<BTreeSet<IpNet>>,
}

impl ServiceCidrs {
    pub(super) fn new(config: &Config, from_api: bool) -> Self {
        Self {
            of_flag: config.service_cidrs.iter().copied().collect(),
            from_api,
            none: !config.drop_unallocated,
            told: None,
        }
    }

    /// What the kernel was told last, if anything.
    pub(super) const fn told(&self) -> Option<&BTreeSet<IpNet>> {
        self.told.as_ref()
    }

    /// Tells the kernel what is known now. To be called where the kernel has the Services already: before that all their
    /// addresses look like nobody's, and another proxy may serve them. Those of the API are left as they are until they
    /// were listed.
    pub(super) fn tell(&mut self, index: &Index, maps: &mut KernelMaps) {
        let mut wanted = BTreeSet::new();
        if !self.none {
            wanted.extend(&self.of_flag);
            if self.from_api && index.times_listed(Kind::ServiceCidr) == 0 && wanted.is_empty() {
                return;
            }
            wanted.extend(index.service_cidrs());
        }
        if self.told.as_ref() == Some(&wanted) {
            return;
        }
        match maps.set_service_cidrs(&wanted) {
            Ok(left) if left.is_empty() => {}
            Ok(left) => warn!(
                "there is room for {} ServiceCIDRs of each IP version: what is sent to addresses in {left:?} that no \
                 Service has goes where the routing table sends it",
                limits::SERVICE_CIDRS
            ),
            // The next turn tries again.
            Err(failure) => return error!("{failure}; trying again"),
        }
        self.told = Some(wanted);
    }
}
