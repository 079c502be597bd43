//! The servers behind the examples: nginx in each web pod, dnsmasq in the DNS pod.

use std::net::IpAddr;

use anyhow::Result;
use lb_testkit::{
    Lab, Process,
    daemons::{dnsmasq, nginx},
};

/// The name that the DNS server knows.
pub(crate) const RECORD_NAME: &str = "fairlead.example";
/// Its address (TEST-NET-1, RFC 5737).
pub(crate) const RECORD_ADDRESS: &str = "192.0.2.10";

/// All servers; they end with this value.
pub(crate) struct Servers {
    _processes: [Process; 4],
}

impl Servers {
    /// Starts them and waits until they listen.
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let record: IpAddr = RECORD_ADDRESS.parse()?;
        let processes = [
            nginx(lab.pod(1, 2), &[(8080, "n1-b")])?,
            nginx(lab.pod(2, 1), &[(8080, "n2-a")])?,
            nginx(lab.pod(1, 3), &[(8080, "n1-c"), (8081, "n1-c admin")])?,
            dnsmasq(lab.pod(2, 3), 53, &[(RECORD_NAME, record)])?,
        ];
        println!(
            "{} servers: nginx in n1-b, n1-c and n2-a, dnsmasq in n2-c",
            processes.len()
        );
        Ok(Self {
            _processes: processes,
        })
    }
}
