//! How the API server is reached: from a kubeconfig, or by the service account of the pod that the agent runs in.
//!
//! Of several addresses one is used until it does not answer, then the next. Connections that die without a word (a
//! server whose machine is gone, a firewall that forgot them) are noticed by TCP within [`DEAD_AFTER`].

use std::{
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig},
};
use thiserror::Error;
use tower::{BoxError, Service, ServiceBuilder};

use crate::{cli::config::ApiServer, errors::chain};

/// A connection is given up when the server has not acknowledged anything for so long.
const DEAD_AFTER: Duration = Duration::from_secs(20);
/// A connection without traffic is asked for a sign of life after this time …
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
/// … and then that often.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long connecting to one address may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The variable that tells pods the cluster IP of the API server.
const SERVICE_HOST: &str = "KUBERNETES_SERVICE_HOST";

/// Why the API server cannot even be tried.
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig {}: {reason}", file.display())]
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// There is no way to the API server.
    #[error(
        "no way to the API server is given: name a kubeconfig with --kubeconfig, run in a pod with a service account, or \
         serve a folder of manifests with --manifests ({0})"
    )]
    NotInCluster(String),
    /// An address is none.
    #[error("--master {url}: {reason}; write one such as https://192.0.2.10:6443")]
    Master {
        /// The address.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// Nothing tells which certificate of the server is to be trusted.
    #[error(
        "{} names no certificate-authority for the API server, and this system has none of its own ({reason}); add \
         certificate-authority or certificate-authority-data to its cluster, as `kubectl config view --raw` of an \
         administrator has it", file.display()
    )]
    NoAuthority {
        /// The kubeconfig.
        file: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The client cannot be set up.
    #[error("cannot set up the client of the API server: {0}")]
    Client(String),
}

/// Where the API server is, for people.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Its addresses.
    pub(super) urls: Vec<String>,
    /// The address is the one that pods are told: a cluster IP, which somebody must serve.
    pub(super) is_cluster_ip: bool,
}

/// Sets up a client. Nothing is sent yet.
pub(super) async fn connect(server: &ApiServer) -> Result<(Client, Place), ConnectionError> {
    let (mut config, from_pod) = match &server.kubeconfig {
        Some(file) => (from_file(file.clone()).await?, false),
        None => (from_pod(server)?, true),
    };
    if config.accept_invalid_certs {
        // The authorities of the system would be asked for all the same, and an image from scratch has none.
        config.root_cert.get_or_insert_default();
    }
    let urls = if server.masters.is_empty() {
        vec![config.cluster_url.clone()]
    } else {
        server
            .masters
            .iter()
            .map(|url| parse(url))
            .collect::<Result<_, _>>()?
    };
    let place = Place {
        urls: urls.iter().map(ToString::to_string).collect(),
        is_cluster_ip: from_pod && server.masters.is_empty(),
    };
    let client = client(&config, urls, server.timeout).map_err(|error| match &server.kubeconfig {
        Some(file) if config.root_cert.is_none() && !config.accept_invalid_certs => {
            ConnectionError::NoAuthority {
                file: file.clone(),
                reason: chain(&error),
            }
        }
        _ => ConnectionError::Client(chain(&error)),
    })?;
    Ok((client, place))
}

async fn from_file(file: PathBuf) -> Result<Config, ConnectionError> {
    let failed = |reason: String| ConnectionError::Kubeconfig {
        file: file.clone(),
        reason,
    };
    let kubeconfig = Kubeconfig::read_from(&file).map_err(|error| {
        failed(format!(
            "{}; put it right or name another with --kubeconfig",
            chain(&error)
        ))
    })?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| {
            failed(format!(
                "{}; its current-context must name a cluster with a server and a user",
                chain(&error)
            ))
        })
}

fn from_pod(server: &ApiServer) -> Result<Config, ConnectionError> {
    // With --master the pod's environment need not name the server, only the service account is taken from it.
    let config = match server.masters.first() {
        Some(_) if std::env::var_os(SERVICE_HOST).is_none() => Config::incluster_dns(),
        _ => Config::incluster(),
    };
    config.map_err(|error| ConnectionError::NotInCluster(chain(&error)))
}

fn parse(url: &str) -> Result<http::Uri, ConnectionError> {
    let wrong = |reason: &str| ConnectionError::Master {
        url: url.to_owned(),
        reason: reason.to_owned(),
    };
    let uri: http::Uri = url.trim().parse().map_err(|_| wrong("is no URL"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https" | "http"), Some(_)) => Ok(uri),
        _ => Err(wrong("names no https server")),
    }
}

fn client(config: &Config, urls: Vec<http::Uri>, timeout: Duration) -> Result<Client, kube::Error> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(KEEPALIVE_AFTER));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_tcp_user_timeout(Some(DEAD_AFTER));
    connector.set_nodelay(true);
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let http = HttpClient::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .service(Servers::new(urls, timeout, http));
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// Sends requests to one of several API servers: to the same one until it cannot be reached.
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

impl<S, B> Service<http::Request<B>> for Servers<S>
where
    S: Service<http::Request<B>>,
    S::Future: Send + 'static,
    S::Response: 'static,
    S::Error: Into<BoxError> + 'static,
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
            if answer.is_err() {
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
    fn the_next_server_is_asked_when_one_cannot_be_reached() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let inner = tower::service_fn(|request: http::Request<()>| async move {
            match request.uri().host() {
                Some("a") => Err("away"),
                host => Ok(host.unwrap_or_default().to_owned()),
            }
        });
        let urls = vec![uri("https://a"), uri("https://b")];
        let mut servers = Servers::new(urls, Duration::from_secs(10), inner);
        let mut ask = || {
            let answer = runtime.block_on(servers.call(http::Request::get("/x").body(()).unwrap()));
            answer.map_err(|error| error.to_string())
        };
        assert_eq!(ask(), Err("away".to_owned()));
        assert_eq!(ask(), Ok("b".to_owned()));
        assert_eq!(ask(), Ok("b".to_owned()), "and it is kept");
    }

    #[test]
    fn a_master_is_a_url_with_a_server() {
        for bad in ["192.0.2.1:6443", "not a url", "ftp://a", "https://"] {
            let error = parse(bad).expect_err(bad).to_string();
            assert!(error.contains("https://192.0.2.10:6443"), "{error}");
        }
        assert!(parse("https://192.0.2.1:6443").is_ok());
    }
}
