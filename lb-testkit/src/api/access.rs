//! Who may do what: tokens, users and their rules.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    request::{Target, Verb},
    resources::qualify,
    status::{Outcome, Status},
};

/// What a user may do, as the rules of a ClusterRole say it.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Nothing is asked: a cluster's administrator.
    all: bool,
    /// `(verb, resource with its group)`; `*` stands for all.
    allowed: Vec<(String, String)>,
    denied: Vec<(String, String)>,
}

impl Access {
    /// Everything.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    /// What the `rules` of a Role or a ClusterRole allow. Rules for single names are taken as rules for all names.
    #[must_use]
    pub fn rules(role: &Value) -> Self {
        let words = |rule: &Value, field: &str| -> Vec<String> {
            let values = rule[field].as_array().into_iter().flatten();
            values.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let mut access = Self::default();
        for rule in role["rules"].as_array().into_iter().flatten() {
            for group in words(rule, "apiGroups") {
                for resource in words(rule, "resources") {
                    for verb in words(rule, "verbs") {
                        access.allowed.push((verb, qualify(&resource, &group)));
                    }
                }
            }
        }
        access
    }

    /// Allows one more thing: a verb (`list`) and a resource (`services`, `endpointslices.discovery.k8s.io`).
    #[must_use]
    pub fn with(mut self, verb: &str, resource: &str) -> Self {
        self.allowed.push((verb.to_owned(), resource.to_owned()));
        self
    }

    /// Forbids a thing that is else allowed.
    #[must_use]
    pub fn without(mut self, verb: &str, resource: &str) -> Self {
        self.denied.push((verb.to_owned(), resource.to_owned()));
        self
    }

    fn allows(&self, verb: Verb, resource: &str) -> bool {
        let names = |rules: &[(String, String)]| {
            rules
                .iter()
                .any(|(one, what)| (one == verb.name() || one == "*") && (what == resource || what == "*"))
        };
        (self.all || names(&self.allowed)) && !names(&self.denied)
    }
}

/// Who brings no token.
const ANONYMOUS: &str = "system:anonymous";

/// The tokens that the server knows.
#[derive(Debug, Default)]
pub(crate) struct Users {
    /// Token → name and rules.
    tokens: BTreeMap<String, (String, Access)>,
}

impl Users {
    pub(crate) fn set(&mut self, token: &str, name: &str, access: Access) {
        self.tokens.insert(token.to_owned(), (name.to_owned(), access));
    }

    pub(crate) fn remove(&mut self, token: &str) {
        self.tokens.remove(token);
    }

    /// The name of a request's user; that of nobody for a token that is unknown.
    pub(crate) fn name(&self, authorization: Option<&str>) -> &str {
        self.who(authorization).map_or(ANONYMOUS, |(name, _)| name)
    }

    /// The user of a request. Without a token it is `system:anonymous`, who may do nothing.
    ///
    /// # Errors
    ///
    /// 401, if the token is unknown.
    fn who(&self, authorization: Option<&str>) -> Outcome<(&str, Option<&Access>)> {
        let Some(header) = authorization else {
            return Ok((ANONYMOUS, None));
        };
        let token = header.strip_prefix("Bearer ").ok_or_else(Status::unauthorized)?;
        let (name, access) = self.tokens.get(token.trim()).ok_or_else(Status::unauthorized)?;
        Ok((name, Some(access)))
    }

