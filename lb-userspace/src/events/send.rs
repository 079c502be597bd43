//! The way of Events to the API server.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{self, Event, EventType, Reporter};
use tokio::{sync::mpsc, time::timeout};
use tracing::{debug, warn};

use super::{ServiceEvent, Severity, limiter::Limiter};

/// How long the API server may take for an Event; the next ones wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The API server has it.
    Sent,
    /// There were too many about its Service.
    Limited,
    /// The API server did not take it.
    Failed,
    /// The queue was full.
    Dropped,
}

impl Outcome {
    pub(crate) const ALL: [Self; 4] = [Self::Sent, Self::Limited, Self::Failed, Self::Dropped];

    /// A label for metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Limited => "limited",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// Writes Events in the name of this node's agent.
pub(crate) struct Recorder(events::Recorder);

impl Recorder {
    pub(crate) fn new(client: kube::Client, node: &str) -> Self {
        let reporter = Reporter {
            controller: "fairlead".to_owned(),
            instance: Some(node.to_owned()),
        };
        Self(events::Recorder::new(client, reporter))
    }

    async fn publish(&self, event: &ServiceEvent) -> Result<(), kube::Error> {
        let regarding = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(event.service.namespace.to_string()),
            name: Some(event.service.name.to_string()),
            uid: (!event.uid.is_empty()).then(|| event.uid.clone()),
            ..ObjectReference::default()
        };
        let told = Event {
            type_: match event.severity {
                Severity::Normal => EventType::Normal,
                Severity::Warning => EventType::Warning,
            },
            reason: event.reason.to_owned(),
            note: Some(event.note().to_owned()),
            action: event.action.to_owned(),
            secondary: None,
        };
        self.0.publish(&told, &regarding).await
    }
}

/// Sends what comes by the queue, until nobody can put anything into it. `count` is told what became of each.
pub(crate) async fn send(
    mut queue: mpsc::Receiver<ServiceEvent>,
    recorder: Option<Recorder>,
    count: impl Fn(Outcome),
) {
    let mut limiter = Limiter::default();
    let mut told = false;
    while let Some(event) = queue.recv().await {
        // Whoever put it there has logged it.
        let Some(recorder) = &recorder else { continue };
        if !limiter.admit(&event.service, Instant::now()) {
            count(Outcome::Limited);
            continue;
        }
        let failure = match timeout(PATIENCE, recorder.publish(&event)).await {
            Ok(Ok(())) => {
                count(Outcome::Sent);
                continue;
            }
            Ok(Err(failure)) => failure.to_string(),
            Err(_) => "the API server took too long".to_owned(),
        };
        count(Outcome::Failed);
        if told {
            debug!(service = %event.service, "an Event cannot be written: {failure}");
        } else {
            told = true;
            warn!(
                service = %event.service,
                "an Event cannot be written: {failure}; if access is denied, allow the agent to create and patch events of \
                 events.k8s.io; further failures are logged at debug"
            );
        }
    }
}
