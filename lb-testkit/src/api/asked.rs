//! What each user has asked for, in the words of RBAC.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    request::{Target, Verb},
    server::ApiServer,
};

/// What a request asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// The verb, as rules name it.
    pub verb: &'static str,
    /// The API group; empty for the core.
    pub group: &'static str,
    /// The resource as rules name it (`services`, `services/status`), or the path of what is none (`/version`).
    pub resource: String,
    /// The namespace; `None` for all of them together, and for what is in none.
    pub namespace: Option<String>,
}

impl Asked {
    fn of(verb: Verb, target: &Target) -> Self {
        let resource = target.resource();
        Self {
            verb: verb.name(),
            group: resource.group,
            resource: match &target.subresource {
                Some(sub) => format!("{}/{sub}", resource.plural),
                None => resource.plural.to_owned(),
            },
            namespace: target.namespace.clone(),
        }
    }
}

/// What was asked so far, by the name of the user.
#[derive(Debug, Default)]
pub(crate) struct Book(BTreeMap<String, BTreeSet<Asked>>);

impl Book {
    /// Notes a request for a resource.
    pub(crate) fn note(&mut self, user: &str, verb: Verb, target: &Target) {
        self.insert(user, Asked::of(verb, target));
    }

    /// Notes a request for what is no resource.
    pub(crate) fn note_path(&mut self, user: &str, path: &str) {
        let asked = Asked {
            verb: Verb::Get.name(),
            group: "",
            resource: path.to_owned(),
            namespace: None,
        };
        self.insert(user, asked);
    }

    fn insert(&mut self, user: &str, asked: Asked) {
        self.0.entry(user.to_owned()).or_default().insert(asked);
    }
}

impl ApiServer {
    /// All that a user has asked for so far, whether or not it was allowed. Who brought no token that is known is
    /// `system:anonymous`.
    pub fn asked(&self, user: &str) -> BTreeSet<Asked> {
        self.shared
            .look(|state| state.asked.0.get(user).cloned().unwrap_or_default())
    }
}
