//! Connections, and what is answered on them.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Limited};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, RETRY_AFTER},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    time,
};
use tokio_rustls::TlsAcceptor;

use super::{
    body::{Answer, Pen},
    faults::Plan,
    list,
    request::{Query, Target, Verb},
    resources::RESOURCES,
    state::Shared,
    status::{Outcome, Status},
    watch, write,
};

/// The largest body that is read, as with the real server (3 MiB).
const BODY: usize = 3 << 20;
/// Pause after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(5);
/// What `/version` says.
const VERSION: (&str, &str) = ("1", "36");

/// Accepts connections at a door until it is dropped, which closes the listener and no connection.
pub(crate) async fn accept(
    shared: Arc<Shared>,
    door: usize,
    acceptor: TlsAcceptor,
    listener: TcpListener,
) -> Infallible {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            time::sleep(PAUSE).await;
            continue;
        };
        shared.change(|state| {
            state.connections_so_far += 1;
            let id = state.connections_so_far;
            let counted = Counted(shared.clone(), id);
            // It runs once this is done, so it is noted before it can end.
            let task = tokio::spawn(connection(counted, door, acceptor.clone(), stream));
            state.connections.insert(id, (door, task.abort_handle()));
        });
    }
}

/// A connection among those that are open, as long as it lives.
struct Counted(Arc<Shared>, u64);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.change(|state| state.connections.remove(&self.1));
    }
}

async fn connection(counted: Counted, door: usize, acceptor: TlsAcceptor, stream: TcpStream) {
    // Events are small and must not wait for each other.
    let _ = stream.set_nodelay(true);
    // A client that does not trust the certificate, or goes away, is its own affair.
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let shared = &counted.0;
    let service = service_fn(|request| respond(shared, door, request));
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Answers a request that came by a door; an error closes the connection without an answer.
async fn respond(
    shared: &Arc<Shared>,
    door: usize,
    request: Request<Incoming>,
) -> io::Result<Response<Answer>> {
    let path = request.uri().path().to_owned();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let target = Target::parse(&path);
    let verb = match &target {
        Some(target) => Verb::of(request.method().as_str(), target, &query),
        None => Ok(Verb::Get),
    };
    let plan = match &verb {
        Ok(verb) => {
            let resource = target.as_ref().map(|target| target.id);
            shared.admit(*verb, resource, door).await
        }
        Err(_) => Plan::default(),
    };
    if plan.reset {
        return Err(io::Error::new(
            io::ErrorKind::ConnectionReset,
            "closed by order of a test",
        ));
    }
    let answered = async {
        plan.check()?;
        match target {
            Some(target) => resource(shared, verb?, target, &query, request, &plan).await,
            None => {
                let authorization = header(&request, &AUTHORIZATION);
                plain(shared, &path, authorization).map(|(kind, text)| answer(200, kind, text.into()))
            }
        }
    };
    let response = answered.await.unwrap_or_else(|status| failure(&status));
    Ok(mangle(response, &plan))
}

fn header<'a>(request: &'a Request<Incoming>, name: &HeaderName) -> Option<&'a str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

async fn resource(
    shared: &Arc<Shared>,
    verb: Verb,
    target: Target,
    query: &Query,
    request: Request<Incoming>,
    plan: &Plan,
) -> Outcome<Response<Answer>> {
    let authorization = header(&request, &AUTHORIZATION);
    shared.look(|state| {
        state.asked.note(state.users.name(authorization), verb, &target);
        state.users.check(authorization, verb, &target)
    })?;
    match verb {
        Verb::List => {
            let text = list::list(shared, &target, query, plan).await?;
            Ok(answer(200, "application/json", text))
        }
        Verb::Watch => {
            let mut response = answer(200, "application/json", Bytes::new());
            *response.body_mut() = watch::watch(shared, target, query, plan.clone())?;
            Ok(response)
        }
        _ => {
            let content = header(&request, &CONTENT_TYPE).unwrap_or_default().to_owned();
            let body = Limited::new(request.into_body(), BODY).collect().await;
            let body = body
                .map_err(|error| Status::new(413, "RequestEntityTooLarge", error.to_string()))?
                .to_bytes();
            let (code, text) = write::one(shared, verb, &target, &content, &body)?;
            Ok(answer(code, "application/json", text))
        }
    }
}

fn answer(code: u16, kind: &'static str, text: Bytes) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(text));
    *response.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or_default();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

fn failure(status: &Status) -> Response<Answer> {
    let mut response = answer(status.code, "application/json", status.body().to_string().into());
    if let Some(seconds) = status.retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// Makes a whole answer a slow or a torn one. Watches do that themselves.
fn mangle(mut response: Response<Answer>, plan: &Plan) -> Response<Answer> {
    if !plan.torn && plan.slow.is_none() {
        return response;
    }
    if let Answer::Whole(text) = response.body_mut() {
        let text = std::mem::take(text);
        let (pen, body) = Pen::new(plan.slow);
        *response.body_mut() = body;
        let torn = plan.torn;
        tokio::spawn(async move {
            if torn {
                pen.tear(text).await;
            } else {
                let _ = pen.write(text).await;
            }
        });
    }
    response
}

/// Paths without objects, with the type of what is there.
fn plain(shared: &Shared, path: &str, authorization: Option<&str>) -> Outcome<(&'static str, String)> {
    let json = "application/json";
    shared.look(|state| state.asked.note_path(state.users.name(authorization), path));
    match path {
        // Open to everybody, by the role system:public-info-viewer.
        "/livez" | "/readyz" | "/healthz" => return Ok(("text/plain; charset=utf-8", "ok".to_owned())),
        "/version" => {
            let (major, minor) = VERSION;
            let version = json!({
                "major": major, "minor": minor, "gitVersion": format!("v{major}.{minor}.0"), "gitCommit": "",
                "gitTreeState": "clean", "buildDate": "", "goVersion": "", "compiler": "", "platform": "linux/amd64",
            });
            return Ok((json, version.to_string()));
        }
        _ => {}
    }
    shared.look(|state| state.users.check_path(authorization, path))?;
    let found = discovery(path).ok_or_else(Status::no_such_path)?;
    Ok((json, found.to_string()))
}

/// `/api`, `/apis`, and the resources of a group's version.
fn discovery(path: &str) -> Option<Value> {
    let steps: Vec<&str> = path.trim_matches('/').split('/').collect();
    let group = |name: &str| {
        let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
        json!({"name": name, "versions": [version], "preferredVersion": version})
    };
    match steps.as_slice() {
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        ["apis"] => {
            let mut groups: Vec<&str> = RESOURCES.iter().map(|one| one.group).collect();
            groups.sort_unstable();
            groups.dedup();
            let groups: Vec<Value> = groups
                .into_iter()
                .filter(|one| !one.is_empty())
                .map(group)
                .collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["api", "v1"] => resource_list("", "v1"),
        ["apis", group, "v1"] => resource_list(group, "v1"),
        _ => None,
    }
}

fn resource_list(group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    let mut api_version = None;
    for one in RESOURCES
        .iter()
        .filter(|one| one.group == group && one.version == version)
    {
        api_version = Some(one.api_version());
        list.push(json!({
            "name": one.plural, "singularName": one.kind.to_lowercase(), "namespaced": one.namespaced,
            "kind": one.kind, "shortNames": one.short, "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
        }));
    }
    let api_version = api_version?;
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": list}),
    )
}
