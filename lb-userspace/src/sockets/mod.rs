//! What the socket hooks need besides programs: which network namespaces are those of pods, and what becomes of sockets
//! whose endpoint is gone.
//!
//! An unconnected UDP socket asks for an endpoint with each datagram. A connected one asked once, when it connected: its
//! packets go to the endpoint that it was given then, for as long as it lives. So when an endpoint stops serving, the
//! node's own connected UDP sockets that were sent to it are closed (`SOCK_DESTROY`). The process is told,
//! as it would be of a server that is gone (ECONNABORTED where it receives, EDESTADDRREQ where it sends), and connects
//! anew. TCP connections stay.
//!
//! All of it happens on a thread of its own: a look at all sockets or at all processes is slow beside a change of
//! endpoints.

mod diag;
mod lost;
mod namespaces;
mod netlink;
mod pods;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use aya::maps::MapError;
use thiserror::Error;
use tracing::debug;

use self::{lost::LostSockets, pods::Pods};
use crate::{cli::args::SocketLb, pins::PinFolder};

/// Why sockets cannot be looked after.
#[derive(Debug, Error)]
pub enum SocketsError {
    /// A pinned map cannot be used.
    #[error("use the pinned map {}: {source}", path.display())]
    Map {
        /// The pin.
        path: PathBuf,
        /// What went wrong.
        source: MapError,
    },
    /// There is no thread for it.
    #[error("start a thread that looks after sockets: {0}")]
    Thread(#[source] io::Error),
}

/// A second look follows the first after this time: a socket that was connecting during the first look, and asked before
/// its endpoint was gone, is found then.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// Network namespaces that are not found are looked for again after this time.
const RETRY: Duration = Duration::from_secs(1);

/// Looks after sockets.
#[derive(Debug)]
pub struct Sockets {
    tell: Sender<Word>,
    /// The pods that were told last; none if pods do not matter.
    pods: Option<BTreeMap<u32, i32>>,
}

/// What the thread is told.
#[derive(Debug)]
enum Word {
    EndpointsLeft,
    Pods(BTreeMap<u32, i32>),
}

impl Sockets {
    /// Notes in the kernel whose sockets are served, starts the thread, and has it look for sockets whose endpoint went
    /// while no agent ran. `own` is the cookie of the agent's network namespace.
    ///
    /// # Errors
    ///
    /// [`SocketsError`] if a pinned map is unusable or there is no thread.
    pub fn start(pins: &PinFolder, mode: SocketLb, own: u64) -> Result<Self, SocketsError> {
        let pods = (mode == SocketLb::All).then(BTreeMap::new);
        let worker = Worker {
            lost: LostSockets::open(pins)?,
            pods: Pods::open(pins, pods.is_some().then_some(own))?,
            second_look: None,
            retry: None,
        };
        let (tell, heard) = channel();
        thread::Builder::new()
            .name("sockets".to_owned())
            .spawn(move || worker.run(&heard))
            .map_err(SocketsError::Thread)?;
        let this = Self { tell, pods };
        this.endpoints_left();
        Ok(this)
    }

    /// Endpoints have stopped to serve.
    pub fn endpoints_left(&self) {
        self.say(Word::EndpointsLeft);
    }

    /// The network namespaces behind workload devices, by the devices' indexes, as the kernel numbers them for the
    /// agent's own. Told again, it costs nothing; and nothing at all where pods are not served by their sockets.
    pub fn follow_pods(&mut self, namespaces: BTreeMap<u32, i32>) {
        let Some(told) = &mut self.pods else { return };
        if *told != namespaces {
            told.clone_from(&namespaces);
            self.say(Word::Pods(namespaces));
        }
    }

    fn say(&self, word: Word) {
        // The thread ends only when this side is dropped; a panic there is in the log.
        let _ = self.tell.send(word);
    }
}

/// The thread's side.
struct Worker {
    lost: LostSockets,
    pods: Pods,
    second_look: Option<Instant>,
    retry: Option<Instant>,
}

impl Worker {
    fn run(mut self, heard: &Receiver<Word>) {
        loop {
            let due = [self.second_look, self.retry].into_iter().flatten().min();
            let word = match due {
                Some(due) => heard.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => heard.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match word {
                Ok(Word::EndpointsLeft) => {
                    self.lost.close();
                    self.second_look = Some(Instant::now() + SECOND_LOOK);
                }
                Ok(Word::Pods(namespaces)) => {
                    self.pods.follow(namespaces);
                    self.retry = Some(Instant::now());
                }
                Err(RecvTimeoutError::Timeout) => self.turn(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Does what is due.
    fn turn(&mut self) {
        let now = Instant::now();
        if self.second_look.is_some_and(|at| at <= now) {
            self.second_look = None;
            self.lost.close();
        }
        if self.retry.is_some_and(|at| at <= now) {
            let again = self.pods.look();
            debug!(again, "looked for pods' network namespaces");
            self.retry = again.then(|| now + RETRY);
        }
    }
}
