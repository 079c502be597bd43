//! Addresses of services: which of them the kernel knows, and which it is to know.
//!
//! An address has one entry, however many service ports share it: an external or load balancer IP may belong to several
//! Services. The entry comes after the frontends that it was made for and goes after the last of them; in between, a
//! packet to a port that is not there yet is treated as if nobody had the address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Bound,
};

use super::{
    DiffError, Ledger, Step,
    planner::{Draft, What},
};
use crate::{
    desired::ServicePortKey,
    plan::{Family, FrontendKind, Op},
};

/// The addresses of both families.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// What the kernel holds, or may hold where no kind is known.
    held: BTreeMap<IpAddr, Option<FrontendKind>>,
    /// How many that are, by family.
    held_by_family: [usize; 2],
    /// Who wants each address, and as which kind.
    wanted: BTreeMap<IpAddr, Vec<(ServicePortKey, FrontendKind)>>,
    /// Held addresses that nobody may want.
    loose: BTreeSet<IpAddr>,
}

impl Addresses {
    /// What the kernel holds already.
    pub(super) fn adopt(&mut self, addr: IpAddr, kind: Option<FrontendKind>) {
        self.hold(addr, kind);
        self.loose.insert(addr);
    }

    /// A service port wants an address.
    pub(super) fn want(&mut self, addr: IpAddr, key: &ServicePortKey, kind: FrontendKind) {
        // Nearly every address belongs to the ports of one Service.
        let wanted = self.wanted.entry(addr).or_insert_with(|| Vec::with_capacity(1));
        wanted.retain(|(other, _)| other != key);
        wanted.push((key.clone(), kind));
    }

    /// A service port no longer wants an address. Returns who else wants it, if it is of another kind for them.
    pub(super) fn unwant(&mut self, addr: IpAddr, key: &ServicePortKey) -> Vec<ServicePortKey> {
        self.loose.insert(addr);
        let kind = self.kind(&addr);
        let Some(wanted) = self.wanted.get_mut(&addr) else {
            return Vec::new();
        };
        wanted.retain(|(other, _)| other != key);
        if wanted.is_empty() {
            self.wanted.remove(&addr);
            return Vec::new();
        }
        if self.kind(&addr) == kind {
            return Vec::new();
        }
        self.wanting(&addr).cloned().collect()
    }

    /// Addresses that the kernel holds and nobody wants.
    fn unwanted(&mut self) -> Vec<IpAddr> {
        let (held, wanted) = (&self.held, &self.wanted);
        self.loose
            .retain(|addr| held.contains_key(addr) && !wanted.contains_key(addr));
        self.loose.iter().copied().collect()
    }

    /// Whether the kernel holds the address as that kind, or it is not known what it holds.
    pub(super) fn may_be(&self, addr: &IpAddr, kind: Option<FrontendKind>) -> bool {
        let held = self.held.get(addr);
        held.is_some_and(|held| held.is_none() || *held == kind)
    }

    /// Whether the kernel holds the address, as far as is known.
    pub(super) fn is_held(&self, addr: &IpAddr) -> bool {
        self.held.contains_key(addr)
    }

    /// The addresses behind `after` that are known to be in the kernel.
    pub(super) fn known(&self, after: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let held = self.held.range((begin, Bound::Unbounded));
        held.filter(|(_, kind)| kind.is_some()).map(|(addr, _)| *addr)
    }

    /// Somebody has removed an address. Returns who wants it.
    pub(super) fn lost(&mut self, addr: &IpAddr) -> Vec<ServicePortKey> {
        self.delete(addr);
        self.wanting(addr).cloned().collect()
    }

    /// Somebody has added an address, or changed its kind. Returns who wants it.
    pub(super) fn changed(&mut self, addr: IpAddr, kind: Option<FrontendKind>) -> Vec<ServicePortKey> {
        self.adopt(addr, kind);
        self.wanting(&addr).cloned().collect()
    }

    /// Who wants an address.
    fn wanting(&self, addr: &IpAddr) -> impl Iterator<Item = &ServicePortKey> {
        self.wanted.get(addr).into_iter().flatten().map(|(key, _)| key)
    }

    /// The kind that an address is to have: the first of those that are wanted.
    fn kind(&self, addr: &IpAddr) -> Option<FrontendKind> {
        self.wanted.get(addr)?.iter().map(|(_, kind)| *kind).min()
    }

    fn hold(&mut self, addr: IpAddr, kind: Option<FrontendKind>) {
        if self.held.insert(addr, kind).is_none() {
            self.held_by_family[Family::of(addr) as usize] += 1;
        }
    }

    /// How many of a family the kernel holds.
    pub(super) const fn count(&self, family: Family) -> usize {
        self.held_by_family[family as usize]
    }

    /// Whether the kernel holds none that nobody wants, as far as the last plan found out.
    pub(super) fn is_settled(&self) -> bool {
        self.loose.is_empty()
    }

    /// The kernel holds the address as that kind.
    pub(super) fn put(&mut self, addr: IpAddr, kind: FrontendKind) {
        self.hold(addr, Some(kind));
    }

    /// The kernel does not hold the address.
    pub(super) fn delete(&mut self, addr: &IpAddr) {
        self.loose.remove(addr);
        if self.held.remove(addr).is_some() {
            self.held_by_family[Family::of(*addr) as usize] -= 1;
        }
    }

    /// Nobody knows what the kernel holds of the address. Returns who wants it.
    pub(super) fn doubt(&mut self, addr: IpAddr) -> Vec<ServicePortKey> {
        self.changed(addr, None)
    }
}

impl Ledger {
    /// Adds the addresses of a service port that the kernel does not know as what they are.
    pub(super) fn put_addresses(&self, draft: &mut Draft, key: &ServicePortKey) {
        let (Some(port), Some(id)) = (self.wanted.get(key), self.id_of.get(key)) else {
            return;
        };
        if draft.absent.contains(key) {
            return;
        }
        for addr in port.addresses.keys().copied() {
            let held = self.addresses.held.get(&addr).copied();
            let Some(kind) = self.addresses.kind(&addr) else {
                continue;
            };
            // Without room for its frontends, an address would refuse what is meant to be served.
            let mut frontends = port.frontends.keys().filter(|frontend| frontend.addr == addr);
            let is_reached = frontends.any(|at| draft.moved.contains(at) || self.frontends.contains_key(at));
            if !is_reached || held == Some(Some(kind)) || !draft.put_addresses.insert(addr) {
                continue;
            }
            let added = draft.added.entry(Family::of(addr)).or_default();
            if held.is_none() {
                if self.frontends_of(Family::of(addr)) + *added >= self.limits.max_frontends as usize {
                    draft.error(DiffError::Addresses {
                        service: key.clone(),
                        addr,
                        limit: self.limits.max_frontends,
                    });
                    continue;
                }
                *added += 1;
            }
            draft.push(Op::PutAddress { addr, kind }, What::Address { id: *id });
        }
    }

    /// Removes addresses that nobody wants.
    pub(super) fn delete_addresses(&mut self, draft: &mut Draft) {
        let unwanted = self.addresses.unwanted().into_iter();
        draft.steps.extend(unwanted.map(|addr| Step {
            op: Op::DeleteAddress { addr },
            what: What::Frontend,
        }));
    }
}
