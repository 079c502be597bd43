//! Requests to the agent's own servers.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};
use lb_testkit::Host;

/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a server has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl HttpAnswer {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find_map(|(given, value)| (given == name).then_some(value.as_str()))
    }

    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {self:?}"))
    }
}

/// Asks a server by GET, from a host of a lab. The server must close the connection after its answer, as the agent's do.
///
/// # Errors
///
/// If there is no answer, or it is not HTTP.
pub fn get(host: &Host, addr: SocketAddr, path: &str) -> Result<HttpAnswer> {
    let asked = || format!("GET {path} at {addr} from {}", host.name);
    let text = host.run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })?;
    parse(&text.with_context(asked)?).with_context(asked)
}

fn parse(text: &str) -> Result<HttpAnswer> {
    let (head, body) = text.split_once("\r\n\r\n").context("no headers")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    Ok(HttpAnswer {
        status: status.context("no status")?.parse()?,
        headers: lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect(),
        body: body.to_owned(),
    })
}
