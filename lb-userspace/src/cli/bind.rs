//! Addresses that the agent's own servers listen on.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
};

/// An address and port to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind(SocketAddr);

impl Bind {
    /// Where kube-proxy answers health checks unless told otherwise.
    pub const HEALTHZ: Self = Self::v4(Ipv4Addr::UNSPECIFIED, 10_256);
    /// Where kube-proxy answers for its metrics unless told otherwise.
    pub const METRICS: Self = Self::v4(Ipv4Addr::LOCALHOST, 10_249);

    const fn v4(addr: Ipv4Addr, port: u16) -> Self {
        Self(SocketAddr::V4(SocketAddrV4::new(addr, port)))
    }

    /// Reads kube-proxy's notation: `ADDRESS:PORT`, or the address alone, which takes `default_port`. An IPv6 address
    /// with a port stands in brackets. None if it is neither.
    pub fn parse(text: &str, default_port: u16) -> Option<Self> {
        let alone = || {
            let addr: IpAddr = text.parse().ok()?;
            Some(SocketAddr::new(addr, default_port))
        };
        let addr = text.parse().ok().or_else(alone)?;
        (addr.port() != 0).then_some(Self(addr))
    }

    /// The address and port. `0.0.0.0` and `[::]` both mean every address of both IP versions, as they do for kube-proxy.
    pub const fn addr(self) -> SocketAddr {
        self.0
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_kube_proxy_reads_them() {
        for (text, expected) in [
            ("0.0.0.0:10256", Some("0.0.0.0:10256")),
            ("[::]:10256", Some("[::]:10256")),
            ("192.0.2.1", Some("192.0.2.1:7")),
            ("::1", Some("[::1]:7")),
            ("localhost:10256", None),
            ("10256", None),
            (":10256", None),
            ("0.0.0.0:0", None),
            ("0.0.0.0:65536", None),
        ] {
            let bind = Bind::parse(text, 7).map(|bind| bind.to_string());
            assert_eq!(bind.as_deref(), expected, "{text}");
        }
    }
}
