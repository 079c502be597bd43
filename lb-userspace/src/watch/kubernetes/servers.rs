//! Several API servers as one.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tower::{BoxError, Service};

/// Sends requests to one of several API servers: to the same one until it cannot be reached, or cannot answer.
#[derive(Clone)]
pub(super) struct Servers<S> {
    urls: Arc<[http::Uri]>,
    /// Counts up with each failure; the server is the one at this place, going round.
    current: Arc<AtomicUsize>,
    /// How long an answer may take to begin.
    timeout: Duration,
    inner: S,
}

impl<S> Servers<S> {
    /// `inner` asks the server that a request names. An answer must begin within `timeout`.
    pub(super) fn new(urls: Vec<http::Uri>, timeout: Duration, inner: S) -> Self {
        Self {
            urls: urls.into(),
            current: Arc::default(),
            timeout,
            inner,
        }
    }
}

impl<S, B, A> Service<http::Request<B>> for Servers<S>
where
    S: Service<http::Request<B>, Response = http::Response<A>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError> + 'static,
    A: 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let turn = self.current.load(Ordering::Relaxed);
        if let Some(url) = self.urls.get(turn % self.urls.len().max(1))
            && let Some(uri) = at(url, request.uri())
        {
            *request.uri_mut() = uri;
        }
        let answer = self.inner.call(request);
        let (current, limit) = (self.current.clone(), self.timeout);
        Box::pin(async move {
            let answer = match tokio::time::timeout(limit, answer).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(_) => Err(format!("no answer within {limit:?}").into()),
            };
            let is_failed = match &answer {
                Ok(answer) => is_broken(answer.status()),
                Err(_) => true,
            };
            if is_failed {
                // Of several requests that fail together one moves on.
                let _ = current.compare_exchange(
                    turn,
                    turn.wrapping_add(1),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
            answer
        })
    }
}

/// Whether a server that says this cannot answer while another may: its etcd is gone, or it is itself, behind something that
/// stands in front of it. One that is too busy (429) is to be asked again later, as the others would be.
fn is_broken(status: http::StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// The address of a request at a server: the server's, with its path before that of the request.
fn at(server: &http::Uri, request: &http::Uri) -> Option<http::Uri> {
    let path = request
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    let before = server.path().trim_end_matches('/');
    http::Uri::builder()
        .scheme(server.scheme()?.clone())
        .authority(server.authority()?.clone())
        .path_and_query(format!("{before}{path}"))
        .build()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> http::Uri {
        text.parse().expect("a URI")
    }

    #[test]
    fn requests_go_to_the_server_with_its_path_before_theirs() {
        for (server, wanted) in [
            (
                "https://192.0.2.1:6443",
                "https://192.0.2.1:6443/api/v1/nodes?limit=1",
            ),
            (
                "https://[2001:db8::1]:6443/",
                "https://[2001:db8::1]:6443/api/v1/nodes?limit=1",
            ),
            (
                "https://a.example/k8s/c1",
                "https://a.example/k8s/c1/api/v1/nodes?limit=1",
            ),
        ] {
            let found = at(&uri(server), &uri("/api/v1/nodes?limit=1"));
            assert_eq!(found, Some(uri(wanted)), "{server}");
        }
    }

    #[test]
    fn the_next_server_is_asked_when_one_cannot_be_reached_or_cannot_answer() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let inner = tower::service_fn(|request: http::Request<()>| async move {
            let host = request.uri().host().unwrap_or_default().to_owned();
            match host.parse::<u16>() {
                Ok(code) => Ok(http::Response::builder().status(code).body(host).unwrap()),
                Err(_) if host == "away" => Err("away"),
                Err(_) => Ok(http::Response::new(host)),
            }
        });
        let asked = |first: &str| -> Vec<String> {
            let urls = vec![uri(&format!("https://{first}")), uri("https://other")];
            let mut servers = Servers::new(urls, Duration::from_secs(10), inner);
            let mut ask = || {
                let answer = runtime.block_on(servers.call(http::Request::get("/x").body(()).unwrap()));
                answer.map_or_else(|error| error.to_string(), http::Response::into_body)
            };
            (0..3).map(|_| ask()).collect()
        };
        for first in ["away", "500", "502", "503", "504"] {
            assert_eq!(asked(first), [first, "other", "other"], "the other is kept");
        }
        // The other would say the same, or the same server wants to be asked later.
        for first in ["200", "400", "401", "403", "404", "409", "410", "429", "501"] {
            assert_eq!(asked(first), [first; 3]);
        }
    }
}