    /// Lets a request pass, or says why not (`apiserver/pkg/endpoints/handlers/responsewriters/errors.go`).
    ///
    /// # Errors
    ///
    /// 401 for an unknown token, 403 for what its user may not do.
    pub(crate) fn check(&self, authorization: Option<&str>, verb: Verb, target: &Target) -> Outcome<()> {
        let (name, access) = self.who(authorization)?;
        let resource = target.resource();
        let mut asked = resource.qualified();
        let mut shown = resource.plural.to_owned();
        if let Some(sub) = &target.subresource {
            asked = qualify(&format!("{}/{sub}", resource.plural), resource.group);
            shown = format!("{}/{sub}", resource.plural);
        }
        if access.is_some_and(|access| access.allows(verb, &asked)) {
            return Ok(());
        }
        let object = target
            .name
            .as_ref()
            .map(|name| format!(" {name:?}"))
            .unwrap_or_default();
        let place = match &target.namespace {
            Some(namespace) => format!("in the namespace {namespace:?}"),
            None => "at the cluster scope".to_owned(),
        };
        Err(Status::new(
            403,
            "Forbidden",
            format!(
                "{}{object} is forbidden: User {name:?} cannot {} resource {shown:?} in API group {:?} {place}",
                resource.qualified(),
                verb.name(),
                resource.group,
            ),
        ))
    }

    /// Lets any known user pass, for what has no resource.
    ///
    /// # Errors
    ///
    /// 401 for an unknown token, 403 without one.
    pub(crate) fn check_path(&self, authorization: Option<&str>, path: &str) -> Outcome<()> {
        match self.who(authorization)? {
            (_, Some(_)) => Ok(()),
            (name, None) => Err(Status::new(
                403,
                "Forbidden",
                format!("forbidden: User {name:?} cannot get path {path:?}"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::resources::{SERVICES, SLICES};

    fn target(resource: usize, namespace: Option<&str>, name: Option<&str>) -> Target {
        Target {
            id: resource,
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            subresource: None,
        }
    }

    #[test]
    fn a_role_allows_what_its_rules_name() {
        let role = json!({"rules": [
            {"apiGroups": [""], "resources": ["services", "nodes"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list"]},
        ]});
        let mut users = Users::default();
        users.set(
            "t",
            "system:serviceaccount:kube-system:fairlead",
            Access::rules(&role),
        );
        let asks = |verb, target| users.check(Some("Bearer t"), verb, &target);
        assert!(asks(Verb::Watch, target(SERVICES, None, None)).is_ok());
        assert!(asks(Verb::List, target(SLICES, None, None)).is_ok());
        let error = asks(Verb::Watch, target(SLICES, None, None)).unwrap_err();
        assert_eq!(
            error.message,
            "endpointslices.discovery.k8s.io is forbidden: User \"system:serviceaccount:kube-system:fairlead\" cannot \
             watch resource \"endpointslices\" in API group \"discovery.k8s.io\" at the cluster scope"
        );
        let error = asks(Verb::Get, target(SERVICES, Some("a"), Some("x"))).unwrap_err();
        assert_eq!(
            error.message,
            "services \"x\" is forbidden: User \"system:serviceaccount:kube-system:fairlead\" cannot get resource \
             \"services\" in API group \"\" in the namespace \"a\""
        );
    }

    #[test]
    fn unknown_tokens_are_unauthorized_and_no_token_is_anonymous() {
        let mut users = Users::default();
        users.set("t", "admin", Access::everything().without("list", "services"));
        let services = target(SERVICES, None, None);
        assert_eq!(
            users
                .check(Some("Bearer x"), Verb::List, &services)
                .unwrap_err()
                .code,
            401
        );
        assert_eq!(
            users
                .check(Some("Basic t"), Verb::List, &services)
                .unwrap_err()
                .code,
            401
        );
        assert_eq!(users.check(None, Verb::List, &services).unwrap_err().code, 403);
        assert_eq!(
            users
                .check(Some("Bearer t"), Verb::List, &services)
                .unwrap_err()
                .code,
            403
        );
        assert!(users.check(Some("Bearer t"), Verb::Get, &services).is_ok());
        assert_eq!(users.check_path(None, "/apis").unwrap_err().code, 403);
        users.remove("t");
        assert_eq!(
            users
                .check(Some("Bearer t"), Verb::Get, &services)
                .unwrap_err()
                .code,
            401
        );
    }
}
