//! Whether the API server is reached, for logs and for health checks.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use tokio::sync::watch;
use tracing::{error, info};

use super::{
    connection::Place,
    trouble::{Trouble, Troubles, may_lack},
};
use crate::watch::Kind;

/// Whether the API server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiState {
    /// Nothing has been heard of it yet.
    Connecting,
    /// Everything is listed and watched.
    Reached,
    /// It is not reached, or does not give what is needed.
    Away {
        /// Since when.
        since: SystemTime,
        /// Why, with the remedy.
        why: String,
    },
}

/// The state, and the troubles that it comes of.
pub(super) struct Status {
    place: Place,
    troubles: Mutex<Troubles>,
    state: watch::Sender<ApiState>,
    /// The Node is known, or will not be for lack of rights.
    node: watch::Sender<bool>,
}

impl Status {
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
            troubles: Mutex::default(),
            state: watch::Sender::new(ApiState::Connecting),
            node: watch::Sender::new(false),
        }
    }

    /// Tells the state whenever it changes.
    pub(super) fn subscribe(&self) -> watch::Receiver<ApiState> {
        self.state.subscribe()
    }

    /// Tells when there is no point in waiting for the Node any more.
    pub(super) fn node(&self) -> watch::Receiver<bool> {
        self.node.subscribe()
    }

    fn troubles(&self) -> MutexGuard<'_, Troubles> {
        // A panic while it was locked leaves it usable: it holds no more than what was told.
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is trouble with a kind.
    pub(super) fn trouble(&self, kind: Kind, trouble: &Trouble) {
        let text = trouble.text(kind, &self.place);
        if self.troubles().apply(kind, trouble, Instant::now()) {
            if *trouble == Trouble::Unknown && may_lack(kind) {
                info!("{text}; going on without");
            } else {
                error!("{text}");
            }
        }
        if kind == Kind::Node && matches!(trouble, Trouble::Forbidden(_)) {
            self.node.send_replace(true);
        }
        // Without the others the agent serves all the same.
        if Kind::NEEDED.contains(&kind) {
            self.state.send_if_modified(|state| {
                let away = matches!(state, ApiState::Away { .. });
                if !away {
                    *state = ApiState::Away {
                        since: SystemTime::now(),
                        why: text,
                    };
                }
                !away
            });
        }
    }

    /// A kind is listed or watched.
    pub(super) fn fine(&self, kind: Kind) {
        if kind == Kind::Node {
            self.node.send_replace(true);
        }
        let mut troubles = self.troubles();
        match troubles.delete(kind) {
            Some(trouble) if trouble.is_general() => info!("the API server answers again"),
            Some(_) => info!(kind = %kind, "the API server lists these again"),
            None => {}
        }
        if !Kind::NEEDED.iter().any(|kind| troubles.has(*kind)) {
            self.state.send_if_modified(|state| {
                let changed = *state != ApiState::Reached;
                *state = ApiState::Reached;
                changed
            });
        }
    }
}
