//! What `/metrics` answers.
//!
//! kube-proxy's names where the meaning is the same ([`kube_proxy`]), and our own ([`own`]), whose names begin with
//! `fairlead_`; `docs/metrics.md` lists them all. The main loop and the collector of flows set most of them where they
//! happen; what only the kernel knows is read when somebody asks (`kernel`), at most every ten seconds, on a thread that
//! nobody waits for but who asks.
//!
//! **Cardinality.** Only the series of Services ([`services`]) have labels with values that users choose, and their number is
//! bounded by a flag. Families, reasons, states, maps and phases are fixed lists.

pub(crate) mod kernel;
pub mod kube_proxy;
pub mod own;
mod process;
pub mod services;
mod text;

use prometheus_client::{
    encoding::text::encode,
    metrics::{family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

pub use self::text::Format;
use self::{kube_proxy::KubeProxy, own::Own, process::Process, services::Services};
use crate::plan;

/// One label of a fixed list.
type Label = [(&'static str, &'static str); 1];
/// Two of them.
type Labels = [(&'static str, &'static str); 2];
/// Histograms by one label.
type Histograms = Family<Label, Histogram, fn() -> Histogram>;
/// Gauges by one label.
type Gauges = Family<Label, Gauge>;

/// The label of a family, as kube-proxy writes it.
const fn family_label(family: plan::Family) -> Label {
    [("ip_family", family_name(family))]
}

const fn family_name(family: plan::Family) -> &'static str {
    match family {
        plan::Family::V4 => "IPv4",
        plan::Family::V6 => "IPv6",
    }
}

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Those of kube-proxy.
    pub kube_proxy: KubeProxy,
    /// Our own.
    pub own: Own,
    /// Those of Services.
    pub services: Services,
    process: Process,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        Self {
            kube_proxy: KubeProxy::new(&mut registry),
            own: Own::new(&mut registry),
            services: Services::new(&mut registry),
            process: Process::new(&mut registry),
            registry,
        }
    }
}

impl Metrics {
    /// The text of all metrics.
    pub fn text(&self, format: Format) -> String {
        self.process.read();
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        format.of(text)
    }
}

#[cfg(test)]
mod tests;
