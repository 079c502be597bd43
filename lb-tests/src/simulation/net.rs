//! Nodes, pods, clients outside, and the way of a frame between them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Result, bail, ensure};
use lb_common::{
    abi::{Address, Either, FlowKey, Tuple, from_ip, port_to_wire},
    datapath::{self, Hook, Role, RouteError, Way, Works},
    host::{FixedEnv, Frame, MemoryTables, PerFamily},
    verdict::{Action, Reason},
};

use super::{
    control::{Control, Port},
    frame::Said,
};
use crate::packets::native::SNAT_PORTS;

/// Number of nodes.
pub const NODES: u8 = 3;
/// Pods of each node.
pub const PODS: u8 = 3;
/// Clients outside.
pub const CLIENTS: u8 = 2;

/// Index of every node's device that leads to the wire.
const UPLINK: u32 = 2;
/// Index of every node's device that leads to its pods.
const TO_PODS: u32 = 3;

/// More hops than any way has; a frame that takes more goes round in a circle.
const MOST_HOPS: usize = 12;

/// Who sends and receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// A pod of a node, both counted from 1.
    Pod(u8, u8),
    /// A client outside, counted from 1.
    Outside(u8),
}

/// The address of a node, counted from 1.
pub fn node_addr(v6: bool, node: u8) -> IpAddr {
    addr(v6, 0xa000, [172, 18, 0], node)
}

fn addr(v6: bool, net: u16, v4: [u8; 3], host: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, net, 0, 0, 0, 0, 0, host.into()).into()
    } else {
        let [a, b, c] = v4;
        Ipv4Addr::new(a, b, c, host).into()
    }
}

/// The address of a service, counted from 1.
pub fn cluster_ip(v6: bool, service: u8) -> IpAddr {
    addr(v6, 0xb000, [10, 96, 0], service)
}

impl Host {
    /// Its address.
    pub fn addr(self, v6: bool) -> IpAddr {
        match self {
            Self::Pod(node, pod) => addr(v6, 0xc000 + u16::from(node), [10, 244, node], 10 + pod),
            Self::Outside(client) => addr(v6, 0xa000, [172, 18, 0], 100 + client),
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        let pods = (1..=NODES).flat_map(|node| (1..=PODS).map(move |pod| Self::Pod(node, pod)));
        pods.chain((1..=CLIENTS).map(Self::Outside))
    }

    /// Who has an address.
    pub fn with(v6: bool, ip: IpAddr) -> Option<Self> {
        Self::all().find(|host| host.addr(v6) == ip)
    }
}

/// What became of a frame.
#[derive(Clone, Debug)]
pub enum Fate {
    /// Somebody got it.
    Delivered(Host, Said),
    /// It was dropped or answered by the datapath.
    Ended(Reason),
}

struct Node {
    addr: IpAddr,
    tables: MemoryTables,
    env: FixedEnv,
    control: Control,
}

/// Where a frame is.
enum At {
    /// It enters a node.
    Ingress(u8, Role),
    /// It leaves a node.
    Egress(u8),
    /// It is on the wire.
    Wire,
}

/// The nodes of a cluster of one address family.
pub struct Net {
    /// Whether addresses are those of IPv6.
    pub v6: bool,
    nodes: Vec<Node>,
}

impl Net {
    /// Nodes without services, at the time `now` (ns).
    pub fn new(v6: bool, now: u64) -> Self {
        let nodes = (1..=NODES)
            .map(|node| {
                let tables = MemoryTables::default();
                let addr = node_addr(v6, node);
                match from_ip(addr) {
                    Either::V4(ip) => tables.v4.sources.borrow_mut().extend([(0, ip), (UPLINK, ip)]),
                    Either::V6(ip) => tables.v6.sources.borrow_mut().extend([(0, ip), (UPLINK, ip)]),
                }
                let env = FixedEnv::new(now, SNAT_PORTS, move |to| match Host::with(v6, to) {
                    Some(Host::Pod(of, _)) if of == node => Ok(TO_PODS),
                    Some(_) => Ok(UPLINK),
                    None if (1..=NODES).any(|other| node_addr(v6, other) == to && other != node) => {
                        Ok(UPLINK)
                    }
                    None => Err(RouteError::None),
                });
                Node {
                    addr,
                    tables,
                    env,
                    control: Control::after(usize::from(node)),
                }
            })
            .collect();
        Self { v6, nodes }
    }

    fn node(&self, node: u8) -> &Node {
        &self.nodes[usize::from(node) - 1]
    }

    /// Adds a service: its cluster IP at port 80, and a NodePort on every node.
    pub fn add_service(&self, service: u8, node_port: u16, port: Port) {
        use lb_common::abi::FrontendKind::{ClusterIp, NodePort};
        for node in &self.nodes {
            let cluster_ip = SocketAddr::new(cluster_ip(self.v6, service), 80);
            Control::frontend(&node.tables, cluster_ip, port, ClusterIp);
            Control::frontend(
                &node.tables,
                SocketAddr::new(node.addr, node_port),
                port,
                NodePort,
            );
        }
    }

