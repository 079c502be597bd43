//! Frames that say whose they are: the payload holds the number of the conversation.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use lb_common::abi::proto;
use lb_testkit::packet::{Build, tcp, udp};

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// Source address and port.
    pub src: SocketAddr,
    /// Destination address and port.
    pub dst: SocketAddr,
    /// IP protocol number.
    pub proto: u8,
    /// TCP flags; 0 for UDP.
    pub flags: u8,
    /// Hops left.
    pub hops: u8,
    /// The conversation that it belongs to.
    pub flow: u64,
}

impl Said {
    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        self.build().bytes()
    }

    fn build(&self) -> Build {
        let (src, dst) = (self.src.to_string(), self.dst.to_string());
        let build = match self.proto {
            proto::TCP => tcp(&src, &dst).flags(self.flags),
            _ => udp(&src, &dst),
        };
        build.payload(&self.flow.to_be_bytes()).hops(self.hops)
    }

    /// Reads a frame, all of whose checksums must be right.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let said = Self::parse(bytes).context("the frame ends within its headers")?;
        let sound = said.bytes();
        ensure!(
            bytes.get(12..) == sound.get(12..),
            "damaged: {bytes:02x?} instead of {sound:02x?}"
        );
        Ok(said)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let v4 = bytes.get(12..14)? == [0x08, 0x00];
        let ip = bytes.get(14..)?;
        let (src, dst, next, hops, rest): (IpAddr, IpAddr, u8, u8, &[u8]) = if v4 {
            let at = |from: usize| ip.get(from..)?.first_chunk::<4>().copied().map(IpAddr::from);
            (at(12)?, at(16)?, *ip.get(9)?, *ip.get(8)?, ip.get(20..)?)
        } else {
            let at = |from: usize| ip.get(from..)?.first_chunk::<16>().copied().map(IpAddr::from);
            (at(8)?, at(24)?, *ip.get(6)?, *ip.get(7)?, ip.get(40..)?)
        };
        let port = |from: usize| rest.get(from..)?.first_chunk().copied().map(u16::from_be_bytes);
        let header = if next == proto::TCP { 20 } else { 8 };
        Some(Self {
            src: SocketAddr::new(src, port(0)?),
            dst: SocketAddr::new(dst, port(2)?),
            proto: next,
            flags: if next == proto::TCP { *rest.get(13)? } else { 0 },
            hops,
            flow: u64::from_be_bytes(*rest.get(header..)?.first_chunk()?),
        })
    }
}
