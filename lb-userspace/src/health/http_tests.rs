//! Probes over real sockets of the loopback device.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};

use super::*;
use crate::{
    health::{HealthCheck, HealthChecks, NodeState, Serving},
    index::ServiceName,
    plan::Family,
    telemetry::SyncReport,
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Head and body of the answer to a GET.
fn get(addr: SocketAddr, path: &str) -> io::Result<(String, String)> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    Ok((head.to_lowercase(), body.to_owned()))
}

/// A server of the router on any free port of 127.0.0.1.
fn serving(router: Router) -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = listen::on((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            serve(listener, router).await
        })
    });
    receiver.recv_timeout(PATIENCE).unwrap()
}

fn current() -> Telemetry {
    let telemetry = Telemetry::new("n", json!({"fairlead.dev": {"node": "n"}}));
    telemetry.serving(Serving::Current);
    telemetry.turn();
    telemetry.sync_end(&SyncReport::default());
    telemetry
}

#[test]
fn healthz_and_livez_answer_with_kube_proxys_headers_and_their_own_status() {
    let telemetry = current();
    let addr = serving(health(&telemetry));
    let (head, body) = get(addr, "/healthz").unwrap();
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    assert!(head.contains("content-type: application/json\r\n"), "{head}");
    assert!(head.contains("x-content-type-options: nosniff\r\n"), "{head}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["healthy"], true);
    assert_eq!(body["nodeEligible"], true);
    assert_eq!(body["status"]["IPv6"]["healthy"], true);

    telemetry.node(NodeState::ToBeDeleted);
    let (head, body) = get(addr, "/healthz").unwrap();
    assert!(head.starts_with("http/1.1 503 "), "{head}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["nodeEligible"], false);
    let (head, _) = get(addr, "/livez").unwrap();
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    let (head, _) = get(addr, "/proxyMode").unwrap();
    assert!(
        head.starts_with("http/1.1 404 "),
        "the outside is told no more: {head}"
    );
}

#[test]
fn proxy_mode_and_configuration_are_told_at_the_address_of_the_metrics() {
    let addr = serving(metrics(&current()));
    assert_eq!(get(addr, "/proxyMode").unwrap().1, "fairlead");
    let (_, body) = get(addr, "/configz").unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body, json!({"fairlead.dev": {"node": "n"}}));
    assert!(get(addr, "/healthz").unwrap().0.starts_with("http/1.1 200 "));
}

#[test]
fn connections_that_say_nothing_hold_up_nobody_and_are_closed() {
    let addr = serving(health(&current()));
    let mut idle: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| TcpStream::connect(addr).unwrap())
        .collect();
    // As many as one server has room for: the next one is answered once one of them is closed.
    let (head, _) = get(addr, "/livez").unwrap();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    for stream in &mut idle {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
    }
}

/// Asks until the answer is the wanted one.
fn eventually(mut ask: impl FnMut() -> Result<(), String>) {
    let begin = std::time::Instant::now();
    while let Err(problem) = ask() {
        assert!(begin.elapsed() < PATIENCE, "{problem}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn service(name: &str) -> ServiceName {
    ServiceName {
        namespace: "ns".into(),
        name: name.into(),
    }
}

/// A port that was free just now.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn checks(name: &str, port: u16, endpoints: usize) -> HealthChecks {
    HealthChecks::from([(
        (service(name), Family::V4),
        HealthCheck {
            uid: Box::default(),
            port,
            endpoints,
        },
    )])
}

#[test]
fn a_services_health_check_follows_its_endpoints_and_closes_with_it() {
    let telemetry = current();
    telemetry.start(crate::telemetry::Binds::default(), None).unwrap();
    let addresses = [Ipv4Addr::LOCALHOST.into()];
    let addr = SocketAddr::new(addresses[0], free_port());
    let expect = |status: &str, weight: usize| {
        eventually(|| {
            let (head, body) = get(addr, "/any/path").map_err(|error| error.to_string())?;
            let told: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
            let is_right = head.starts_with(&format!("http/1.1 {status} "))
                && head.contains(&format!("x-load-balancing-endpoint-weight: {weight}\r\n"))
                && head.contains("x-content-type-options: nosniff\r\n")
                && told
                    == json!({
                        "service": {"namespace": "ns", "name": "web"},
                        "localEndpoints": weight,
                        "serviceProxyHealthy": true,
                    });
            if is_right {
                Ok(())
            } else {
                Err(format!("{head} {body}"))
            }
        });
    };
    telemetry.health_checks(&checks("web", addr.port(), 2), &addresses);
    expect("200", 2);
    telemetry.health_checks(&checks("web", addr.port(), 0), &addresses);
    expect("503", 0);
    telemetry.health_checks(&HealthChecks::new(), &addresses);
    eventually(|| match TcpStream::connect(addr) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_health_check_port_that_is_taken_is_counted_and_opened_when_it_is_free() {
    let telemetry = current();
    telemetry.start(crate::telemetry::Binds::default(), None).unwrap();
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = taken.local_addr().unwrap();
    telemetry.health_checks(&checks("web", addr.port(), 1), &[addr.ip()]);
    eventually(|| {
        let text = telemetry.metrics_text(Format::Prometheus);
        let refused = r#"fairlead_health_check_ports{state="refused"} 1"#;
        text.contains(refused).then_some(()).ok_or(text)
    });
    drop(taken);
    eventually(|| {
        let (head, _) = get(addr, "/").map_err(|error| error.to_string())?;
        if head.starts_with("http/1.1 200 ") {
            Ok(())
        } else {
            Err(head)
        }
    });
}
