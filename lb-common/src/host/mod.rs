//! A kernel side in ordinary memory: the datapath runs on it in tests, property tests, fuzzing and simulation.

mod frame;
mod tables;

pub use self::{
    frame::Frame,
    tables::{MemoryTables, PerFamily},
};
use std::{boxed::Box, net::IpAddr};

use crate::{
    abi::{Either, to_ip},
    datapath::{Env, Family, Ports, Route, RouteError, V4, V6},
    flow::{State, Timeouts},
};

/// A clock that stands still, a range of ports, and a routing table in which every host is its own next hop.
pub struct FixedEnv {
    /// The time, in ns.
    pub now: u64,
    /// How long flows are kept.
    pub timeouts: Timeouts,
    /// The largest packet that any route takes, in bytes.
    pub mtu: u32,
    ports: Ports,
    routes: Box<dyn Fn(IpAddr) -> Result<u32, RouteError>>,
}

impl FixedEnv {
    /// The surroundings at a time (ns). `routes` tells the index of the device that leads to an address.
    pub fn new(now: u64, ports: Ports, routes: impl Fn(IpAddr) -> Result<u32, RouteError> + 'static) -> Self {
        Self {
            now,
            timeouts: Timeouts::default(),
            mtu: 1_500,
            ports,
            routes: Box::new(routes),
        }
    }
}

macro_rules! env {
    ($family:ty, $either:path) => {
        impl Env<$family> for FixedEnv {
            fn now(&self) -> u64 {
                self.now
            }

            fn may_answer(&self) -> bool {
                true
            }

            fn timeout(&self, state: State) -> u64 {
                self.timeouts.of(state)
            }

            fn snat_ports(&self) -> Ports {
                self.ports
            }

            fn route(
                &self,
                _from: <$family as Family>::Addr,
                to: <$family as Family>::Addr,
                len: u16,
                into: &mut Route<<$family as Family>::Addr>,
            ) -> Result<(), RouteError> {
                *into = Route {
                    next_hop: to,
                    ifindex: (self.routes)(to_ip($either(to)))?,
                    mtu: self.mtu,
                    ethernet: [0; 3],
                };
                if u32::from(len) > self.mtu {
                    Err(RouteError::TooBig)
                } else {
                    Ok(())
                }
            }
        }
    };
}

env!(V4, Either::V4);
env!(V6, Either::V6);
