//! What a request asks for: its path and its query.

use std::collections::HashMap;

use super::{
    resources::{self, RESOURCES, Resource},
    status::{Outcome, Status},
};

/// What is asked of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// One object.
    Get,
    /// Objects.
    List,
    /// Changes.
    Watch,
    /// A new object.
    Create,
    /// An object replaced.
    Update,
    /// An object changed in part.
    Patch,
    /// An object removed.
    Delete,
}

impl Verb {
    /// Its name in rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }

    /// The verb of a request.
    pub(crate) fn of(method: &str, target: &Target, query: &Query) -> Outcome<Self> {
        match (method, &target.name) {
            ("GET", Some(_)) => Ok(Self::Get),
            ("GET", None) if query.flag("watch") => Ok(Self::Watch),
            ("GET", None) => Ok(Self::List),
            ("POST", None) => Ok(Self::Create),
            ("PUT", Some(_)) => Ok(Self::Update),
            ("PATCH", Some(_)) => Ok(Self::Patch),
            ("DELETE", Some(_)) => Ok(Self::Delete),
            _ => Err(Status::method_not_allowed()),
        }
    }
}

/// A resource, or an object, of a path.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) id: resources::Id,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl Target {
    pub(crate) fn resource(&self) -> &'static Resource {
        &RESOURCES[self.id]
    }

    /// Namespace and name of the object that is asked for.
    pub(crate) fn key(&self) -> (String, String) {
        (
            self.namespace.clone().unwrap_or_default(),
            self.name.clone().unwrap_or_default(),
        )
    }

    /// From `/api/v1/…` or `/apis/<group>/<version>/…`.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let mut steps = path.trim_matches('/').split('/');
        let group = match steps.next()? {
            "api" => "",
            "apis" => steps.next()?,
            _ => return None,
        };
        let version = steps.next()?;
        let steps: Vec<&str> = steps.collect();
        // The namespace of an object, or a namespace as an object.
        let (namespace, rest) = match steps.as_slice() {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() && rest[0] != "status" => {
                (Some((*namespace).to_owned()), rest)
            }
            rest => (None, rest),
        };
        let id = resources::of_path(group, version, rest.first()?)?;
        if namespace.is_some() && !RESOURCES[id].namespaced || rest.len() > 3 {
            return None;
        }
        let step = |index: usize| rest.get(index).map(|step| (*step).to_owned());
        let (name, subresource) = (step(1), step(2));
        if RESOURCES[id].namespaced && name.is_some() && namespace.is_none() {
            return None;
        }
        if subresource
            .as_ref()
            .is_some_and(|sub| sub != "status" || !RESOURCES[id].status)
        {
            return None;
        }
        Some(Self {
            id,
            namespace,
            name,
            subresource,
        })
    }
}

/// The query of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(HashMap<String, String>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The text of a parameter, empty if it is not there.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.text(name), "true" | "1")
    }

    /// A number.
    ///
    /// # Errors
    ///
    /// 400, if it is none.
    pub(crate) fn number(&self, name: &str) -> Outcome<Option<u64>> {
        match self.text(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| Status::bad_request(format!("{name}: Invalid value: {text:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::resources::{NAMESPACES, NODES, SERVICES, SLICES};

    #[test]
    fn paths_name_resources_and_objects() {
        let target = |path| {
            Target::parse(path).map(|it| {
                (
                    it.id,
                    it.namespace.unwrap_or_default(),
                    it.name.unwrap_or_default(),
                )
            })
        };
        let is = |id, namespace: &str, name: &str| Some((id, namespace.to_owned(), name.to_owned()));
        assert_eq!(target("/api/v1/services"), is(SERVICES, "", ""));
        assert_eq!(target("/api/v1/namespaces/a/services"), is(SERVICES, "a", ""));
        assert_eq!(target("/api/v1/namespaces/a/services/x"), is(SERVICES, "a", "x"));
        assert_eq!(
            target("/api/v1/namespaces/a/services/x/status"),
            is(SERVICES, "a", "x")
        );
        assert_eq!(target("/api/v1/nodes/n"), is(NODES, "", "n"));
        assert_eq!(target("/api/v1/namespaces"), is(NAMESPACES, "", ""));
        assert_eq!(target("/api/v1/namespaces/a"), is(NAMESPACES, "", "a"));
        assert_eq!(target("/api/v1/namespaces/a/status"), is(NAMESPACES, "", "a"));
        assert_eq!(
            target("/apis/discovery.k8s.io/v1/endpointslices"),
            is(SLICES, "", "")
        );
        for nothing in [
            "/api/v1",
            "/api/v2/services",
            "/apis/discovery.k8s.io/v1beta1/endpointslices",
            "/api/v1/services/x",
            "/api/v1/namespaces/a/nodes",
            "/api/v1/namespaces/a/services/x/scale",
            "/metrics",
        ] {
            assert_eq!(target(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn verbs_follow_from_method_and_query() {
        let one = Target::parse("/api/v1/nodes/n").unwrap();
        let all = Target::parse("/api/v1/nodes").unwrap();
        let verb = |method, target, query| Verb::of(method, target, &Query::parse(query)).ok();
        assert_eq!(verb("GET", &one, ""), Some(Verb::Get));
        assert_eq!(verb("GET", &all, "watch=true&x=%21y"), Some(Verb::Watch));
        assert_eq!(verb("GET", &all, "watch=false"), Some(Verb::List));
        assert_eq!(verb("PUT", &all, ""), None);
        assert_eq!(Query::parse("x=%21y").text("x"), "!y");
        assert_eq!(Query::parse("limit=a").number("limit").unwrap_err().code, 400);
    }
}
