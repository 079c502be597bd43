//! Servers as they run in real pods: nginx and dnsmasq.

use std::{
    fmt::Write as _,
    fs,
    net::IpAddr,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    command::find_program,
    error::{Error, Result},
    host::{Host, Process},
};

/// How long a server may take until it listens.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(5);

/// A kernel table of sockets in `/proc/net`, and the state that a server's socket has there.
type Table = (&'static str, &'static str);
/// TCP sockets that listen.
const TCP: [Table; 2] = [("tcp", "0A"), ("tcp6", "0A")];
/// UDP sockets that are bound and not connected.
const UDP: [Table; 2] = [("udp", "07"), ("udp6", "07")];

/// Starts nginx, which answers at each port with its text and a newline, over IPv4 and IPv6, and waits until it listens.
/// It is killed when the value is dropped.
///
/// `$client` in a text stands for the client's address and port: what answers `n1-a $client` answers as
/// [`crate::Server`] does, so [`crate::http_get`] understands it.
///
/// # Errors
///
/// If it is not installed, a port is taken, or it does not come to listen, with its log.
pub fn nginx(host: &Host, answers: &[(u16, &str)]) -> Result<Process> {
    let program = find_program("nginx", "nginx-light")?;
    let folder = host.folder("nginx")?;
    let config = folder.join("nginx.conf");
    fs::write(&config, nginx_config(&folder, answers)).map_err(Error::io("write", config.display()))?;
    let mut command = host.command(program);
    command
        .args(["-e", "stderr", "-p"])
        .arg(&folder)
        .arg("-c")
        .arg(&config);
    let ports: Vec<u16> = answers.iter().map(|(port, _)| *port).collect();
    serve(host, "nginx", &mut command, &TCP, &ports)
}

/// One process without workers, so that what is killed is all there is.
fn nginx_config(folder: &Path, answers: &[(u16, &str)]) -> String {
    let folder = folder.display();
    let mut text = format!(
        "daemon off;\nmaster_process off;\npid {folder}/pid;\nevents {{}}\nhttp {{\n  access_log off;\n  \
         default_type text/plain;\n  map $remote_addr $client {{\n    default $remote_addr:$remote_port;\n    \
         ~: [$remote_addr]:$remote_port;\n  }}\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "  {kind}_temp_path {folder}/{kind};");
    }
    for (port, answer) in answers {
        let _ = writeln!(
            text,
            "  server {{\n    listen {port};\n    listen [::]:{port} ipv6only=on;\n    \
             location / {{ return 200 \"{answer}\\n\"; }}\n  }}"
        );
    }
    text.push_str("}\n");
    text
}

/// Starts dnsmasq, which answers for `records` over TCP and UDP at the host's addresses, and waits until it listens. It
/// is killed when the value is dropped.
///
/// # Errors
///
/// If it is not installed, the port is taken, or it does not come to listen, with its log.
pub fn dnsmasq(host: &Host, port: u16, records: &[(&str, IpAddr)]) -> Result<Process> {
    let mut command = host.command(find_program("dnsmasq", "dnsmasq-base")?);
    command
        .args(["--no-daemon", "--conf-file=/dev/null", "--pid-file="])
        .args(["--no-resolv", "--no-hosts", "--bind-interfaces", "--user=root"])
        .arg(format!("--port={port}"))
        .arg(format!("--listen-address={},{}", host.v4, host.v6));
    for (name, addr) in records {
        command.arg(format!("--host-record={name},{addr}"));
    }
    serve(host, "dnsmasq", &mut command, &[TCP, UDP].concat(), &[port])
}

/// Starts a server and waits until it has a socket at each port in each table. Looking there, instead of connecting,
/// leaves no connection that the server must deal with.
fn serve(
    host: &Host,
    label: &str,
    command: &mut Command,
    tables: &[Table],
    ports: &[u16],
) -> Result<Process> {
    for port in ports {
        for (table, state) in tables {
            // Else the other's socket would pass for this server's.
            if is_bound(host, table, state, *port)? {
                return Err(Error::unexpected(
                    &format!("{label} on {}", host.name),
                    format!("the {table} port {port} is taken there"),
                ));
            }
        }
    }
    let mut process = host.spawn(label, command)?;
    let end = Instant::now() + PATIENCE;
    for port in ports {
        for (table, state) in tables {
            let awaited = || format!("it has a {table} socket at port {port}");
            while !is_bound(host, table, state, *port)? {
                process.still_runs(awaited)?;
                if Instant::now() > end {
                    return Err(process.timed_out(awaited(), PATIENCE));
                }
                thread::sleep(POLL);
            }
        }
    }
    Ok(process)
}

fn is_bound(host: &Host, table: &str, state: &str, port: u16) -> Result<bool> {
    // Not /proc/net: that is the namespace of the process, not of this thread.
    let path = format!("/proc/thread-self/net/{table}");
    let text = host
        .run(|| fs::read_to_string(&path))?
        .map_err(Error::io("read", &path))?;
    Ok(has_socket(&text, port, state))
}

/// Whether a table of `/proc/net` has a socket with that local port and state.
fn has_socket(table: &str, port: u16, state: &str) -> bool {
    let port = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some(state)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_port_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
                     0: 00000000:1F90 00000000:0000 0A 00000000:00000000\n\
                     1: 0100007F:0050 0100007F:9999 01 00000000:00000000\n";
        assert!(has_socket(table, 8080, "0A"));
        assert!(!has_socket(table, 80, "0A"));
        assert!(!has_socket(table, 8081, "0A"));
    }
}
