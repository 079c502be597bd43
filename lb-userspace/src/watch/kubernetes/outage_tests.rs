//! A server that fails for a while: what the watch makes of it, and when it takes the server for reached again. The real watch
//! on the real client, with a clock that leaps.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::body::Body;
use futures_util::stream;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use tokio::time::Instant;

use super::{
    ApiState, Object, Watch,
    testing::{Answer, Watched, endless, leaping, list, service, services, watched},
};
use crate::watch::Kind;

/// A watch lasts for up to three minutes; then it is begun anew, and meets what has become of the server.
const WATCH_ENDS: Duration = Duration::from_secs(200);
/// More than the time until something is tried again: kube waits up to half a minute, and we do.
const RETRIED: Duration = Duration::from_secs(90);
/// How often is looked.
const STEP: Duration = Duration::from_millis(100);

/// How a server answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    /// There is one Service, and nothing changes.
    Well,
    /// Nobody listens.
    Refuses,
    /// It begins to answer, and breaks off.
    BreaksOff,
    /// With this status.
    Says(u16),
}

/// The other side.
#[derive(Clone)]
struct Server(Arc<Mutex<State>>);

struct State {
    lists: Mood,
    watches: Mood,
    /// When it was asked, and whether for a watch.
    asked: Vec<(Instant, bool)>,
}

impl Server {
    fn new(lists: Mood, watches: Mood) -> Self {
        Self(Arc::new(Mutex::new(State {
            lists,
            watches,
            asked: Vec::new(),
        })))
    }

    fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.0.lock().unwrap())
    }

    fn set_watches(&self, mood: Mood) {
        self.state(|state| state.watches = mood);
    }

    /// How many lists were asked for.
    fn lists(&self) -> usize {
        self.state(|state| state.asked.iter().filter(|(_, is_watch)| !is_watch).count())
    }

    /// How many watches were.
    fn watches(&self) -> usize {
        self.state(|state| state.asked.len()) - self.lists()
    }

    fn answer(&self, query: &str) -> Answer {
        let is_watch = query.contains("watch=true");
        let mood = self.state(|state| {
            state.asked.push((Instant::now(), is_watch));
            if is_watch { state.watches } else { state.lists }
        });
        let mut answer = http::Response::new(match mood {
            Mood::Well if is_watch => endless(&[]),
            Mood::Well => list(7, &[service("web", 5)]),
            Mood::Refuses => return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()),
            Mood::BreaksOff => {
                let broken = io::Error::from(io::ErrorKind::ConnectionReset);
                Body::from_stream(stream::iter([Err::<String, _>(broken)]))
            }
            Mood::Says(_) => Body::from("no backend"),
        });
        if let Mood::Says(code) = mood {
            *answer.status_mut() = code.try_into().unwrap();
        }
        Ok(answer)
    }

    fn watched(&self) -> Watched {
        let server = self.clone();
        watched(services(), move |query| std::future::ready(server.answer(&query)))
    }
}

/// Lets time pass until that is so, for at most `limit`.
async fn until(watch: &mut Watched, limit: Duration, is_so: impl Fn(&Watched) -> bool) {
    let end = Instant::now() + limit;
    while !is_so(watch) {
        assert!(Instant::now() < end, "not so within {limit:?}");
        watch.pass(STEP).await;
    }
}

/// The watch fails once to start, and goes on.
async fn fails_once(server: &Server, watch: &mut Watched) {
    let before = server.watches();
    server.set_watches(Mood::Refuses);
    until(watch, WATCH_ENDS, |_| server.watches() > before).await;
    server.set_watches(Mood::Well);
    until(watch, RETRIED, |_| server.watches() > before + 1).await;
}

#[test]
fn a_watch_that_goes_on_without_a_change_ends_the_trouble() {
    leaping().block_on(async {
        let server = Server::new(Mood::Well, Mood::Well);
        let mut watch = server.watched();
        watch.pass(Duration::from_secs(1)).await;
        assert_eq!(*watch.state.borrow(), ApiState::Reached);
        server.set_watches(Mood::Refuses);
        until(&mut watch, WATCH_ENDS, Watched::is_away).await;
        server.set_watches(Mood::Well);
        until(&mut watch, RETRIED, |watch| !watch.is_away()).await;
        assert_eq!(*watch.state.borrow(), ApiState::Reached);
        assert_eq!(server.lists(), 1, "it went on from where it was");
    });
}

