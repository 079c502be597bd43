//! Conversations between clients and services, and the rules that they are held to:
//!
//! - an established TCP connection never changes its endpoint, nor the source that the endpoint sees;
//! - a new connection and any datagram goes to an endpoint that serves, or is refused if there is none;
//! - an answer comes from the address that the client asked, to the address that it asked from;
//! - no two live conversations share a tuple on the way to an endpoint.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_common::{abi::proto, flow::tcp, limits, verdict::Reason};

use super::{
    control::Port,
    frame::Said,
    net::{CLIENTS, Fate, Host, NODES, Net, PODS, cluster_ip, node_addr},
};

/// Number of services. Each has a TCP and a UDP port.
pub const SERVICES: u8 = 3;
/// NodePort of the first service.
const FIRST_NODE_PORT: u16 = 30_001;
/// Ports that clients use: few, so that they collide. The last is one that a redirected flow may keep.
const CLIENT_PORTS: [u16; 3] = [40_000, 40_001, 5_000];

/// What happens.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A client opens a conversation: TCP or UDP, with a service, by one of its addresses.
    Open {
        /// Which client.
        client: u8,
        /// Which of its ports.
        port: u8,
        /// Which service.
        service: u8,
        /// Which of the service's addresses.
        address: u8,
        /// TCP, or UDP.
        tcp: bool,
    },
    /// Data in both directions of an open conversation.
    Talk {
        /// Which one.
        flow: u8,
        /// The endpoint begins.
        endpoint_first: bool,
    },
    /// A TCP connection is closed.
    Close {
        /// Which conversation.
        flow: u8,
        /// By a reset.
        reset: bool,
    },
    /// An endpoint joins or leaves a service.
    Change {
        /// Which service.
        service: u8,
        /// Which pod of the cluster.
        pod: u8,
    },
    /// One entry of an open conversation is evicted, and the direction that kept its entry sends next, a while later.
    Evict {
        /// Which one.
        flow: u8,
        /// Its reply entry, or its forward entry.
        reply: bool,
    },
    /// Time passes.
    Wait {
        /// How much (ms).
        ms: u16,
    },
}

/// A conversation that is alive.
#[derive(Clone, Debug)]
struct Flow {
    client: Host,
    from: SocketAddr,
    frontend: SocketAddr,
    /// The node whose datapath translates it.
    node: u8,
    service: u8,
    proto: u8,
    /// Who got its last packet, and the addresses that it had there.
    endpoint: Host,
    tuple: (SocketAddr, SocketAddr),
    /// How often endpoints had left the service when it was sent.
    departures: u32,
}

/// A cluster with conversations.
pub struct Simulation {
    net: Net,
    endpoints: BTreeMap<u8, BTreeSet<SocketAddr>>,
    /// When each endpoint left a service last, counted in departures of any.
    left: BTreeMap<(u8, SocketAddr), u32>,
    departures: u32,
    flows: BTreeMap<u64, Flow>,
    next: u64,
    /// How much was seen: opened, talked, refused, evicted.
    pub seen: Seen,
}

/// How often something happened: a run in which nothing did shows nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Conversations that were opened.
    pub opened: u32,
    /// Packets of conversations that reached their endpoint and were answered.
    pub answered: u32,
    /// Conversations that met a service without endpoints.
    pub refused: u32,
    /// Entries that were evicted.
    pub evicted: u32,
    /// Conversations whose source the endpoint saw changed.
    pub translated: u32,
    /// TCP packets to an endpoint that serves no longer.
    pub outlived: u32,
}

fn port(service: u8, proto: u8) -> Port {
    Port {
        id: u32::from(service) * 2 + u32::from(proto == proto::UDP),
        proto,
    }
}

impl Simulation {
    /// A cluster whose services have an endpoint on each of two nodes; the second and the third share them all.
    ///
    /// # Panics
    ///
    /// Never: the first pods exist.
    pub fn new(v6: bool) -> Self {
        let mut this = Self {
            // Long after boot.
            net: Net::new(v6, 1 << 50),
            endpoints: BTreeMap::new(),
            left: BTreeMap::new(),
            departures: 0,
            flows: BTreeMap::new(),
            next: 1,
            seen: Seen::default(),
        };
        for service in 0..SERVICES {
            for proto in [proto::TCP, proto::UDP] {
                let node_port = FIRST_NODE_PORT + u16::from(service);
                this.net.add_service(service + 1, node_port, port(service, proto));
            }
            let pods = [Host::Pod(1, 1 + service.min(1)), Host::Pod(2, 1 + service.min(1))];
            let endpoints = pods.map(|pod| SocketAddr::new(pod.addr(v6), 8080));
            this.set(service, endpoints.into());
        }
        this
    }

    fn set(&mut self, service: u8, endpoints: BTreeSet<SocketAddr>) {
        for proto in [proto::TCP, proto::UDP] {
            self.net.set_endpoints(port(service, proto), &endpoints);
        }
        self.endpoints.insert(service, endpoints);
    }

