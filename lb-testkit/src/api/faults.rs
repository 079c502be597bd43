//! Misbehaviour that tests order.

use std::time::Duration;

use super::{
    request::Verb,
    resources,
    status::{Outcome, Status},
};

/// What the server does wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// It answers with this HTTP status, and may say after how many seconds to try again. 429 says that storage is being
    /// initialized, 410 that a version is too old.
    Status {
        /// The status.
        code: u16,
        /// `Retry-After`, in seconds.
        retry_after: Option<u32>,
    },
    /// It takes the request and does not answer until the order is lifted.
    Hang,
    /// As [`Self::Hang`], and watches that are open stay open and show nothing until the order is lifted: as a server
    /// that is cut off.
    Silence,
    /// A watch begins, and shows nothing until the order is lifted.
    Mute,
    /// A watch begins with the error that its version is too old.
    Expired,
    /// It closes the connection instead of answering.
    Reset,
    /// It closes the connection in the middle of the answer; of a watch, in the middle of the first event.
    Torn,
    /// It sends a byte at a time, with this pause after each.
    Slow(Duration),
    /// Lists show this many objects only, and say that they are whole. When the order is lifted, open watches of the
    /// resource end with the error that their version is too old, so that clients list again.
    Short(usize),
    /// Watches show each event twice.
    Twice,
}

/// A fault, and which requests meet it: all of them unless said otherwise.
#[derive(Clone, Debug)]
pub struct Order {
    fault: Fault,
    verb: Option<Verb>,
    resource: Option<resources::Id>,
    door: Option<usize>,
    /// How many requests it meets yet.
    left: Option<u32>,
}

impl Order {
    /// For all requests, until it is lifted.
    #[must_use]
    pub const fn new(fault: Fault) -> Self {
        Self {
            fault,
            verb: None,
            resource: None,
            door: None,
            left: None,
        }
    }

    /// Only for requests with this verb.
    #[must_use]
    pub const fn verb(mut self, verb: Verb) -> Self {
        self.verb = Some(verb);
        self
    }

    /// Only for requests about this resource (`services`, `endpointslices`).
    ///
    /// # Panics
    ///
    /// If the server has no such resource.
    #[must_use]
    pub fn resource(mut self, name: &str) -> Self {
        self.resource = Some(resources::named(name));
        self
    }

    /// Only for requests that come by one address ([`ApiServer::urls`](super::ApiServer::urls) has them in this order): of
    /// several servers of one cluster, one has the fault.
    #[must_use]
    pub const fn at(mut self, index: usize) -> Self {
        self.door = Some(index);
        self
    }

    /// Only for the next requests, this many.
    #[must_use]
    pub const fn times(mut self, requests: u32) -> Self {
        self.left = Some(requests);
        self
    }

    fn covers(&self, resource: Option<resources::Id>, door: usize) -> bool {
        (self.resource.is_none() || self.resource == resource) && self.door.is_none_or(|one| one == door)
    }
}

/// Names an order, to lift it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderId(u64);

/// What a request meets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// The door that it came by.
    pub(crate) door: usize,
    /// Orders that hold it back until they are lifted.
    pub(crate) held: Vec<OrderId>,
    /// Orders that keep its watch mute until they are lifted.
    pub(crate) mute: Vec<OrderId>,
    pub(crate) status: Option<(u16, Option<u32>)>,
    pub(crate) expired: bool,
    pub(crate) reset: bool,
    pub(crate) torn: bool,
    pub(crate) slow: Option<Duration>,
    pub(crate) short: Option<usize>,
    pub(crate) twice: bool,
}

impl Plan {
    /// The failure that was ordered, if one was.
    pub(crate) fn check(&self) -> Outcome<()> {
        match self.status {
            Some((code, retry_after)) => Err(Status::ordered(code, retry_after)),
            None => Ok(()),
        }
    }
}

/// The orders in force.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    orders: Vec<(OrderId, Order)>,
    count: u64,
}

impl Faults {
    pub(crate) fn add(&mut self, order: Order) -> OrderId {
        self.count += 1;
        let id = OrderId(self.count);
        self.orders.push((id, order));
        id
    }

    /// Takes an order away and returns the resource that watches must be started anew of, `None` in it standing for all.
    pub(crate) fn lift(&mut self, id: OrderId) -> Option<Option<resources::Id>> {
        let index = self.orders.iter().position(|(one, _)| *one == id)?;
        let (_, order) = self.orders.remove(index);
        matches!(order.fault, Fault::Short(_)).then_some(order.resource)
    }

