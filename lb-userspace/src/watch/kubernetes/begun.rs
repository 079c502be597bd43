//! When the server begins to answer a watch.
//!
//! kube's watcher does not tell: a watch that goes on from a version gives nothing until something changes, and that may be in
//! days. So the answers are looked at on their way to it.

use std::{sync::Arc, time::Duration};

use kube::client::{Body, Client};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// A watch that has not failed for so long after it began is one that works.
const STEADY: Duration = Duration::from_secs(5);

/// The watch that the server has begun to answer last.
#[derive(Clone, Default)]
pub(super) struct Begun(Arc<watch::Sender<Option<Instant>>>);

impl Begun {
    /// A client whose watches are noted here.
    pub(super) fn client(&self, inner: &Client) -> Client {
        let (noted, namespace) = (self.clone(), inner.default_namespace().to_owned());
        let inner = inner.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (noted, inner) = (noted.clone(), inner.clone());
            async move {
                let query = request.uri().query().unwrap_or_default();
                let is_watch = query.split('&').any(|part| part == "watch=true");
                let answer = inner.send(request).await?;
                if is_watch && answer.status().is_success() {
                    noted.0.send_replace(Some(Instant::now()));
                }
                Ok::<_, kube::Error>(answer)
            }
        });
        Client::new(service, namespace)
    }

    /// It has failed, or it is known to work.
    pub(super) fn forget(&self) {
        self.0.send_replace(None);
    }

    /// Waits until one has begun that has not been forgotten, and until it works. Dropping the future loses nothing.
    pub(super) async fn steady(&self) {
        let mut begun = self.0.subscribe();
        // An error would mean that the sender is gone, and it is here.
        let begun = begun
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|begun| *begun);
        if let Some(begun) = begun {
            sleep_until(begun + STEADY).await;
        }
    }
}
