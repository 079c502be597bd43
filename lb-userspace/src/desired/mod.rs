//! The frontends and endpoints that each service port is to have on this node.
//!
//! [`Desired::update`] works out anew the Services that the index says were touched, and tells what came of it as
//! [`Change`]s. It holds Kubernetes' rules: [`frontends`] for the addresses of a Service, [`endpoints`] for who serves,
//! `topology` for who of them is near,
//! `claims` for two Services that want one address.

mod claims;
pub mod endpoints;
pub mod frontends;
mod health;
mod notice;
mod policies;
mod sources;
mod tally;
mod topology;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use lb_common::abi::Policies;

use self::claims::{Claim, Claims};
pub use self::{
    endpoints::{Endpoint, EndpointAddr},
    notice::Notice,
    sources::Sources,
    tally::{Counts, Tally},
    topology::Hinted,
};
use crate::{
    health::{HealthCheck, HealthChecks},
    index::{Index, ServiceName},
    objects::Service,
    plan::{Family, FrontendAddr, FrontendFlags, FrontendKind, Protocol},
};

/// What identifies a service port: what has one set of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePortKey {
    /// The Service.
    pub service: ServiceName,
    /// Name of the port; empty if it has none.
    pub port: Arc<str>,
    /// Protocol of the port.
    pub protocol: Protocol,
    /// Family of its frontends and endpoints.
    pub family: Family,
}

impl fmt::Display for ServicePortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if !self.port.is_empty() {
            write!(f, ":{}", self.port)?;
        }
        write!(f, " ({}, {})", self.protocol, self.family)
    }
}

/// What a service port is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Its addresses; at least one.
    pub frontends: BTreeMap<FrontendAddr, FrontendKind>,
    /// Those of them whose other ports nobody has: cluster, external and load balancer IPs that are no address of the node
    /// itself.
    pub addresses: BTreeMap<IpAddr, FrontendKind>,
    /// Who may use those of them that are a load balancer's; everybody if there is nothing here, or none is.
    pub sources: Option<Sources>,
    /// Who serves the cluster. None of them means that connections are rejected.
    pub endpoints: BTreeMap<EndpointAddr, Endpoint>,
    /// Which traffic only goes to endpoints on this node.
    pub policies: Policies,
    /// Who serves that traffic; nobody if no policy asks for it.
    pub local: BTreeSet<EndpointAddr>,
    /// Who serves and gets no new flows: those that they have stay.
    pub kept: BTreeMap<EndpointAddr, Endpoint>,
}

impl ServicePort {
    /// The [`FrontendFlags`] of a frontend of that kind.
    pub fn flags(&self, kind: FrontendKind) -> u8 {
        match &self.sources {
            Some(sources) if kind == FrontendKind::LoadBalancer && sources.node => FrontendFlags::RANGES,
            Some(_) if kind == FrontendKind::LoadBalancer => {
                FrontendFlags::RANGES | FrontendFlags::NODE_REFUSED
            }
            _ => 0,
        }
    }

    /// All its endpoints that get new flows, with whether each runs on this node.
    pub fn backends(&self) -> BTreeMap<EndpointAddr, bool> {
        let local = self.local.iter().map(|endpoint| (*endpoint, true));
        local
            .chain(
                self.endpoints
                    .iter()
                    .map(|(addr, endpoint)| (*addr, endpoint.local)),
            )
            .collect()
    }
}

/// A change of what is desired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The service port is new or has changed.
    Apply(ServicePortKey, Arc<ServicePort>),
    /// The service port is gone.
    Delete(ServicePortKey),
}

impl Change {
    /// The service port that changes.
    pub const fn key(&self) -> &ServicePortKey {
        match self {
            Self::Apply(key, _) | Self::Delete(key) => key,
        }
    }
}

/// What an update came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// What has changed, each service port at most once.
    pub changes: Vec<Change>,
    /// What there is to tell, each thing once for as long as it is true.
    pub notices: Vec<Notice>,
    /// Whether [`Desired::health_checks`] are others than before.
    pub health_checks: bool,
    /// Whether everything was worked out anew.
    pub full: bool,
}

/// What is known of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node's name, as endpoints carry it.
    pub name: String,
    /// The zone that it is in, if that is known.
    pub zone: Option<Arc<str>>,
    /// The addresses that node ports are served on, besides the loopback addresses.
    pub addresses: Vec<IpAddr>,
    /// All addresses of the node, on whatever device.
    pub own: BTreeSet<IpAddr>,
}

/// What the operator chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Serve `spec.externalIPs`. Who may create Services may take over any address with them (CVE-2020-8554).
    pub external_ips: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { external_ips: true }
    }
}