    /// Tells all agents which endpoints a service port has.
    pub fn set_endpoints(&mut self, port: Port, endpoints: &BTreeSet<SocketAddr>) {
        let v6 = self.v6;
        for (number, node) in (1..).zip(&mut self.nodes) {
            let is_local = |ip| matches!(Host::with(v6, ip), Some(Host::Pod(of, _)) if of == number);
            node.control.set(&node.tables, port, endpoints, is_local);
        }
    }

    /// Lets time (ns) pass.
    pub fn wait(&mut self, time: u64) {
        for node in &mut self.nodes {
            node.env.now += time;
        }
    }

    /// Sends a frame and follows it to its end.
    ///
    /// # Errors
    ///
    /// If it goes where no frame may go, or was damaged.
    pub fn send(&self, from: Host, said: &Said) -> Result<Fate> {
        let mut frame = Frame::new(said.bytes());
        let mut at = match from {
            Host::Pod(node, _) => At::Ingress(node, Role::Workload),
            Host::Outside(_) => At::Wire,
        };
        for _ in 0..MOST_HOPS {
            let said = Said::read(&frame.bytes)?;
            at = match at {
                At::Wire => match self.off_the_wire(said)? {
                    Ok(node) => At::Ingress(node, Role::Uplink),
                    Err(host) => return Ok(Fate::Delivered(host, said)),
                },
                At::Ingress(node, role) => {
                    let way = match self.process(node, Hook::Ingress(role), &mut frame) {
                        Ok(way) => way,
                        Err(reason) => return Ok(Fate::Ended(reason)),
                    };
                    let said = Said::read(&frame.bytes)?;
                    let own = self.node(node).addr;
                    // The stack takes a packet from one of its own addresses for a forgery, and keeps one to them.
                    ensure!(
                        way == Way::Route || (said.src.ip() != own && said.dst.ip() != own),
                        "the stack of node {node} gets {said:?}"
                    );
                    At::Egress(node)
                }
                At::Egress(node) => {
                    if let Err(reason) = self.process(node, Hook::Egress, &mut frame) {
                        return Ok(Fate::Ended(reason));
                    }
                    let dst = said.dst.ip();
                    match Host::with(self.v6, dst) {
                        Some(Host::Pod(of, pod)) if of == node => {
                            let said = Said::read(&frame.bytes)?;
                            return Ok(Fate::Delivered(Host::Pod(of, pod), said));
                        }
                        _ => At::Wire,
                    }
                }
            };
        }
        bail!("a frame of {from:?} goes round in a circle: {said:?}")
    }

    /// Who takes a frame from the wire: a node for itself or its pods, or a client outside.
    fn off_the_wire(&self, said: Said) -> Result<Result<u8, Host>> {
        let dst = said.dst.ip();
        if let Some(node) = (1..=NODES).find(|node| node_addr(self.v6, *node) == dst) {
            return Ok(Ok(node));
        }
        match Host::with(self.v6, dst) {
            Some(Host::Pod(node, _)) => Ok(Ok(node)),
            Some(outside @ Host::Outside(_)) => Ok(Err(outside)),
            None => bail!("nobody takes {said:?} from the wire"),
        }
    }

    /// Runs the datapath of a node on a frame; an error is the reason for which it ends there.
    fn process(&self, node: u8, hook: Hook, frame: &mut Frame) -> Result<Way, Reason> {
        let node = self.node(node);
        let mut works = Works::default();
        let verdict = datapath::process(frame, &node.tables, &node.env, hook, &mut works);
        match verdict.reason.action() {
            Action::Pass | Action::Forward => Ok(verdict.way),
            Action::Reject | Action::Drop => Err(verdict.reason),
        }
    }

    /// Evicts one of a flow's two entries from the node that recorded it. Says whether there was one.
    pub fn evict(&self, node: u8, proto: u8, client: SocketAddr, frontend: SocketAddr, reply: bool) -> bool {
        let tables = &self.node(node).tables;
        match (from_ip(client.ip()), from_ip(frontend.ip())) {
            (Either::V4(src), Either::V4(dst)) => {
                evict(&tables.v4, forward_key(src, dst, client, frontend, proto), reply)
            }
            (Either::V6(src), Either::V6(dst)) => {
                evict(&tables.v6, forward_key(src, dst, client, frontend, proto), reply)
            }
            _ => false,
        }
    }
}

fn forward_key<A: Address>(
    src: A,
    dst: A,
    client: SocketAddr,
    frontend: SocketAddr,
    proto: u8,
) -> FlowKey<A> {
    let (from, to) = (port_to_wire(client.port()), port_to_wire(frontend.port()));
    FlowKey::new(Tuple::new(src, dst, from, to), proto)
}

fn evict<A: Address>(per: &PerFamily<A>, forward: FlowKey<A>, reply: bool) -> bool {
    let mut flows = per.flows.borrow_mut();
    let Some(flow) = flows.get(&forward) else {
        return false;
    };
    let key = if reply {
        FlowKey::new(flow.tuple.reversed(), forward.proto())
    } else {
        forward
    };
    flows.remove(&key).is_some()
}
