//! HTTP for whoever asks: one request a connection, a bound on connections and on their time, so that nobody can use up the
//! agent's file descriptors.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use serde::Serialize;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tracing::{debug, error, info};

use super::listen;
use crate::{
    metrics::{Format, kube_proxy::Probe},
    telemetry::Telemetry,
};

/// How long a connection may take from its first byte to its last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// How many connections one server has at a time; others wait to be accepted.
const CONNECTIONS: usize = 64;
/// How long to wait before what failed is tried again.
pub(crate) const RETRY: Duration = Duration::from_secs(5);

/// Answers connections until it is dropped.
pub(crate) async fn serve(listener: TcpListener, router: Router) -> Infallible {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            // Nobody closes it.
            return std::future::pending().await;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(failure) => {
                debug!("accept a connection: {failure}");
                // No file descriptor is left, most likely; others are given back meanwhile.
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let router = router.clone();
        tokio::spawn(async move {
            answer(stream, router).await;
            drop(place);
        });
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let mut http = Builder::new(TokioExecutor::new()).http1_only();
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_TIMEOUT)
        .keep_alive(false);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => debug!("{failure}"),
        Err(_) => debug!("a connection took too long"),
    }
}

/// Listens and answers; where that fails it is told once, and tried again.
pub(crate) async fn keep_serving(what: &str, flag: &str, addr: SocketAddr, router: Router) -> Infallible {
    let mut told = false;
    loop {
        match listen::on(addr) {
            Ok(listener) => {
                info!(address = %addr, "{what} answers");
                return serve(listener, router).await;
            }
            Err(failure) if told => debug!(address = %addr, "{failure}"),
            Err(failure) => {
                error!("{}", refused(what, flag, addr, &failure));
                told = true;
            }
        }
        sleep(RETRY).await;
    }
}

fn refused(what: &str, flag: &str, addr: SocketAddr, failure: &io::Error) -> String {
    let remedy = match failure.kind() {
        io::ErrorKind::AddrInUse => "end the process that has the port (kube-proxy?), or name another one",
        io::ErrorKind::AddrNotAvailable => "the node has no such address: name another one",
        _ => "name another address, or none to turn it off,",
    };
    format!("{what} cannot listen on {addr}: {failure}; {remedy} with --{flag}; trying again every 5 s")
}

/// What the outside may ask: `/healthz` and `/livez`.
pub(crate) fn health(telemetry: &Telemetry) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/livez", get(livez))
        .with_state(telemetry.clone())
}

/// What the node may ask: that, and what tells more.
pub(crate) fn metrics(telemetry: &Telemetry) -> Router {
    let more = Router::new()
        .route("/proxyMode", get("fairlead"))
        .route("/configz", get(configz))
        .route("/metrics", get(scrape))
        .with_state(telemetry.clone());
    health(telemetry).merge(more)
}

async fn healthz(State(telemetry): State<Telemetry>) -> Response {
    let report = telemetry.report();
    let status = status(report.is_eligible());
    telemetry
        .metrics()
        .kube_proxy
        .answered(Probe::Healthz, status.as_u16());
    json(status, &report)
}

async fn livez(State(telemetry): State<Telemetry>) -> Response {
    let report = telemetry.report().without_node();
    let status = status(report.healthy);
    telemetry
        .metrics()
        .kube_proxy
        .answered(Probe::Livez, status.as_u16());
    json(status, &report)
}

async fn configz(State(telemetry): State<Telemetry>) -> Response {
    json(StatusCode::OK, telemetry.configuration())
}

async fn scrape(State(telemetry): State<Telemetry>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = Format::accepted(accept);
    // Reading the kernel's maps takes a while; probes are not to wait for it.
    let text = tokio::task::spawn_blocking(move || telemetry.metrics_text(format)).await;
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(failure) => (StatusCode::INTERNAL_SERVER_ERROR, failure.to_string()).into_response(),
    }
}

/// 200 or 503.
pub(super) fn status(good: bool) -> StatusCode {
    if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// An answer in JSON, with the headers of kube-proxy's.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    (status, headers, Json(body)).into_response()
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
