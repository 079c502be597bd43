//! What the server answers instead of an object, in the words of the real one (`apimachinery/pkg/api/errors`).

use std::fmt;

use serde_json::{Value, json};

use super::resources::Resource;

/// A failure as the API tells it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Status {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// Seconds after which the client is to try again.
    pub(crate) retry_after: Option<u32>,
    /// Machine-readable causes, as `(reason, message)`.
    pub(crate) causes: Vec<(&'static str, String)>,
}

/// What an operation of the store returns. The failure is large and rare.
pub(crate) type Outcome<T> = Result<T, Box<Status>>;

impl Status {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            code,
            reason,
            message: message.into(),
            retry_after: None,
            causes: Vec::new(),
        })
    }

    pub(crate) fn unauthorized() -> Box<Self> {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Box<Self> {
        let message = format!("{} {name:?} not found", resource.qualified());
        Self::new(404, "NotFound", message)
    }

    /// For a path that means nothing.
    pub(crate) fn no_such_path() -> Box<Self> {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    pub(crate) fn method_not_allowed() -> Box<Self> {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Box<Self> {
        let message = format!("{} {name:?} already exists", resource.qualified());
        Self::new(409, "AlreadyExists", message)
    }

    pub(crate) fn conflict(resource: &Resource, name: &str) -> Box<Self> {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: the object has been modified; please apply your changes \
             to the latest version and try again",
            resource.qualified()
        );
        Self::new(409, "Conflict", message)
    }

    /// A version that the history no longer has.
    pub(crate) fn expired(message: impl Into<String>) -> Box<Self> {
        Self::new(410, "Expired", message)
    }

    /// A watch from a version that the history no longer has.
    pub(crate) fn too_old(version: u64, oldest: u64) -> Box<Self> {
        Self::expired(format!("too old resource version: {version} ({oldest})"))
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Box<Self> {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn invalid(resource: &Resource, name: &str, problem: &str) -> Box<Self> {
        let group = if resource.group.is_empty() {
            String::new()
        } else {
            format!(".{}", resource.group)
        };
        let message = format!("{}{group} {name:?} is invalid: {problem}", resource.kind);
        Self::new(422, "Invalid", message)
    }

    /// A version that the server has not reached; it waits a moment for it before it says so.
    pub(crate) fn too_large(version: u64, current: u64) -> Box<Self> {
        let message = format!("Timeout: Too large resource version: {version}, current: {current}");
        let mut status = Self::new(504, "Timeout", message);
        status.retry_after = Some(1);
        status.causes = vec![("ResourceVersionTooLarge", "Too large resource version".to_owned())];
        status
    }

    /// A failure that a test ordered.
    pub(crate) fn ordered(code: u16, retry_after: Option<u32>) -> Box<Self> {
        let (reason, message) = match code {
            400 => (
                "BadRequest",
                "the server rejected our request for an unknown reason",
            ),
            401 => ("Unauthorized", "Unauthorized"),
            403 => ("Forbidden", "forbidden"),
            404 => ("NotFound", "the server could not find the requested resource"),
            410 => (
                "Expired",
                "The provided continue parameter is too old to display a consistent list result.",
            ),
            429 => (
                "TooManyRequests",
                "too many requests, please try again later: storage is (re)initializing",
            ),
            503 => (
                "ServiceUnavailable",
                "the server is currently unable to handle the request",
            ),
            504 => (
                "Timeout",
                "Timeout: request did not complete within the allotted timeout",
            ),
            _ => ("InternalError", "Internal error occurred: ordered by a test"),
        };
        let mut status = Self::new(code, reason, message);
        status.retry_after = retry_after;
        status
    }

    /// The Status object.
    pub(crate) fn body(&self) -> Value {
        let mut body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if self.retry_after.is_some() || !self.causes.is_empty() {
            body["details"] = json!({});
        }
        if let Some(seconds) = self.retry_after {
            body["details"]["retryAfterSeconds"] = seconds.into();
        }
        if !self.causes.is_empty() {
            body["details"]["causes"] = self
                .causes
                .iter()
                .map(|(reason, message)| json!({"reason": reason, "message": message}))
                .collect();
        }
        body
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code, self.reason, self.message)
    }
}