/// A service port as it would be without the claims of others.
#[derive(Debug)]
struct Port {
    claim: Claim,
    asked: Arc<ServicePort>,
}

/// The desired state of this node.
#[derive(Debug)]
pub struct Desired {
    options: Options,
    facts: NodeFacts,
    ports: BTreeMap<ServicePortKey, Port>,
    claims: Claims,
    /// What was told last, without the service ports that have no frontend.
    told: BTreeMap<ServicePortKey, Arc<ServicePort>>,
    health_checks: HealthChecks,
    /// What was told of each Service by itself, for as long as it is true.
    noted: BTreeMap<ServiceName, BTreeSet<Notice>>,
    tally: Tally,
    /// Everything is to be worked out anew.
    all: bool,
    work: u64,
}

impl Desired {
    /// A state in which nothing is desired yet.
    pub fn new(options: Options, facts: NodeFacts) -> Self {
        Self {
            options,
            facts,
            ports: BTreeMap::new(),
            claims: Claims::default(),
            told: BTreeMap::new(),
            health_checks: HealthChecks::new(),
            noted: BTreeMap::new(),
            tally: Tally::default(),
            all: true,
            work: 0,
        }
    }

    /// Something has changed on the node. The next update works everything out anew.
    pub fn set_node(&mut self, facts: NodeFacts) {
        self.all |= self.facts != facts;
        self.facts = facts;
    }

    /// Works out what was touched since the last update. `None` if nothing was, or if the index does not know
    /// everything yet; the first update comes even if there is no Service at all.
    pub fn update(&mut self, index: &mut Index) -> Option<Update> {
        if !index.is_listed() {
            return None;
        }
        let mut touched = index.take_touched();
        let full = std::mem::take(&mut self.all);
        if full {
            touched.extend(index.names().cloned());
            touched.extend(self.ports.keys().map(|key| key.service.clone()));
        } else if touched.is_empty() {
            return None;
        }
        let mut update = Update {
            full,
            ..Update::default()
        };
        let mut affected = BTreeSet::new();
        let mut contested = BTreeMap::new();
        for name in touched {
            self.work += 1;
            let (ports, checks) = index
                .service(&name)
                .map(|service| self.work_out(index, &name, service))
                .unwrap_or_default();
            update.health_checks |= self.replace_health_checks(&name, checks);
            let notices = index.service(&name).map(notice::of_service).unwrap_or_default();
            update.notices.extend(self.replace_notices(&name, notices));
            self.replace(&name, ports, &mut affected, &mut contested);
        }
        for (frontend, before) in contested {
            self.work += 1;
            let after = self.claims.of(&frontend);
            affected.extend(before.first().cloned());
            affected.extend(after.first().cloned());
            update.notices.extend(notice::lost(frontend, &before, &after));
        }
        self.work += affected.len() as u64;
        update.changes = affected.into_iter().filter_map(|key| self.tell(key)).collect();
        Some(update)
    }

    /// The service ports of a Service, and its health checks.
    fn work_out(
        &self,
        index: &Index,
        name: &ServiceName,
        service: &Service,
    ) -> (BTreeMap<ServicePortKey, Port>, BTreeMap<Family, HealthCheck>) {
        let mut ports = BTreeMap::new();
        let mut checked: BTreeMap<Family, BTreeSet<IpAddr>> = BTreeMap::new();
        for port in frontends::of_service(service, &self.facts, self.options) {
            let key = ServicePortKey {
                service: name.clone(),
                port: port.name,
                protocol: port.protocol,
                family: port.family,
            };
            let known = endpoints::known(
                index.slices(name),
                &key.port,
                key.protocol,
                key.family,
                &self.facts,
            );
            if service.health_check_port.is_some() {
                let counted = checked.entry(key.family).or_default();
                counted.extend(health::local_ready(&known));
            }
            let policies = policies::of_service(service);
            let any = policies.internal_local || policies.external_local;
            let sources = sources::of_service(service, key.family, &self.facts, &port.frontends);
            let endpoints = endpoints::cluster_set(&known);
            let local = if any {
                endpoints::local_set(&known)
            } else {
                BTreeSet::new()
            };
            ports.entry(key.clone()).or_insert_with(|| Port {
                claim: Claim::new(service.created.clone(), key),
                asked: Arc::new(ServicePort {
                    addresses: frontends::addresses_of(&port.frontends, &self.facts),
                    frontends: port.frontends,
                    sources,
                    kept: endpoints::kept_set(&known, &endpoints, &local),
                    endpoints,
                    policies,
                    local,
                }),
            });
        }
        (ports, health::checks(service, &checked))
    }

