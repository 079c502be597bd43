//! Frames sent over a real wire: for those that `BPF_PROG_TEST_RUN` refuses.
//!
//! ```text
//!   socat ─► in-far ═ in ─ tcx ingress ─► bridge ─► out ═ out-far ─► socat
//! ```
//!
//! A bridge forwards by MAC address alone, so a frame comes out on the other side whatever is wrong with its IP header. A
//! capture on `in` itself would show the frame as it was before the program.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::namespace::Namespace;

/// How long a frame may take, and socat to start.
const PATIENCE: Duration = Duration::from_secs(5);

/// The device whose ingress the frames meet.
pub const DEVICE: &str = "in";

/// Two veths joined by a bridge in a namespace that the calling thread is in, and a socat at each far end.
#[derive(Debug)]
pub struct Wire {
    // Before the namespace: they run in it.
    _programs: [Socat; 2],
    to: UnixDatagram,
    from: UnixDatagram,
    _folder: tempfile::TempDir,
    _namespace: Namespace,
}

#[derive(Debug)]
struct Socat(Child);

impl Socat {
    /// Runs in the calling thread's namespace.
    fn start(from: &str, to: &str) -> Result<Self> {
        let mut command = Command::new("socat");
        // A datagram is a frame; nothing is to be split.
        command.args(["-u", "-b", "65536", from, to]).stdin(Stdio::null());
        Ok(Self(command.spawn().context("start socat")?))
    }
}

impl Drop for Socat {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Wire {
    /// Lays the wire and waits until a frame has gone through it. The calling thread is in the namespace afterwards.
    ///
    /// # Errors
    ///
    /// If something cannot be made, or the wire stays silent.
    pub fn lay() -> Result<Self> {
        let namespace = Namespace::enter()?;
        // Neighbour discovery would be counted among the frames; so would the bridge's own search for multicast routers.
        fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
        for family in ["iptables", "ip6tables"] {
            // Where it is loaded, netfilter drops frames on a bridge whose IP header it finds wanting.
            let knob = format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
            if Path::new(&knob).exists() {
                fs::write(&knob, "0").context(knob)?;
            }
        }
        for words in [
            "link add bridge type bridge mcast_snooping 0",
            "link set bridge up",
            "link add in type veth peer name in-far",
            "link add out type veth peer name out-far",
            "link set in master bridge",
            "link set out master bridge",
            "link set in up",
            "link set in-far up",
            "link set out up",
            "link set out-far up",
        ] {
            namespace.run("ip", words)?;
        }
        let folder = tempfile::tempdir()?;
        let (to, from) = (folder.path().join("to"), folder.path().join("from"));
        let receiver = UnixDatagram::bind(&from)?;
        receiver.set_read_timeout(Some(PATIENCE))?;
        let programs = [
            Socat::start(&format!("UNIX-RECV:{}", to.display()), "INTERFACE:in-far")?,
            Socat::start("INTERFACE:out-far", &format!("UNIX-SENDTO:{}", from.display()))?,
        ];
        let this = Self {
            _programs: programs,
            to: connect(&to)?,
            from: receiver,
            _folder: folder,
            _namespace: namespace,
        };
        this.wait_until_it_carries()?;
        Ok(this)
    }

    /// Sends a frame (at least 14 bytes: an Ethernet device takes no shorter one) and returns it as it comes out.
    ///
    /// # Errors
    ///
    /// If nothing comes out.
    pub fn send(&self, frame: &[u8]) -> Result<Vec<u8>> {
        self.to.send(frame)?;
        let mut buffer = vec![0; 65_536];
        let len = self
            .from
            .recv(&mut buffer)
            .context("nothing came out of the wire")?;
        buffer.truncate(len);
        Ok(buffer)
    }

    /// socat opens its sockets some time after it has started.
    fn wait_until_it_carries(&self) -> Result<()> {
        /// From a made-up address to nobody, of an EtherType for experiments (IEEE 802, 0x88b5).
        const PROBE: [u8; 14] = [0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
        let begin = Instant::now();
        self.from.set_read_timeout(Some(Duration::from_millis(20)))?;
        while self.send(&PROBE).is_err() {
            if begin.elapsed() > PATIENCE {
                bail!("the wire carries nothing after {PATIENCE:?}");
            }
        }
        // Those that were on their way when the first came out.
        while self.from.recv(&mut [0; 64]).is_ok() {}
        self.from.set_read_timeout(Some(PATIENCE))?;
        Ok(())
    }
}

fn connect(path: &Path) -> Result<UnixDatagram> {
    let path: PathBuf = path.into();
    let socket = UnixDatagram::unbound()?;
    let begin = Instant::now();
    while let Err(error) = socket.connect(&path) {
        if begin.elapsed() > PATIENCE {
            return Err(error).context("socat does not listen");
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(socket)
}
