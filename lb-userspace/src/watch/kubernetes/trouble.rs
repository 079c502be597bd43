//! What can go wrong with the API server, told once, with the remedy.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kube::runtime::watcher;

use super::connection::Place;
use crate::{errors::chain, watch::Kind};

/// The same trouble is told again after this time.
const REPEAT: Duration = Duration::from_secs(300);

/// A kind of trouble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No connection, or one that broke.
    Unreachable(String),
    /// Who asks is not known to the server.
    Unauthorized(String),
    /// Who asks may not have this.
    Forbidden(String),
    /// The server does not have objects of this kind.
    Unknown,
    /// It is too busy, or broken.
    Server(String),
    /// It has not answered for too long.
    Silent,
}

impl Trouble {
    /// What a watcher's error means. None for what is the ordinary course of things: a version that is too old.
    pub(super) fn of(error: &watcher::Error) -> Option<Self> {
        use watcher::Error;
        match error {
            Error::InitialListFailed(error) | Error::WatchStartFailed(error) | Error::WatchFailed(error) => {
                Self::of_client(error)
            }
            Error::WatchError(status) => Self::of_status(status.code, &status.message),
            Error::NoResourceVersion => Some(Self::Server(error.to_string())),
        }
    }

    fn of_client(error: &kube::Error) -> Option<Self> {
        match error {
            kube::Error::Api(status) => Self::of_status(status.code, &status.message),
            // A stream that ends in the middle; the watcher goes on from where it was.
            kube::Error::ReadEvents(error) => Some(Self::Unreachable(chain(error))),
            kube::Error::Auth(error) => Some(Self::Unauthorized(chain(error))),
            error => Some(Self::Unreachable(chain(error))),
        }
    }

    fn of_status(code: u16, message: &str) -> Option<Self> {
        Some(match code {
            410 => return None,
            401 => Self::Unauthorized(message.to_owned()),
            403 => Self::Forbidden(message.to_owned()),
            404 => Self::Unknown,
            _ => Self::Server(format!("{code} {message}")),
        })
    }

    /// Whether it is the same trouble, whatever the words.
    fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// What to tell, with the remedy.
    pub(super) fn text(&self, kind: Kind, place: &Place) -> String {
        let urls = place.urls.join(", ");
        match self {
            Self::Unreachable(why) if place.is_cluster_ip => format!(
                "cannot reach the API server at {urls}: {why}. This is the cluster IP of the Service kubernetes, which \
                 nobody may serve on this node before the agent has listed the Services; give it the API server's own \
                 address with --master, or a --kubeconfig that names it"
            ),
            Self::Unreachable(why) => format!(
                "cannot reach the API server at {urls}: {why}; check that it runs, that its address and certificate \
                 authority are right, and that the network lets the node through"
            ),
            Self::Unauthorized(why) => format!(
                "the API server at {urls} does not accept the agent's credentials: {why}; renew the token or \
                 certificate of the kubeconfig, or of the pod's service account"
            ),
            Self::Forbidden(why) => format!(
                "the agent may not list and watch {}: {why}; grant it by RBAC, as deploy/base/rbac.yaml does",
                resource(kind)
            ),
            Self::Unknown => format!(
                "the API server at {urls} has no {}: it is too old, or the address leads elsewhere",
                resource(kind)
            ),
            Self::Server(why) => format!("the API server at {urls} cannot answer: {why}"),
            Self::Silent => {
                format!("the API server at {urls} has not answered; asking again on a new connection")
            }
        }
    }
}

fn resource(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices.discovery.k8s.io",
        Kind::Node => "nodes",
        Kind::ServiceCidr => "servicecidrs.networking.k8s.io",
    }
}

/// The troubles that there are, so that each is told once, and its end as well.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<Kind, (Trouble, Instant)>);

impl Troubles {
    /// There is trouble with a kind. Returns whether it is to be told: it is new, or it lasts.
    pub(super) fn apply(&mut self, kind: Kind, trouble: &Trouble, now: Instant) -> bool {
        // Trouble with the server as a whole is told once, not for each kind.
        let of_server = !matches!(trouble, Trouble::Forbidden(_) | Trouble::Unknown);
        let told = self
            .0
            .iter()
            .filter(|(other, _)| of_server || **other == kind)
            .any(|(_, (known, at))| known.is_like(trouble) && now.duration_since(*at) < REPEAT);
        let at = match self.0.get(&kind) {
            Some((known, at)) if told && known.is_like(trouble) => *at,
            _ => now,
        };
        self.0.insert(kind, (trouble.clone(), at));
        !told
    }

    /// A kind is watched again. Returns whether that ends trouble with it.
    pub(super) fn delete(&mut self, kind: Kind) -> bool {
        self.0.remove(&kind).is_some()
    }

    /// Whether there is any with a kind.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.0.contains_key(&kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(is_cluster_ip: bool) -> Place {
        Place {
            urls: vec!["https://192.0.2.1:6443/".into()],
            is_cluster_ip,
        }
    }

    #[test]
    fn every_trouble_names_the_server_or_the_resource_and_a_remedy() {
        for (trouble, is_cluster_ip, words) in [
            (
                Trouble::Unreachable("refused".into()),
                false,
                ["192.0.2.1", "check that it runs"],
            ),
            (
                Trouble::Unreachable("timeout".into()),
                true,
                ["cluster IP", "--master"],
            ),
            (
                Trouble::Unauthorized("Unauthorized".into()),
                false,
                ["credentials", "renew"],
            ),
            (
                Trouble::Forbidden("no".into()),
                false,
                ["list and watch services", "RBAC"],
            ),
            (Trouble::Server("503 busy".into()), false, ["192.0.2.1", "503"]),
            (Trouble::Silent, false, ["192.0.2.1", "again"]),
        ] {
            let text = trouble.text(Kind::Service, &place(is_cluster_ip));
            for word in words {
                assert!(text.contains(word), "{text}");
            }
        }
    }

    #[test]
    fn the_same_trouble_is_told_once_for_all_kinds_and_again_after_a_while() {
        let (mut troubles, now) = (Troubles::default(), Instant::now());
        let away = |why: &str| Trouble::Unreachable(why.into());
        assert!(troubles.apply(Kind::Service, &away("a"), now));
        assert!(!troubles.apply(Kind::Service, &away("b"), now));
        assert!(!troubles.apply(Kind::Node, &away("a"), now));
        assert!(troubles.apply(Kind::Node, &Trouble::Forbidden("x".into()), now));
        assert!(troubles.apply(Kind::EndpointSlice, &Trouble::Forbidden("x".into()), now));
        assert!(troubles.apply(Kind::Service, &away("a"), now + REPEAT));
        assert!(troubles.delete(Kind::Service) && !troubles.delete(Kind::Service));
        assert!(troubles.has(Kind::EndpointSlice) && !troubles.has(Kind::Service));
    }
}
