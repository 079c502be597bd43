//! The tables that a service is to have.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    abi::{Policies, TableRef},
    maglev::table_size,
};

use super::{
    ledger::{Content, Slot},
    table::Builder,
};
use crate::desired::{EndpointAddr, ServicePort};

/// The tables of a service: one of all endpoints, and one of those on this node if a policy asks for it.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) content: Content,
    cluster: BTreeMap<EndpointAddr, u32>,
    local: BTreeMap<EndpointAddr, u32>,
    /// Slots of one table.
    size: u32,
}

impl Tables {
    /// Of the wanted endpoints those that have a place in BACKENDS, which `members` gives.
    pub(super) fn new(wanted: &ServicePort, members: &BTreeMap<EndpointAddr, u32>) -> Self {
        let those = |wanted: &dyn Fn(&EndpointAddr) -> bool| -> BTreeMap<EndpointAddr, u32> {
            let chosen = members.iter().filter(|(endpoint, _)| wanted(endpoint));
            chosen.map(|(endpoint, index)| (*endpoint, *index)).collect()
        };
        let local = those(&|endpoint| wanted.local.contains(endpoint));
        let mut cluster = those(&|endpoint| wanted.endpoints.contains_key(endpoint));
        if cluster.is_empty() {
            // There was no room for the others.
            cluster.clone_from(&local);
        }
        Self::of(cluster, local, wanted.policies)
    }

    /// Those of that content; none if one of its endpoints has no backend among `slots`.
    pub(super) fn held(content: &Content, slots: &BTreeMap<EndpointAddr, Slot>) -> Option<Self> {
        let those = |endpoints: &BTreeSet<EndpointAddr>| -> Option<BTreeMap<EndpointAddr, u32>> {
            let places = endpoints.iter();
            places
                .map(|endpoint| Some((*endpoint, slots.get(endpoint)?.index)))
                .collect()
        };
        let (cluster, local) = (those(&content.cluster)?, those(&content.local)?);
        Some(Self::of(cluster, local, content.policies))
    }

    fn of(
        cluster: BTreeMap<EndpointAddr, u32>,
        local: BTreeMap<EndpointAddr, u32>,
        policies: Policies,
    ) -> Self {
        let keys = |map: &BTreeMap<EndpointAddr, u32>| map.keys().copied().collect::<BTreeSet<_>>();
        let policies = if cluster.is_empty() {
            Default::default()
        } else {
            policies
        };
        Self {
            content: Content {
                cluster: keys(&cluster),
                local: keys(&local),
                policies,
            },
            size: table_size(cluster.len().max(local.len())),
            cluster,
            local,
        }
    }

    /// The fewest slots of one table in which every endpoint has one.
    fn least(&self) -> u32 {
        let endpoints = self.cluster.len().max(self.local.len());
        u32::try_from(endpoints)
            .ok()
            .and_then(u32::checked_next_power_of_two)
            .map_or(self.size, |least| least.min(self.size))
    }

    /// Makes the tables half as large; false if an endpoint would be left without a slot.
    pub(super) fn halve(&mut self) -> bool {
        let can = self.size / 2 >= self.least().max(1);
        if can {
            self.size /= 2;
        }
        can
    }

    /// The tables with `total` slots together; none if they are never made like that.
    pub(super) fn of_total(mut self, total: u32) -> Option<Self> {
        while self.total() > total && self.halve() {}
        (self.total() == total).then_some(self)
    }

    /// Slots of both tables.
    pub(super) fn total(&self) -> u32 {
        self.reference(0).total()
    }

    /// What SERVICES holds if the tables lie at `offset`.
    pub(super) fn reference(&self, offset: u32) -> TableRef {
        if self.cluster.is_empty() {
            return TableRef::EMPTY;
        }
        let table = TableRef::new(offset, self.size).with_policies(self.content.policies);
        if self.local.is_empty() {
            table
        } else {
            table.with_local()
        }
    }

    /// What MAGLEV holds for them.
    pub(super) fn slots(&self, builder: &mut Builder) -> Vec<u32> {
        let mut slots = builder.build(&self.cluster, self.size);
        if !self.local.is_empty() {
            slots.extend(builder.build(&self.local, self.size));
        }
        slots
    }
}

/// The content of the tables that `table` and `slots` are, each endpoint with its index as `endpoints` tells. None if
/// they are not as [`Tables`] would make them.
pub(super) fn recognise(
    builder: &mut Builder,
    table: TableRef,
    slots: &[u32],
    endpoints: &BTreeMap<EndpointAddr, u32>,
) -> Option<Content> {
    if table.size() == 0 {
        return (table == TableRef::EMPTY).then(Content::default);
    }
    let (cluster, local) = slots.split_at_checked(table.size() as usize)?;
    let those = |half: &[u32]| -> BTreeMap<EndpointAddr, u32> {
        let used: BTreeSet<u32> = half.iter().copied().collect();
        let chosen = endpoints.iter().filter(|(_, index)| used.contains(index));
        chosen.map(|(endpoint, index)| (*endpoint, *index)).collect()
    };
    let tables = Tables::of(those(cluster), those(local), table.policies()).of_total(table.total())?;
    let same = tables.reference(table.offset()) == table && tables.slots(builder) == slots;
    same.then_some(tables.content)
}
