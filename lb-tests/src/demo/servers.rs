//! The servers behind the examples: nginx in each web pod, dnsmasq in the DNS pod.

use std::{fs, net::TcpStream, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use lb_testkit::{Host, Lab, Process};
use lb_tests::agent::eventually;

/// The name that the DNS server knows.
pub(crate) const RECORD_NAME: &str = "fairlead.example";
/// Its address (TEST-NET-1, RFC 5737).
pub(crate) const RECORD_ADDRESS: &str = "192.0.2.10";

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// All servers; they end with this value.
pub(crate) struct Servers(Vec<Process>);

impl Servers {
    /// Starts them and waits until they listen.
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let processes = vec![
            nginx(lab.folder(), lab.pod(1, 2), &[(8080, "n1-b")])?,
            nginx(lab.folder(), lab.pod(2, 1), &[(8080, "n2-a")])?,
            nginx(
                lab.folder(),
                lab.pod(1, 3),
                &[(8080, "n1-c"), (8081, "n1-c admin")],
            )?,
            dnsmasq(lab.pod(2, 3))?,
        ];
        for (host, port) in [
            (lab.pod(1, 2), 8080),
            (lab.pod(2, 1), 8080),
            (lab.pod(1, 3), 8080),
            (lab.pod(1, 3), 8081),
            (lab.pod(2, 3), 53),
        ] {
            let logs = || processes.iter().map(Process::log).collect::<Vec<_>>().join("\n");
            eventually(PATIENCE, || {
                host.run(|| TcpStream::connect((host.v4, port)))??;
                Ok(())
            })
            .with_context(|| format!("no server on port {port} of {}:\n{}", host.name, logs()))?;
        }
        let servers = Self(processes);
        println!(
            "{} servers: nginx in n1-b, n1-c and n2-a, dnsmasq in n2-c",
            servers.0.len()
        );
        Ok(servers)
    }
}

/// An nginx that says a pod's name on each port.
fn nginx(folder: &Path, host: &Host, answers: &[(u16, &str)]) -> Result<Process> {
    let home = folder.join(format!("nginx-{}", host.name));
    fs::create_dir_all(&home)?;
    let servers: String = answers
        .iter()
        .map(|(port, name)| {
            format!(
                "server {{ listen {port}; listen [::]:{port}; location / {{ return 200 '{name}\\n'; }} }}\n"
            )
        })
        .collect();
    let home_text = home.display();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {home_text}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
         access_log off;\nclient_body_temp_path {home_text}/body;\nproxy_temp_path {home_text}/proxy;\n\
         fastcgi_temp_path {home_text}/fastcgi;\nuwsgi_temp_path {home_text}/uwsgi;\nscgi_temp_path {home_text}/scgi;\n\
         {servers}}}\n"
    );
    let path = home.join("nginx.conf");
    fs::write(&path, config)?;
    Ok(host.spawn(
        "nginx",
        host.command("/usr/sbin/nginx")
            .arg("-e")
            .arg("stderr")
            .arg("-c")
            .arg(&path),
    )?)
}

fn dnsmasq(host: &Host) -> Result<Process> {
    let record = format!("--address=/{RECORD_NAME}/{RECORD_ADDRESS}");
    Ok(host.spawn(
        "dnsmasq",
        host.command("/usr/sbin/dnsmasq").args([
            "--no-daemon",
            "--no-resolv",
            "--no-hosts",
            "--conf-file=/dev/null",
            "--user=root",
            "--pid-file=",
            &record,
        ]),
    )?)
}
