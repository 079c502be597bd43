//! Links that lose everything without a word: no carrier goes, no error comes back.

use crate::{
    command::{ip_batch, output},
    error::{Error, Result},
    host::Host,
    lab::Lab,
};

impl Lab {
    /// From now on the switch loses every frame to and from a node or the client. Both sides keep each other's hardware
    /// address, so that they notice nothing but the silence, as behind a router that has lost its way.
    ///
    /// # Errors
    ///
    /// If the switch or a neighbour cannot be changed.
    pub fn silence(&self, host: &Host) -> Result<()> {
        let others = self.nodes().iter().chain([self.client()]);
        for other in others.filter(|other| other.name != host.name) {
            remember(host, other)?;
            remember(other, host)?;
        }
        // The port stays up, so that the host's device does too. What comes in there ends there.
        self.set_port(host, "nomaster")
    }

    /// Ends what [`Self::silence`] began.
    ///
    /// # Errors
    ///
    /// If the switch cannot be changed.
    pub fn end_silence(&self, host: &Host) -> Result<()> {
        self.set_port(host, "master br0")
    }

    fn set_port(&self, host: &Host, place: &str) -> Result<()> {
        let line = format!("link set dev {} {place}", host.name);
        ip_batch(&self.switch().netns, &[line])
    }
}

/// Has a host remember the hardware address of another one for good.
fn remember(host: &Host, other: &Host) -> Result<()> {
    let link = output(other.command("ip").args(["-oneline", "link", "show", "eth0"]))?;
    let mut words = link.split_whitespace().skip_while(|word| *word != "link/ether");
    let mac = words
        .nth(1)
        .ok_or_else(|| Error::unexpected(&format!("eth0 of {}", other.name), "it has no hardware address"))?;
    let lines = [other.v4.to_string(), other.v6.to_string()]
        .map(|addr| format!("neigh replace {addr} lladdr {mac} dev eth0 nud permanent"));
    ip_batch(&host.netns, &lines)
}
