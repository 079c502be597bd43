//! Whether the agent does its work, for whoever asks by HTTP.
//!
//! ```text
//!   :10256            /healthz, /livez                                     kubelet, load balancers
//!   127.0.0.1:10249   these, and /metrics, /proxyMode, /configz            operators, Prometheus
//!   NodePort addresses, port healthCheckNodePort: any path                 load balancers, for one Service each
//! ```
//!
//! [`ProxyHealth`] and [`checks`] are pure: they hold the rules. `http` and `listen` deal with sockets, and
//! `servers` keeps those of the Services. All of it runs on the thread of [`crate::telemetry`].

pub mod checks;
pub(crate) mod http;
pub(crate) mod listen;
mod proxy;
pub(crate) mod servers;

pub use self::{
    checks::{HealthCheck, HealthChecks},
    proxy::{NodeState, Now, ProxyHealth, Reach, Report, Serving},
};
