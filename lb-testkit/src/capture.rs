//! What passes a device, as tcpdump sees it.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Result},
    host::Host,
};

/// A TCP or UDP packet that was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Source.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
}

/// A capture that runs.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    text: std::path::PathBuf,
    noise: std::path::PathBuf,
}

impl Capture {
    /// Starts to capture TCP and UDP on a device of `host`; on return everything that passes is captured.
    ///
    /// # Errors
    ///
    /// If tcpdump cannot be started.
    pub fn start(host: &Host, device: &str) -> Result<Self> {
        let text = host.run_folder.join(format!("{}-{device}.capture", host.name));
        let noise = host.run_folder.join(format!("{}-{device}.tcpdump", host.name));
        let child = Command::new("nsenter")
            .arg(format!("--net={}", host.netns_path().display()))
            .args([
                "tcpdump",
                "-i",
                device,
                "-nn",
                "-l",
                "-q",
                "-t",
                "--immediate-mode",
                "tcp or udp",
            ])
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&text).map_err(Error::io("create", text.display()))?)
            .stderr(std::fs::File::create(&noise).map_err(Error::io("create", noise.display()))?)
            .spawn()
            .map_err(Error::io("start", "tcpdump"))?;
        let capture = Self { child, text, noise };
        let end = Instant::now() + Duration::from_secs(5);
        while !read(&capture.noise)?.contains("listening on") {
            if Instant::now() > end {
                return Err(Error::unexpected("tcpdump", read(&capture.noise)?));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(capture)
    }

    /// Stops and returns what passed, in order.
    ///
    /// # Errors
    ///
    /// If tcpdump cannot be stopped, or wrote what cannot be understood.
    pub fn stop(mut self) -> Result<Vec<Seen>> {
        // The last packets of the test are on their way through the capture socket.
        thread::sleep(Duration::from_millis(100));
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::INT,
        )
        .map_err(Error::io("signal", "tcpdump"))?;
        self.child.wait().map_err(Error::io("wait for", "tcpdump"))?;
        let text = read(&self.text)?;
        // tcpdump ends the description of some packets with an empty line.
        text.lines()
            .filter(|line| !line.is_empty())
            .map(|line| parse(line).ok_or_else(|| Error::unexpected("tcpdump", line)))
            .collect()
    }
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(Error::io("read", file.display()))
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Both fail only if it has been stopped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `IP 10.0.0.1.80 > 10.0.0.2.4711: tcp 0` and the like.
fn parse(line: &str) -> Option<Seen> {
    let mut words = line.split_whitespace();
    words.next().filter(|word| word.starts_with("IP"))?;
    let src = endpoint(words.next()?)?;
    words.next().filter(|word| *word == ">")?;
    Some(Seen {
        src,
        dst: endpoint(words.next()?.strip_suffix(':')?)?,
    })
}

/// An address with its port behind the last dot.
fn endpoint(text: &str) -> Option<SocketAddr> {
    let (addr, port) = text.rsplit_once('.')?;
    Some(SocketAddr::new(addr.parse().ok()?, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_families_are_understood() {
        let seen = parse("IP 10.0.0.1.80 > 10.0.0.2.4711: tcp 0").unwrap();
        assert_eq!(
            (seen.src, seen.dst),
            ("10.0.0.1:80".parse().unwrap(), "10.0.0.2:4711".parse().unwrap())
        );
        let seen = parse("IP6 fd00::1.53 > fd00::2.99: UDP, length 3").unwrap();
        assert_eq!(
            (seen.src, seen.dst),
            ("[fd00::1]:53".parse().unwrap(), "[fd00::2]:99".parse().unwrap())
        );
        assert_eq!(parse("ARP, Request who-has"), None);
    }
}