    /// Carries out a step.
    ///
    /// # Errors
    ///
    /// The rule that was broken, and by what.
    pub fn step(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Open {
                client,
                port,
                service,
                address,
                tcp,
            } => self.open(client, port, service, address, tcp),
            Step::Talk { flow, endpoint_first } => match self.pick(flow) {
                Some(id) if endpoint_first => self.talk_back(id).and_then(|()| self.talk(id)),
                Some(id) => self.talk(id),
                None => Ok(()),
            },
            Step::Close { flow, reset } => self.pick(flow).map_or(Ok(()), |id| self.close(id, reset)),
            Step::Change { service, pod } => {
                let (service, pod) = (service % SERVICES, pod % (NODES * PODS));
                let pod = Host::Pod(1 + pod / PODS, 1 + pod % PODS);
                let endpoint = SocketAddr::new(pod.addr(self.net.v6), 8080);
                let mut endpoints = self.endpoints[&service].clone();
                if endpoints.remove(&endpoint) {
                    self.departures += 1;
                    self.left.insert((service, endpoint), self.departures);
                } else {
                    endpoints.insert(endpoint);
                }
                self.set(service, endpoints);
                Ok(())
            }
            Step::Evict { flow, reply } => self.pick(flow).map_or(Ok(()), |id| self.evict(id, reply)),
            Step::Wait { ms } => {
                self.net.wait(u64::from(ms) * 1_000_000);
                Ok(())
            }
        }
    }

    /// One of the live conversations.
    fn pick(&self, nth: u8) -> Option<u64> {
        let nth = usize::from(nth).checked_rem(self.flows.len())?;
        self.flows.keys().nth(nth).copied()
    }

    fn open(&mut self, client: u8, port: u8, service: u8, address: u8, tcp: bool) -> Result<()> {
        let v6 = self.net.v6;
        let service = service % SERVICES;
        let pods = NODES * PODS;
        let client = match client % (pods + CLIENTS) {
            nth if nth < pods => Host::Pod(1 + nth / PODS, 1 + nth % PODS),
            nth => Host::Outside(1 + nth - pods),
        };
        let address = address % (NODES + 1);
        let (frontend, node) = match (client, address) {
            (Host::Pod(node, _), 0) => (SocketAddr::new(cluster_ip(v6, service + 1), 80), node),
            (_, address) => {
                let node = address.max(1);
                let port = FIRST_NODE_PORT + u16::from(service);
                (SocketAddr::new(node_addr(v6, node), port), node)
            }
        };
        let mut from = SocketAddr::new(
            client.addr(v6),
            CLIENT_PORTS[usize::from(port) % CLIENT_PORTS.len()],
        );
        // Two nodes that translate one source port of a pod to the same endpoint, without changing the source, cannot
        // know of each other.
        if matches!(client, Host::Pod(of, _) if of != node) {
            from.set_port(from.port() + 100 * u16::from(node));
        }
        let proto = if tcp { proto::TCP } else { proto::UDP };
        let alive = |flow: &Flow| flow.from == from && flow.frontend == frontend && flow.proto == proto;
        if self.flows.values().any(alive) {
            return Ok(());
        }
        let id = self.next;
        self.next += 1;
        let flow = Flow {
            client,
            from,
            frontend,
            node,
            service,
            proto,
            endpoint: client,
            tuple: (from, frontend),
            departures: self.departures,
        };
        if self.endpoints[&service].is_empty() {
            self.seen.refused += 1;
            let fate = self.net.send(client, &forward(id, &flow, tcp::SYN))?;
            ensure!(
                matches!(fate, Fate::Ended(Reason::NoEndpoints)),
                "nobody serves {flow:?}: {fate:?}"
            );
            return Ok(());
        }
        let (endpoint, said) = self.deliver(id, &flow, tcp::SYN)?;
        let flow = Flow {
            endpoint,
            tuple: (said.src, said.dst),
            ..flow
        };
        ensure!(
            self.endpoints[&service].contains(&said.dst),
            "a new flow goes to {}, which does not serve: {flow:?}",
            said.dst
        );
        self.seen.opened += 1;
        self.seen.translated += u32::from(said.src != flow.from);
        self.flows.insert(id, flow);
        self.answer(id, tcp::SYN | tcp::ACK)?;
        self.check_tuples(id)?;
        self.talk(id)
    }

    /// The client sends, the endpoint answers.
    fn talk(&mut self, id: u64) -> Result<()> {
        let flow = self.flows[&id].clone();
        let has_left = self.has_left(&flow);
        if flow.proto == proto::UDP && has_left {
            return self.move_on(id, &flow);
        }
        let (endpoint, said) = self.deliver(id, &flow, tcp::ACK)?;
        ensure!(
            (endpoint, (said.src, said.dst)) == (flow.endpoint, flow.tuple),
            "{flow:?} went to {endpoint:?} as {said:?}"
        );
        self.seen.outlived += u32::from(has_left);
        self.check_tuples(id)?;
        self.answer(id, tcp::ACK)
    }

    /// Whether the endpoint of a conversation has left since its last packet, even if it is back.
    fn has_left(&self, flow: &Flow) -> bool {
        let left = self.left.get(&(flow.service, flow.tuple.1));
        left.is_some_and(|departure| *departure > flow.departures)
    }

    /// A datagram whose endpoint has left goes to one that serves, if there is one.
    fn move_on(&mut self, id: u64, flow: &Flow) -> Result<()> {
        if self.endpoints[&flow.service].is_empty() {
            let fate = self.net.send(flow.client, &forward(id, flow, 0))?;
            ensure!(
                matches!(fate, Fate::Ended(Reason::NoEndpoints)),
                "nobody serves {flow:?}: {fate:?}"
            );
            self.flows.remove(&id);
            return Ok(());
        }
        let (endpoint, said) = self.deliver(id, flow, 0)?;
        ensure!(
            self.endpoints[&flow.service].contains(&said.dst),
            "{flow:?} goes to {}, which does not serve",
            said.dst
        );
        let moved = Flow {
            endpoint,
            tuple: (said.src, said.dst),
            departures: self.departures,
            ..flow.clone()
        };
        self.flows.insert(id, moved);
        self.check_tuples(id)?;
        self.answer(id, 0)
    }

    /// The endpoint sends without being asked. A UDP endpoint that is gone does not.
    fn talk_back(&mut self, id: u64) -> Result<()> {
        let flow = &self.flows[&id];
        if flow.proto == proto::UDP && self.has_left(flow) {
            return Ok(());
        }
        self.answer(id, tcp::ACK)
    }

    fn close(&mut self, id: u64, reset: bool) -> Result<()> {
        let flow = self.flows[&id].clone();
        if flow.proto != proto::TCP {
            return Ok(());
        }
        let flags = if reset { tcp::RST } else { tcp::FIN | tcp::ACK };
        let (endpoint, said) = self.deliver(id, &flow, flags)?;
        ensure!(
            (endpoint, (said.src, said.dst)) == (flow.endpoint, flow.tuple),
            "the end of {flow:?} went to {endpoint:?} as {said:?}"
        );
        if !reset {
            self.answer(id, tcp::FIN | tcp::ACK)?;
        }
        self.flows.remove(&id);
        Ok(())
    }

    fn evict(&mut self, id: u64, reply: bool) -> Result<()> {
        let flow = self.flows[&id].clone();
        if flow.proto == proto::UDP && self.has_left(&flow) {
            return Ok(());
        }
        let evicted = self
            .net
            .evict(flow.node, flow.proto, flow.from, flow.frontend, reply);
        ensure!(evicted, "node {} has no entry of {flow:?}", flow.node);
        self.seen.evicted += 1;
        // An entry looks after the other one when it is written, once in that time.
        self.net.wait(limits::FLOW_REFRESH_NS);
        if reply {
            self.talk(id)
        } else {
            self.answer(id, tcp::ACK).and_then(|()| self.talk(id))
        }
    }

    /// Sends a packet of the client, which must arrive.
    fn deliver(&self, id: u64, flow: &Flow, flags: u8) -> Result<(Host, Said)> {
        let said = forward(id, flow, flags);
        match self
            .net
            .send(flow.client, &said)
            .with_context(|| format!("{flow:?}"))?
        {
            Fate::Delivered(host, said) => {
                ensure!(
                    host.addr(self.net.v6) == said.dst.ip() && said.flow == id,
                    "{host:?} got {said:?}"
                );
                Ok((host, said))
            }
            Fate::Ended(reason) => bail!("a packet of {flow:?} ended as {}", reason.name()),
        }
    }

    /// Sends a packet of the endpoint, which the client must take for the service's.
    fn answer(&mut self, id: u64, flags: u8) -> Result<()> {
        let flow = &self.flows[&id];
        let said = Said {
            src: flow.tuple.1,
            dst: flow.tuple.0,
            proto: flow.proto,
            flags: if flow.proto == proto::TCP { flags } else { 0 },
            hops: 64,
            flow: id,
        };
        let fate = self
            .net
            .send(flow.endpoint, &said)
            .with_context(|| format!("{flow:?}"))?;
        let Fate::Delivered(host, got) = fate else {
            bail!("an answer of {flow:?} ended: {fate:?}");
        };
        ensure!(
            host == flow.client && (got.src, got.dst) == (flow.frontend, flow.from),
            "{host:?} got the answer of {flow:?} as {got:?}"
        );
        self.seen.answered += 1;
        Ok(())
    }

    /// No other live conversation may look the same to the endpoint.
    fn check_tuples(&self, id: u64) -> Result<()> {
        let flow = &self.flows[&id];
        let same = |other: &Flow| other.tuple == flow.tuple && other.proto == flow.proto;
        match self
            .flows
            .iter()
            .find(|(other, flow)| **other != id && same(flow))
        {
            None => Ok(()),
            Some((_, other)) => bail!("{flow:?} and {other:?} share a tuple"),
        }
    }
}

fn forward(id: u64, flow: &Flow, flags: u8) -> Said {
    Said {
        src: flow.from,
        dst: flow.frontend,
        proto: flow.proto,
        flags: if flow.proto == proto::TCP { flags } else { 0 },
        hops: 64,
        flow: id,
    }
}
