//! How the API server is reached: from a kubeconfig, or by the service account of the pod that the agent runs in.
//!
//! Of several addresses one is used until it does not answer, then the next ([`Servers`]). Connections that die without a word (a
//! server whose machine is gone, a firewall that forgot them) are noticed by TCP within [`DEAD_AFTER`].

use std::{env, net::IpAddr, path::PathBuf, time::Duration};

use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use ipnet::IpNet;
use kube::{
    Client, Config,
    client::{Body, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig},
};
use thiserror::Error;
use tower::ServiceBuilder;

use super::servers::Servers;
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
    /// The first of them that is a cluster IP, which somebody must serve.
    pub(super) cluster_ip: Option<String>,
}

/// Sets up a client. Nothing is sent yet. `cidrs` are networks of cluster IPs.
pub(super) async fn connect(server: &ApiServer, cidrs: &[IpNet]) -> Result<(Client, Place), ConnectionError> {
    let mut config = match &server.kubeconfig {
        Some(file) => from_file(file.clone()).await?,
        None => from_pod(server)?,
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
        cluster_ip: cluster_ip(&urls, env::var(SERVICE_HOST).ok().as_deref(), cidrs),
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
        Some(_) if env::var_os(SERVICE_HOST).is_none() => Config::incluster_dns(),
        _ => Config::incluster(),
    };
    config.map_err(|error| ConnectionError::NotInCluster(chain(&error)))
}

/// The first of the servers whose address is a cluster IP. The networks of its family tell; without any, it is the address that
/// pods are told.
fn cluster_ip(urls: &[http::Uri], told: Option<&str>, cidrs: &[IpNet]) -> Option<String> {
    let ip = |host: &str| host.trim_matches(['[', ']']).parse::<IpAddr>();
    let told = told.and_then(|host| ip(host).ok());
    let mut hosts = urls.iter().filter_map(|url| ip(url.host()?).ok());
    let found = hosts.find(|host| {
        let mut own = cidrs
            .iter()
            .filter(|net| net.addr().is_ipv4() == host.is_ipv4())
            .peekable();
        match own.peek() {
            Some(_) => own.any(|net| net.contains(host)),
            None => told == Some(*host),
        }
    });
    found.map(|host| host.to_string())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_is_a_url_with_a_server() {
        for bad in ["192.0.2.1:6443", "not a url", "ftp://a", "https://"] {
            let error = parse(bad).expect_err(bad).to_string();
            assert!(error.contains("https://192.0.2.10:6443"), "{error}");
        }
        assert!(parse("https://192.0.2.1:6443").is_ok());
    }

    #[test]
    fn a_cluster_ip_is_what_pods_are_told_unless_the_networks_say_otherwise() {
        let nets = |texts: &[&str]| -> Vec<IpNet> { texts.iter().map(|net| net.parse().unwrap()).collect() };
        let (own, service) = ("https://192.0.2.1:6443", "https://10.96.0.1:443");
        for (urls, told, cidrs, found) in [
            ([own, service], Some("10.96.0.1"), nets(&[]), Some("10.96.0.1")),
            ([own, service], None, nets(&[]), None),
            ([own, service], None, nets(&["10.96.0.0/16"]), Some("10.96.0.1")),
            // The variable was set to the server's own address, as some deployments do.
            ([own, own], Some("192.0.2.1"), nets(&["10.96.0.0/16"]), None),
            (
                [own, own],
                Some("192.0.2.1"),
                nets(&["fd00::/112"]),
                Some("192.0.2.1"),
            ),
            (
                ["https://[fd00::1]/x", own],
                Some("fd00:0::1"),
                nets(&[]),
                Some("fd00::1"),
            ),
            (
                ["https://api.example:6443", own],
                Some("api.example"),
                nets(&[]),
                None,
            ),
        ] {
            let urls = urls.map(|url| parse(url).unwrap());
            assert_eq!(
                cluster_ip(&urls, told, &cidrs).as_deref(),
                found,
                "{urls:?} {told:?} {cidrs:?}"
            );
        }
    }
}
