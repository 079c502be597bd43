//! Kubernetes Events: what users should know of their Services, where they look for it (`kubectl describe service`).
//!
//! ```text
//!   main loop, health check ports ──ServiceEvent──► bounded queue ─► limiter ─► recorder ─► API server
//! ```
//!
//! Nobody waits: what finds the queue full is dropped and counted. The same about the same Service becomes one Event with a
//! count (`kube::runtime::events`), and a Service about which there is always something new gets one in five minutes. With
//! manifests there is nobody to send them to; everything is in the log as well.

mod limiter;
mod send;

use crate::{desired::Notice, diff::DiffError, index::ServiceName};

pub(crate) use self::send::{Outcome, Recorder, send};

/// Events that wait to be sent.
pub(crate) const QUEUE: usize = 256;

/// The longest note that the API server takes, in bytes (`noteLengthLimit` in `pkg/apis/core/validation/events.go` of
/// Kubernetes).
const NOTE_BYTES: usize = 1_024;

/// How grave it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Good to know.
    Normal,
    /// Something does not work as it was asked for.
    Warning,
}

/// Something to tell about a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEvent {
    /// The Service.
    pub service: ServiceName,
    /// Its uid, by which `kubectl describe` finds the Event; may be empty.
    pub uid: String,
    /// How grave it is.
    pub severity: Severity,
    /// A word for machines, in upper camel case.
    pub reason: &'static str,
    /// What was attempted, in one word.
    pub action: &'static str,
    /// A sentence for people.
    pub note: String,
}

impl ServiceEvent {
    /// That a Service is served otherwise than it asks for.
    pub fn of_notice(notice: &Notice, uid: &str) -> Self {
        let (severity, reason) = match notice {
            Notice::FrontendTaken { .. } => (Severity::Warning, "AddressTaken"),
            Notice::BadSourceRange { .. } => (Severity::Warning, "InvalidSourceRange"),
            Notice::SctpWithoutNode { .. } => (Severity::Normal, "SCTPNotForNodes"),
        };
        Self {
            service: notice.service().clone(),
            uid: uid.to_owned(),
            severity,
            reason,
            action: "Program",
            note: notice.to_string(),
        }
    }

    /// Whether it is worth an Event. What is merely good to know is told when its Service comes or changes: every agent of
    /// the cluster would else repeat it at each of its starts.
    pub fn is_news(&self, starting: bool) -> bool {
        !starting || self.severity == Severity::Warning
    }

    /// That a table is full.
    pub fn of_limit(limit: &DiffError, uid: &str) -> Self {
        Self {
            service: limit.service().service.clone(),
            uid: uid.to_owned(),
            severity: Severity::Warning,
            reason: "TableFull",
            action: "Program",
            note: limit.to_string(),
        }
    }

    /// That a health check port is not answered; reason and action are kube-proxy's.
    pub fn of_health_check(service: &ServiceName, uid: &str, node: &str, port: u16, problem: &str) -> Self {
        Self {
            service: service.clone(),
            uid: uid.to_owned(),
            severity: Severity::Warning,
            reason: "FailedToStartServiceHealthcheck",
            action: "Listen",
            note: format!("node {node} failed to start healthcheck \"{service}\" on port {port}: {problem}"),
        }
    }

    /// The note, as long as the API server takes it.
    fn note(&self) -> &str {
        let end = (0..=NOTE_BYTES.min(self.note.len()))
            .rev()
            .find(|end| self.note.is_char_boundary(*end));
        &self.note[..end.unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests;