    /// The orders in force.
    pub(crate) fn ids(&self) -> Vec<OrderId> {
        self.orders.iter().map(|(id, _)| *id).collect()
    }

    /// Whether one of these orders is in force still.
    pub(crate) fn any(&self, ids: &[OrderId]) -> bool {
        self.orders.iter().any(|(id, _)| ids.contains(id))
    }

    /// Whether open watches of a resource that came by a door show nothing.
    pub(crate) fn silent(&self, resource: resources::Id, door: usize) -> bool {
        self.orders.iter().any(|(_, order)| {
            order.fault == Fault::Silence
                && order.covers(Some(resource), door)
                && order.verb.is_none_or(|verb| verb == Verb::Watch)
        })
    }

    /// Whether open watches of a resource that came by a door show events twice.
    pub(crate) fn twice(&self, resource: resources::Id, door: usize) -> bool {
        self.orders
            .iter()
            .any(|(_, order)| order.fault == Fault::Twice && order.covers(Some(resource), door))
    }

    /// What a request meets that comes by a door.
    pub(crate) fn plan(&mut self, verb: Verb, resource: Option<resources::Id>, door: usize) -> Plan {
        let mut plan = Plan {
            door,
            ..Plan::default()
        };
        for (id, order) in &mut self.orders {
            if !order.covers(resource, door)
                || order.verb.is_some_and(|one| one != verb)
                || order.left == Some(0)
            {
                continue;
            }
            if let Some(left) = &mut order.left {
                *left -= 1;
            }
            match order.fault.clone() {
                Fault::Status { code, retry_after } => plan.status = Some((code, retry_after)),
                Fault::Hang | Fault::Silence => plan.held.push(*id),
                Fault::Mute => plan.mute.push(*id),
                Fault::Expired => plan.expired = true,
                Fault::Reset => plan.reset = true,
                Fault::Torn => plan.torn = true,
                Fault::Slow(pause) => plan.slow = Some(pause),
                Fault::Short(objects) => plan.short = Some(objects),
                Fault::Twice => plan.twice = true,
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::resources::{NODES, SERVICES};

    #[test]
    fn an_order_meets_what_it_names_and_so_often() {
        let mut faults = Faults::default();
        let order = Order::new(Fault::Reset)
            .verb(Verb::List)
            .resource("services")
            .times(2);
        let id = faults.add(order);
        assert!(!faults.plan(Verb::Watch, Some(SERVICES), 0).reset);
        assert!(!faults.plan(Verb::List, Some(NODES), 0).reset);
        assert!(!faults.plan(Verb::List, None, 0).reset);
        assert!(faults.plan(Verb::List, Some(SERVICES), 0).reset);
        assert!(faults.plan(Verb::List, Some(SERVICES), 0).reset);
        assert!(!faults.plan(Verb::List, Some(SERVICES), 0).reset);
        assert!(faults.any(&[id]));
        assert_eq!(faults.lift(id), None);
        assert!(!faults.any(&[id]));
    }

    #[test]
    fn an_order_for_one_address_meets_what_comes_by_it() {
        let mut faults = Faults::default();
        faults.add(Order::new(Fault::Reset).at(1));
        let id = faults.add(Order::new(Fault::Silence).at(1));
        assert_eq!(faults.plan(Verb::List, Some(SERVICES), 0), Plan::default());
        let plan = faults.plan(Verb::List, Some(SERVICES), 1);
        assert!(plan.reset && plan.held == [id]);
        assert!(!faults.silent(SERVICES, 0) && faults.silent(SERVICES, 1));
    }

    #[test]
    fn silence_covers_open_watches_and_new_requests() {
        let mut faults = Faults::default();
        let id = faults.add(Order::new(Fault::Silence).resource("nodes"));
        assert!(faults.silent(NODES, 0) && !faults.silent(SERVICES, 0));
        assert_eq!(faults.plan(Verb::List, Some(NODES), 0).held, [id]);
        assert_eq!(faults.plan(Verb::List, Some(SERVICES), 0), Plan::default());
        faults.lift(id);
        assert!(!faults.silent(NODES, 0));
    }

    #[test]
    fn watches_begin_anew_after_a_short_list() {
        let mut faults = Faults::default();
        let one = faults.add(Order::new(Fault::Short(0)).resource("services"));
        let all = faults.add(Order::new(Fault::Short(3)));
        assert_eq!(faults.plan(Verb::List, Some(SERVICES), 0).short, Some(3));
        assert_eq!(faults.lift(one), Some(Some(SERVICES)));
        assert_eq!(faults.lift(all), Some(None));
        assert_eq!(faults.lift(all), None);
    }
}
