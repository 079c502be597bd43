//! A UDP socket that is kept while its service changes.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_testkit::Host;

use crate::{
    agent::eventually,
    stage::{address, at},
};

/// How long it may take until another host answers.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_millis(200);

/// A UDP socket of a host that is kept.
pub struct Talker {
    socket: UdpSocket,
    to: SocketAddr,
    name: String,
}

impl Talker {
    /// A socket at the host's own address, which is not connected.
    ///
    /// # Errors
    ///
    /// If there cannot be one.
    pub fn new(host: &Host, to: SocketAddr) -> Result<Self> {
        let from = at(address(host, to), 0);
        let socket = host.run(|| UdpSocket::bind(from))??;
        socket.set_read_timeout(Some(ANSWER))?;
        Ok(Self {
            socket,
            to,
            name: host.name.clone(),
        })
    }

    /// One for each of the clients and addresses.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn all(clients: &[&Host], addrs: &[SocketAddr]) -> Result<Vec<Self>> {
        let pairs = clients
            .iter()
            .flat_map(|client| addrs.iter().map(|addr| (*client, *addr)));
        pairs.map(|(client, addr)| Self::new(client, addr)).collect()
    }

    /// Sends a datagram.
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub fn send(&self) -> Result<()> {
        self.socket.send_to(b"ask", self.to)?;
        Ok(())
    }

    /// Who answers the next datagram.
    ///
    /// # Errors
    ///
    /// If nobody does, or from another address than was asked.
    pub fn ask(&self) -> Result<String> {
        let mut buffer = [0; 256];
        self.send()?;
        let (len, from) = self.socket.recv_from(&mut buffer).context("no answer")?;
        ensure!(from == self.to, "an answer from {from} instead of {}", self.to);
        let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
        let name = text.split(' ').next().unwrap_or_default();
        Ok(name.to_owned())
    }

    /// Asks until that host answers.
    ///
    /// # Errors
    ///
    /// If it does not within half a minute.
    pub fn reaches(&self, host: &Host) -> Result<()> {
        let asked = eventually(PATIENCE, || {
            let server = self.ask()?;
            ensure!(server == host.name, "{server} answered instead of {}", host.name);
            Ok(())
        });
        asked
            .map(drop)
            .with_context(|| format!("the socket of {} for {}", self.name, self.to))
    }
}
