//! What can go wrong with the API server, told once, with the remedy.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::{Discriminant, discriminant},
    time::{Duration, Instant},
};

use kube::runtime::watcher;

use super::connection::Place;
use crate::{errors::chain, watch::Kind};

/// The same trouble is told again after this time.
const REPEAT: Duration = Duration::from_secs(300);
/// … and after this one, if it was over meanwhile: a server that comes and goes is not to fill the log.
const COMES_AGAIN: Duration = Duration::from_secs(60);

/// Whether a server need not have objects of a kind: ServiceCIDRs are new in Kubernetes 1.33. Where others are not found,
/// something else has answered, such as a proxy that reaches no API server.
pub(super) fn may_lack(kind: Kind) -> bool {
    kind == Kind::ServiceCidr
}

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

    /// What it concerns: one kind, or (`None`) the server as a whole, which is told once and not for each kind.
    fn scope(&self, kind: Kind) -> Option<Kind> {
        (!self.is_general()).then_some(kind)
    }

    /// Whether the server as a whole is concerned.
    pub(super) fn is_general(&self) -> bool {
        !matches!(self, Self::Forbidden(_) | Self::Unknown)
    }

    /// What to tell, with the remedy.
    pub(super) fn text(&self, kind: Kind, place: &Place) -> String {
        let urls = place.urls.join(", ");
        match self {
            Self::Unreachable(why) => {
                let remedy = match &place.cluster_ip {
                    Some(ip) => format!(
                        ". {ip} is a cluster IP, which nobody may serve on this node before the agent has listed the \
                         Services; give it the API server's own address with --master, or a --kubeconfig that names it"
                    ),
                    None => "; check that it runs, that its address and certificate authority are right, and that the \
                             network lets the node through"
                        .to_owned(),
                };
                format!("cannot reach the API server at {urls}: {why}{remedy}")
            }
            Self::Unauthorized(why) => format!(
                "the API server at {urls} does not accept the agent's credentials: {why}; renew the token or \
                 certificate of the kubeconfig, or of the pod's service account"
            ),
            Self::Forbidden(why) => format!(
                "the agent may not list and watch {}: {why}; grant it by RBAC, as deploy/base/rbac.yaml does",
                resource(kind)
            ),
            Self::Unknown if may_lack(kind) => format!(
                "the API server at {urls} has no {}: it is too old, or the address leads elsewhere",
                resource(kind)
            ),
            Self::Unknown => format!(
                "the API server at {urls} does not find {} (404); check that the address leads to an API server, and that \
                 what stands before it reaches one",
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
pub(super) struct Troubles {
    present: BTreeMap<Kind, Trouble>,
    told: Vec<Told>,
    /// Where trouble is the last word that was told.
    open: BTreeSet<Option<Kind>>,
}

/// A trouble that was told.
#[derive(Debug)]
struct Told {
    scope: Option<Kind>,
    trouble: Discriminant<Trouble>,
    at: Instant,
    /// It was over since.
    ended: bool,
}

impl Troubles {
    /// There is trouble with a kind. Returns whether it is to be told: it is new, or it lasts.
    pub(super) fn apply(&mut self, kind: Kind, trouble: &Trouble, now: Instant) -> bool {
        self.present.insert(kind, trouble.clone());
        self.mark_ended();
        let (scope, like) = (trouble.scope(kind), discriminant(trouble));
        let before = self
            .told
            .iter()
            .position(|told| told.scope == scope && told.trouble == like);
        if let Some(before) = before {
            let told = &self.told[before];
            let quiet = if told.ended { COMES_AGAIN } else { REPEAT };
            if now.duration_since(told.at) < quiet {
                return false;
            }
            self.told.swap_remove(before);
        }
        self.told.push(Told {
            scope,
            trouble: like,
            at: now,
            ended: false,
        });
        self.open.insert(scope);
        true
    }

    /// A kind is watched again. Returns the trouble that was told and is over by that.
    pub(super) fn delete(&mut self, kind: Kind) -> Option<Trouble> {
        let trouble = self.present.remove(&kind)?;
        self.mark_ended();
        let scope = trouble.scope(kind);
        let lasts = self
            .present
            .iter()
            .any(|(kind, trouble)| trouble.scope(*kind) == scope);
        (!lasts && self.open.remove(&scope)).then_some(trouble)
    }

    fn mark_ended(&mut self) {
        for told in &mut self.told {
            let is_it = |(kind, trouble): (&Kind, &Trouble)| {
                trouble.scope(*kind) == told.scope && discriminant(trouble) == told.trouble
            };
            told.ended |= !self.present.iter().any(is_it);
        }
    }

    /// Whether there is any with a kind.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.present.contains_key(&kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(cluster_ip: Option<&str>) -> Place {
        Place {
            urls: vec!["https://192.0.2.1:6443/".into()],
            cluster_ip: cluster_ip.map(str::to_owned),
        }
    }

    #[test]
    fn every_trouble_names_the_server_or_the_resource_and_a_remedy() {
        for (trouble, cluster_ip, words) in [
            (
                Trouble::Unreachable("refused".into()),
                None,
                ["192.0.2.1", "check that it runs"],
            ),
            (
                Trouble::Unreachable("timeout".into()),
                Some("10.96.0.1"),
                ["10.96.0.1 is a cluster IP", "--master"],
            ),
            (
                Trouble::Unauthorized("Unauthorized".into()),
                None,
                ["credentials", "renew"],
            ),
            (
                Trouble::Forbidden("no".into()),
                None,
                ["list and watch services", "RBAC"],
            ),
            (Trouble::Server("503 busy".into()), None, ["192.0.2.1", "503"]),
            (
                Trouble::Unknown,
                None,
                ["services (404)", "what stands before it"],
            ),
            (Trouble::Silent, None, ["192.0.2.1", "again"]),
        ] {
            let text = trouble.text(Kind::Service, &place(cluster_ip));
            for word in words {
                assert!(text.contains(word), "{text}");
            }
        }
    }

    fn away(why: &str) -> Trouble {
        Trouble::Unreachable(why.into())
    }

    #[test]
    fn the_same_trouble_is_told_once_for_all_kinds_and_again_after_a_while() {
        let (mut troubles, now) = (Troubles::default(), Instant::now());
        let forbidden = Trouble::Forbidden("x".into());
        assert!(troubles.apply(Kind::Service, &away("a"), now));
        assert!(!troubles.apply(Kind::Service, &away("b"), now));
        assert!(!troubles.apply(Kind::Node, &away("a"), now));
        assert!(troubles.apply(Kind::Node, &forbidden, now));
        assert!(troubles.apply(Kind::EndpointSlice, &forbidden, now));
        assert!(!troubles.apply(Kind::Service, &away("a"), now + REPEAT - COMES_AGAIN));
        assert!(troubles.apply(Kind::Service, &away("a"), now + REPEAT));
        assert_eq!(troubles.delete(Kind::Service), Some(away("a")));
        assert_eq!(troubles.delete(Kind::Service), None);
        assert!(troubles.has(Kind::EndpointSlice) && !troubles.has(Kind::Service));
        assert_eq!(troubles.delete(Kind::Node), Some(forbidden));
    }

    #[test]
    fn the_end_is_told_once_when_no_kind_has_trouble_with_the_server_any_more() {
        let (mut troubles, now) = (Troubles::default(), Instant::now());
        let broken = Trouble::Server("503".into());
        assert!(troubles.apply(Kind::Service, &away("a"), now));
        assert!(!troubles.apply(Kind::Node, &away("a"), now));
        assert!(troubles.apply(Kind::Service, &broken, now), "it has changed");
        assert_eq!(troubles.delete(Kind::Node), None);
        assert_eq!(troubles.delete(Kind::Service), Some(broken));
    }

    #[test]
    fn trouble_that_comes_and_goes_is_told_once_a_minute() {
        let (mut troubles, begin) = (Troubles::default(), Instant::now());
        let (mut told, mut ended) = (0, 0);
        for second in 0..600 {
            let now = begin + Duration::from_secs(second);
            told += u32::from(troubles.apply(Kind::Service, &away("a"), now));
            if second % 2 == 1 {
                ended += u32::from(troubles.delete(Kind::Service).is_some());
            }
        }
        assert_eq!((told, ended), (10, 10));
        // It stays now: that is told when the minute is over, and not later.
        let (last, end) = (begin + Duration::from_secs(600), Some(away("a")));
        assert!(troubles.apply(Kind::Service, &away("a"), last));
        assert_eq!(troubles.delete(Kind::Service), end);
        assert!(!troubles.apply(Kind::Service, &away("a"), last + COMES_AGAIN / 2));
        assert!(troubles.apply(Kind::Service, &away("a"), last + COMES_AGAIN));
        assert_eq!(troubles.delete(Kind::Service), end);
    }
}