#[test]
fn watches_that_break_off_as_soon_as_they_begin_are_no_end_of_the_trouble() {
    leaping().block_on(async {
        let server = Server::new(Mood::Well, Mood::BreaksOff);
        let mut watch = server.watched();
        until(&mut watch, RETRIED, Watched::is_away).await;
        // Lists would end it as well; until then it stays.
        while server.lists() == 1 {
            assert!(watch.is_away());
            watch.pass(STEP).await;
        }
        // It comes to that: the watch was not taken for one that works.
        assert!((5..=6).contains(&server.watches()), "{}", server.watches());
    });
}

#[test]
fn failures_with_good_times_between_them_are_not_in_a_row() {
    leaping().block_on(async {
        let server = Server::new(Mood::Well, Mood::Well);
        let mut watch = server.watched();
        watch.pass(Duration::from_secs(1)).await;
        for _ in 0..10 {
            fails_once(&server, &mut watch).await;
            watch.pass(Duration::from_secs(30)).await;
        }
        assert_eq!(server.lists(), 1, "it need not be listed anew");
    });
}

#[test]
fn the_pause_before_a_new_list_is_short_again_after_good_times() {
    leaping().block_on(async {
        let server = Server::new(Mood::Well, Mood::Well);
        let mut watch = server.watched();
        watch.pass(Duration::from_secs(1)).await;
        for _ in 0..6 {
            let before = server.lists();
            server.set_watches(Mood::Refuses);
            until(&mut watch, WATCH_ENDS + RETRIED, |_| server.lists() > before).await;
            server.set_watches(Mood::Well);
            let pause = server.state(|state| {
                let list = state.asked.iter().rposition(|(_, is_watch)| !is_watch).unwrap();
                state.asked[list].0 - state.asked[list - 1].0
            });
            assert!(pause < Duration::from_secs(2), "{pause:?}");
            watch.pass(Duration::from_secs(600)).await;
        }
    });
}

#[test]
fn services_that_are_not_found_are_trouble_that_is_tried_again() {
    leaping().block_on(async {
        let server = Server::new(Mood::Says(404), Mood::Well);
        let mut watch = server.watched();
        watch.pass(Duration::from_secs(60)).await;
        assert!(watch.is_away());
        // Five attempts in a row, about a second apart, and a pause that grows.
        assert!((10..=40).contains(&server.lists()), "{}", server.lists());
        server.state(|state| state.lists = Mood::Well);
        until(&mut watch, RETRIED, |watch| !watch.is_away()).await;
    });
}

#[test]
fn who_asks_for_a_new_list_does_not_wait_for_the_end_of_a_pause() {
    leaping().block_on(async {
        let server = Server::new(Mood::Says(404), Mood::Well);
        let mut watch = server.watched();
        let asks_at_once = async |watch: &mut Watched, what: &str| {
            let before = server.lists();
            watch.relist.notify_one();
            watch.pass(Duration::from_millis(10)).await;
            assert!(server.lists() > before, "{what}");
        };
        // The pauses are long by now: kube's own, and those between its watchers.
        watch.pass(Duration::from_secs(120)).await;
        for _ in 0..10 {
            asks_at_once(&mut watch, "Services").await;
            watch.pass(Duration::from_secs(17)).await;
        }
    });
}

#[test]
fn a_server_without_service_cidrs_is_gone_on_with_until_somebody_asks() {
    leaping().block_on(async {
        let server = Server::new(Mood::Says(404), Mood::Well);
        let cidrs = Watch::<ServiceCIDR> {
            kind: Kind::ServiceCidr,
            labels: None,
            fields: None,
            read: |reader, cidr| Object::ServiceCidr(reader.service_cidr(cidr).into()),
        };
        let mut watch = {
            let server = server.clone();
            watched(cidrs, move |query| std::future::ready(server.answer(&query)))
        };
        watch.pass(Duration::from_secs(500)).await;
        assert_eq!(server.lists(), 1, "it may be old");
        assert!(!watch.is_away());
        watch.relist.notify_one();
        watch.pass(Duration::from_millis(10)).await;
        assert_eq!(server.lists(), 2);
        watch.pass(Duration::from_secs(700)).await;
        assert_eq!(server.lists(), 3, "it may have been upgraded");
    });
}
