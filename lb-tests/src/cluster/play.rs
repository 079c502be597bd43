//! A cluster that is served: agents on its nodes, servers in its pods.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use lb_testkit::{Host, Lab, Server, Wiring};
use serde_json::{Value, json};

use super::{Allocated, Cluster, put};
use crate::agent::{Agent, at_once};

/// Where servers listen.
const PORTS: [u16; 2] = [8080, 8081];

/// The addresses of a load balancer: no host of a lab has them.
const BALANCER: [&str; 2] = ["203.0.113.8", "2001:db8:7::8"];

/// A cluster with agents on all nodes, and a server on ports 8080 and 8081 of each pod but `n1-a`, which is a client. The
/// API server knows of none of the pods at first.
pub struct Play {
    agents: Vec<Agent>,
    servers: Vec<(String, Server)>,
    /// The cluster.
    pub cluster: Cluster,
}

impl Play {
    /// Two nodes of three pods, which are routed.
    ///
    /// # Errors
    ///
    /// If the lab cannot be built, or an agent does not come to serve.
    pub fn new() -> Result<Self> {
        Self::on(Lab::builder().wiring(Wiring::Routed).pods_per_node(3).build()?)
    }

    /// The same in a given lab.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn on(lab: Lab) -> Result<Self> {
        let mut play = Self {
            agents: Vec::new(),
            servers: Vec::new(),
            cluster: Cluster::on(lab)?,
        };
        let pods: Vec<Host> = play.lab().pods().flatten().skip(1).cloned().collect();
        pods.iter().try_for_each(|pod| play.serve(pod))?;
        play.agents = play.cluster.agents(&[])?;
        Ok(play)
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.cluster.lab
    }

    /// A pod and a process of its node.
    pub fn clients(&self) -> [&Host; 2] {
        [self.lab().pod(1, 1), self.lab().node(1)]
    }

    /// These and the client outside.
    pub fn all_clients(&self) -> [&Host; 3] {
        let [pod, node] = self.clients();
        [pod, node, self.lab().client()]
    }

    /// Clients to whom a node, 1 or 2, is another machine: the client outside, a pod of the other node, and a process of it.
    pub fn strangers(&self, node: usize) -> [&Host; 3] {
        let lab = self.lab();
        let (other, pod) = if node == 1 { (2, 3) } else { (1, 1) };
        [lab.client(), lab.pod(other, pod), lab.node(other)]
    }

    /// Two servers, one on each of the first two nodes.
    pub fn servers(&self) -> [&Host; 2] {
        [self.lab().pod(1, 2), self.lab().pod(2, 1)]
    }

    /// Creates the pods of [`Self::servers`].
    ///
    /// # Errors
    ///
    /// If there are such pods.
    pub fn pods(&self, app: &str) -> Result<()> {
        self.servers()
            .iter()
            .try_for_each(|host| self.cluster.pod(host, app))
    }

    /// Creates the Service `web` of the pods of that app: TCP and UDP of port 80 to 8080, unless `more` says otherwise.
    ///
    /// # Errors
    ///
    /// As [`Cluster::service`].
    pub fn web(&self, more: &Value) -> Result<Allocated> {
        self.service("web", more)
    }

    /// The same by another name.
    ///
    /// # Errors
    ///
    /// As [`Cluster::service`].
    pub fn service(&self, name: &str, more: &Value) -> Result<Allocated> {
        let mut spec = json!({"selector": {"app": "web"}, "ports": Self::ports(80)});
        put(&mut spec, more);
        self.cluster.service(name, &spec)
    }

    /// Creates the Service `web` as [`Self::web`] does, of type `LoadBalancer`, with addresses that the client outside reaches
    /// by way of node 1.
    ///
    /// # Errors
    ///
    /// As [`Cluster::service`].
    pub fn balanced(&self, more: &Value) -> Result<Allocated> {
        let mut spec = json!({"type": "LoadBalancer"});
        put(&mut spec, more);
        let web = self.web(&spec)?;
        self.balance("web")?;
        self.lead(1)?;
        Ok(web)
    }

    /// Gives a Service the load balancer's addresses.
    ///
    /// # Errors
    ///
    /// If there is none of that name.
    pub fn balance(&self, name: &str) -> Result<()> {
        self.cluster.balance(name, &balancer())
    }

    /// From now on the client outside reaches the load balancer's addresses by way of a node, counted from 1.
    ///
    /// # Errors
    ///
    /// If there cannot be such a route.
    pub fn lead(&self, node: usize) -> Result<()> {
        let mut ips = balancer().into_iter();
        ips.try_for_each(|ip| self.cluster.route(ip, node))
    }

    /// A port at the load balancer's addresses.
    pub fn balancer(port: u16) -> [SocketAddr; 2] {
        balancer().map(|ip| SocketAddr::new(ip, port))
    }

    /// A port of a Service for TCP and one for UDP, to port 8080.
    pub fn ports(number: u16) -> Value {
        let port = |protocol: &str| {
            json!({
                "name": protocol.to_lowercase(), "protocol": protocol, "port": number, "targetPort": PORTS[0],
            })
        };
        json!([port("TCP"), port("UDP")])
    }

    /// Starts the servers of a pod or a node.
    ///
    /// # Errors
    ///
    /// If they run already.
    pub fn serve(&mut self, host: &Host) -> Result<()> {
        for port in PORTS {
            self.servers.push((host.name.clone(), Server::start(host, port)?));
        }
        Ok(())
    }

    /// Starts the servers of a pod anew, that of port 8081 under a name of its own: the host that is returned has it. So
    /// answers tell which port was asked.
    ///
    /// # Errors
    ///
    /// If they cannot listen.
    pub fn serve_apart(&mut self, pod: &Host) -> Result<Host> {
        self.stop(pod);
        let mut second = pod.clone();
        second.name.push_str("-second");
        for (host, port) in [pod, &second].into_iter().zip(PORTS) {
            self.servers.push((pod.name.clone(), Server::start(host, port)?));
        }
        Ok(second)
    }

    /// Starts servers on all nodes too, for pods with the host's network.
    ///
    /// # Errors
    ///
    /// If they run already.
    pub fn serve_at_nodes(&mut self) -> Result<()> {
        let nodes = self.lab().nodes().to_vec();
        nodes.iter().try_for_each(|node| self.serve(node))
    }

    /// Ends the servers of a pod, as its container ends.
    pub fn stop(&mut self, host: &Host) {
        self.servers.retain(|(name, _)| *name != host.name);
    }

    /// Removes a pod: its endpoints go, then its servers, as a container is given time to end.
    ///
    /// # Errors
    ///
    /// If there is no such pod.
    pub fn delete(&mut self, host: &Host) -> Result<()> {
        self.cluster.delete_pod(host)?;
        self.stop(host);
        Ok(())
    }
}

fn balancer() -> [IpAddr; 2] {
    BALANCER.map(|ip| ip.parse().expect("an address"))
}

impl Drop for Play {
    fn drop(&mut self) {
        // Each takes a while to notice.
        at_once(self.servers.drain(..), drop);
    }
}
