//! What passes a device, as tcpdump sees it.

mod parse;

use std::{fs, net::SocketAddr, path::PathBuf, thread, time::Duration};

use crate::{
    command::find_program,
    error::{Error, Result},
    host::{Host, Process},
    packet::flags,
};

/// How long tcpdump may take to begin, and to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// The last packets of a test are on their way through the capture socket.
const LAST_PACKETS: Duration = Duration::from_millis(100);
/// As much of each packet as holds all headers that are looked at.
const SNAP_BYTES: &str = "256";

/// A TCP or UDP packet that was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Source; port 0 if the packet has none, as a fragment after the first.
    pub src: SocketAddr,
    /// Destination; port 0 if the packet has none.
    pub dst: SocketAddr,
    /// Length of the IP packet, in bytes.
    pub len: u32,
    /// The flags of a TCP header (see [`flags`]); none for UDP and for fragments after the first.
    pub tcp_flags: Option<u8>,
    /// Which part of a larger packet it is, if it is one.
    pub fragment: Option<Fragment>,
}

/// A part of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// Identification: the same for all fragments of a packet.
    pub id: u32,
    /// Where it belongs, in bytes.
    pub offset: u16,
    /// Whether others follow.
    pub more: bool,
}

impl Seen {
    /// Whether it opens a TCP connection: SYN without ACK.
    pub fn is_syn(&self) -> bool {
        self.tcp_flags
            .is_some_and(|set| set & (flags::SYN | flags::ACK) == flags::SYN)
    }
}

/// A capture that runs.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    device: String,
    packets: PathBuf,
}

impl Capture {
    /// Starts to capture TCP and UDP on an Ethernet device of `host`, fragments included; on return everything that passes
    /// is captured.
    ///
    /// # Errors
    ///
    /// If tcpdump cannot be started.
    pub fn start(host: &Host, device: &str) -> Result<Self> {
        let (file, packets) = host.new_file(device, "pcap")?;
        let mut command = host.command(find_program("tcpdump", "tcpdump")?);
        command
            .args(["-i", device, "-nn", "--immediate-mode", "-s", SNAP_BYTES])
            // To standard output: tcpdump gives up root before it opens a file of its own. -U: each packet at once.
            .args(["-U", "-w", "-", "tcp or udp"]);
        let tcpdump = host.spawn_into("tcpdump", &mut command, file)?;
        let mut capture = Self {
            tcpdump,
            device: format!("{device} of {}", host.name),
            packets,
        };
        capture.tcpdump.wait_for("listening on", PATIENCE)?;
        Ok(capture)
    }

    /// Stops and returns what passed, in order.
    ///
    /// # Errors
    ///
    /// If tcpdump cannot be stopped, or wrote what cannot be understood.
    pub fn stop(mut self) -> Result<Vec<Seen>> {
        thread::sleep(LAST_PACKETS);
        self.tcpdump.signal(rustix::process::Signal::INT)?;
        self.tcpdump.wait(PATIENCE)?;
        let bytes = fs::read(&self.packets).map_err(Error::io("read", self.packets.display()))?;
        parse::packets(&bytes)
            .map_err(|problem| Error::unexpected(&format!("the capture at {}", self.device), problem))
    }
}
