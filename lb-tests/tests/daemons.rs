//! The real servers of the lab answer, in both families, and end with their values.

use std::net::{IpAddr, SocketAddr};

use lb_testkit::{Connection, Host, Lab, Wiring, daemons, http_get, output};

fn addresses(host: &Host) -> [IpAddr; 2] {
    [host.v4.into(), host.v6.into()]
}

#[test]
fn nginx_answers_at_each_port_with_its_text() {
    let lab = Lab::builder()
        .wiring(Wiring::Bridged)
        .pods_per_node(1)
        .build()
        .unwrap();
    let (client, server) = (lab.pod(1, 1), lab.pod(2, 1));
    let nginx = daemons::nginx(server, &[(8080, "n2-a $client"), (9100, "n2-a admin")]).unwrap();
    for (to, from) in addresses(server).into_iter().zip(addresses(client)) {
        let mut connection = Connection::open(client, SocketAddr::new(to, 8080)).unwrap();
        for _ in 0..2 {
            let answer = connection.ask().unwrap();
            assert_eq!((answer.server.as_str(), answer.client.ip()), ("n2-a", from));
        }
        let url = format!("http://{}/", SocketAddr::new(to, 9100));
        let text = output(
            client
                .command("curl")
                .args(["--silent", "--fail", "--noproxy", "*", &url]),
        );
        assert_eq!(text.unwrap(), "n2-a admin\n");
    }
    drop(nginx);
    let gone = http_get(client, SocketAddr::new(server.v4.into(), 8080));
    assert!(gone.is_err(), "{gone:?}");
}

#[test]
fn dnsmasq_serves_tcp_and_udp_on_one_number() {
    let lab = Lab::builder().pods_per_node(1).build().unwrap();
    let (client, server) = (lab.pod(1, 1), lab.pod(2, 1));
    let _dns = daemons::dnsmasq(server, 53, &[("web.lab", [192, 0, 2, 10].into())]).unwrap();
    for addr in addresses(server) {
        for transport in ["+notcp", "+tcp"] {
            let at = format!("@{addr}");
            let text = output(
                client
                    .command("dig")
                    .args([&at, transport, "+short", "+tries=1", "+time=2", "web.lab"]),
            );
            assert_eq!(text.unwrap(), "192.0.2.10\n", "{addr} {transport}");
        }
    }
}

#[test]
fn a_server_that_cannot_start_is_an_error_that_says_why() {
    let lab = Lab::builder().pods_per_node(1).build().unwrap();
    let pod = lab.pod(1, 1);
    let _first = daemons::nginx(pod, &[(8080, "first")]).unwrap();
    let taken = daemons::nginx(pod, &[(8081, "second"), (8080, "second")])
        .unwrap_err()
        .to_string();
    assert!(
        taken.contains("nginx on n1-a") && taken.contains("port 8080 is taken"),
        "{taken}"
    );
    let ended = daemons::nginx(lab.pod(2, 1), &[(0, "nowhere")])
        .unwrap_err()
        .to_string();
    assert!(
        ended.contains("nginx on n2-a ended") && ended.contains("invalid port"),
        "{ended}"
    );
}