    /// Puts new health checks in the place of a Service's former ones; says whether that changes any.
    fn replace_health_checks(
        &mut self,
        name: &ServiceName,
        mut checks: BTreeMap<Family, HealthCheck>,
    ) -> bool {
        let mut changed = false;
        for family in Family::ALL {
            let key = (name.clone(), family);
            changed |= match checks.remove(&family) {
                Some(check) => self.health_checks.insert(key, check.clone()) != Some(check),
                None => self.health_checks.remove(&key).is_some(),
            };
        }
        changed
    }

    /// Puts new notices in the place of a Service's former ones, and returns those that were not told.
    fn replace_notices(&mut self, name: &ServiceName, notices: BTreeSet<Notice>) -> Vec<Notice> {
        let told = self.noted.remove(name).unwrap_or_default();
        let news = notices.difference(&told).cloned().collect();
        if !notices.is_empty() {
            self.noted.insert(name.clone(), notices);
        }
        news
    }

    /// How many service ports lack local endpoints.
    pub const fn tally(&self) -> Tally {
        self.tally
    }

    /// The health checks that load balancers ask for, of all Services.
    pub fn health_checks(&self) -> &HealthChecks {
        &self.health_checks
    }

    /// The addresses that node ports are served on.
    pub fn node_port_addresses(&self) -> &[IpAddr] {
        &self.facts.addresses
    }

    /// Puts new service ports in the place of a Service's former ones. Adds the service ports that this may change to
    /// `affected`, and the frontends whose claims change to `contested`, with the claims as they were.
    fn replace(
        &mut self,
        name: &ServiceName,
        ports: BTreeMap<ServicePortKey, Port>,
        affected: &mut BTreeSet<ServicePortKey>,
        contested: &mut BTreeMap<FrontendAddr, Vec<ServicePortKey>>,
    ) {
        let former = self.keys_of(name);
        affected.extend(ports.keys().chain(&former).cloned());
        for port in former.iter().filter_map(|key| self.ports.remove(key)) {
            for frontend in port.asked.frontends.keys() {
                contested
                    .entry(*frontend)
                    .or_insert_with(|| self.claims.of(frontend));
                self.claims.delete(frontend, &port.claim);
            }
        }
        for port in ports.values() {
            for frontend in port.asked.frontends.keys() {
                contested
                    .entry(*frontend)
                    .or_insert_with(|| self.claims.of(frontend));
                self.claims.apply(*frontend, port.claim.clone());
            }
        }
        self.work += ports.values().map(Port::size).sum::<u64>();
        self.ports.extend(ports);
    }

    /// The service ports of a Service.
    fn keys_of(&self, name: &ServiceName) -> Vec<ServicePortKey> {
        let first = ServicePortKey {
            service: name.clone(),
            port: "".into(),
            // No service port of the Service is less than this.
            protocol: Protocol::Tcp,
            family: Family::V4,
        };
        let keys = self.ports.range(first..).map(|(key, _)| key);
        keys.take_while(|key| key.service == *name).cloned().collect()
    }

    /// A service port with the frontends that it has won; none if there is none.
    fn claimed(&self, key: &ServicePortKey) -> Option<Arc<ServicePort>> {
        let asked = &self.ports.get(key)?.asked;
        let won = |frontend: &FrontendAddr| self.claims.winner(frontend) == Some(key);
        if asked.frontends.keys().all(won) {
            // Nearly always: what is wanted is held once, however many layers remember it.
            return (!asked.frontends.is_empty()).then(|| asked.clone());
        }
        let mut frontends = asked.frontends.clone();
        frontends.retain(|frontend, _| won(frontend));
        (!frontends.is_empty()).then(|| {
            Arc::new(ServicePort {
                addresses: frontends::addresses_of(&frontends, &self.facts),
                sources: asked.sources.clone().filter(|_| sources::matter(&frontends)),
                frontends,
                ..ServicePort::clone(asked)
            })
        })
    }

    /// What has changed of a service port since it was told last.
    fn tell(&mut self, key: ServicePortKey) -> Option<Change> {
        match self.claimed(&key) {
            Some(wanted) if self.told.get(&key) != Some(&wanted) => {
                self.tally.add(&key, &wanted);
                if let Some(former) = self.told.insert(key.clone(), wanted.clone()) {
                    self.tally.remove(&key, &former);
                }
                Some(Change::Apply(key, wanted))
            }
            Some(_) => None,
            None => {
                let former = self.told.remove(&key)?;
                self.tally.remove(&key, &former);
                Some(Change::Delete(key))
            }
        }
    }
}

#[cfg(test)]
mod tests;
