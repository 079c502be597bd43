//! A folder of manifests as a source of events.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::{OsStr, OsString},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
};
use thiserror::Error;
use tokio::sync::mpsc;

use super::{
    Event, Kind,
    folder::{self, Content, Signature},
    follow::Follower,
    parse::parse,
    pending::Pending,
    store::{Outcome, Report, Store},
};

/// Changes that wait for the agent; more make the reading thread wait.
const QUEUE_CHANGES: usize = 16;

/// Changes are read when nothing has happened in the folder for this time …
const QUIET: Duration = Duration::from_millis(1);

/// … or after this time, whatever happens.
const MOST_QUIET: Duration = Duration::from_millis(4);

/// How often a folder that is gone is looked for.
const MISSING_RETRY: Duration = Duration::from_millis(500);

/// Why a folder of manifests cannot be used.
#[derive(Debug, Error)]
pub enum ManifestsError {
    /// The folder is not there, is no folder, or may not be read.
    #[error("cannot read the manifests folder {}: {source}; create it or name another with --manifests", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the folder cannot be read.
    #[error("cannot read the manifest {}: {reason}; put it right or move it out of the folder", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// The folder cannot be watched.
    #[error("cannot watch the manifests folder {}: {source}; fs.inotify.max_user_instances and max_user_watches may be too low", folder.display())]
    Watch {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The thread that follows the folder cannot be started.
    #[error("cannot start the thread that follows the manifests folder: {source}")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

/// Services and EndpointSlices from a folder of manifests, which is followed as long as this value lives.
///
/// All `*.yaml`, `*.yml` and `*.json` files of the folder count, hidden ones and subfolders do not. Links are followed
/// when they are replaced, not when the file that they lead to is changed in place. The removal of a file removes
/// its objects; if the folder itself goes, or an empty one takes its place, what it held stays in force until there
/// are manifests again.
///
/// Reading and parsing happen on a thread of their own. Dropping the value ends it.
///
/// What belongs together (a list, or what one look at the folder found) arrives together: after one event from
/// [`next`](Self::next) the rest of it is there for [`try_next`](Self::try_next).
#[derive(Debug)]
pub struct Manifests {
    changes: mpsc::Receiver<Vec<Event>>,
    events: VecDeque<Event>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Manifests {
    /// Reads the folder and begins to follow it. Blocks until everything is read.
    ///
    /// What is wrong inside a manifest is logged and does not fail the start.
    ///
    /// # Errors
    /// The folder or one of its files cannot be read, or the folder cannot be watched.
    pub fn start(folder: impl AsRef<Path>) -> Result<Self, ManifestsError> {
        let folder = folder.as_ref();
        let at_folder = |source| ManifestsError::Folder {
            folder: folder.to_owned(),
            source,
        };
        let folder = std::path::absolute(folder).map_err(at_folder)?;
        std::fs::read_dir(&folder).map_err(at_folder)?;
        let at_watch = |source| ManifestsError::Watch {
            folder: folder.clone(),
            source,
        };
        let mut reader = FolderReader::new(&folder).map_err(at_watch)?;
        reader.read_all()?;

        let stop =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| at_watch(e.into()))?;
        let stop = Arc::new(stop);
        let (sender, changes) = mpsc::channel(QUEUE_CHANGES);
        let thread = {
            let stop = stop.clone();
            std::thread::Builder::new()
                .name("manifests".into())
                .spawn(move || follow(reader, &sender, &stop))
        };
        let thread = thread.map_err(|source| ManifestsError::Thread { source })?;
        Ok(Self {
            changes,
            events: VecDeque::new(),
            stop,
            thread: Some(thread),
        })
    }

    /// The next event; `None` if the folder can no longer be followed. Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<Event> {
        while self.events.is_empty() {
            self.events = self.changes.recv().await?.into();
        }
        self.events.pop_front()
    }

    /// The next event, if one is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        while self.events.is_empty() {
            self.events = self.changes.try_recv().ok()?.into();
        }
        self.events.pop_front()
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        // The thread waits for one of two things: room in the channel, or something to read.
        self.changes.close();
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread: tells what is there, then what changes, until it is stopped or nobody listens.
fn follow(mut reader: FolderReader, sender: &mpsc::Sender<Vec<Event>>, stop: &OwnedFd) {
    let listening = |events: Vec<Event>| events.is_empty() || sender.blocking_send(events).is_ok();
    if !listening(reader.listing()) {
        return;
    }
    loop {
        match reader.wait(stop) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::error!(folder = %reader.folder.display(), "cannot follow the manifests folder any more: {error}");
                return;
            }
        }
        if !listening(reader.work()) {
            return;
        }
    }
}

/// The folder as it was last read.
struct FolderReader {
    folder: PathBuf,
    follower: Follower,
    pending: Pending,
    store: Store,
    signatures: BTreeMap<OsString, Signature>,
    /// The folder is gone, or an empty one has taken its place.
    missing: bool,
}

impl FolderReader {
    fn new(folder: &Path) -> io::Result<Self> {
        Ok(Self {
            folder: folder.to_owned(),
            follower: Follower::new(folder)?,
            pending: Pending::default(),
            store: Store::default(),
            signatures: BTreeMap::new(),
            missing: false,
        })
    }

    /// Reads every manifest for the first time.
    fn read_all(&mut self) -> Result<(), ManifestsError> {
        let listed = folder::list(&self.folder).map_err(|source| ManifestsError::Folder {
            folder: self.folder.clone(),
            source,
        })?;
        for name in listed.into_keys() {
            let file = self.folder.join(&name);
            match folder::read(&file) {
                Content::Text(text, signature) => {
                    self.signatures.insert(name.clone(), signature);
                    let outcome = self.store.apply(&name.to_string_lossy(), parse(&text));
                    outcome.reports.iter().for_each(log);
                }
                Content::Gone => {}
                Content::Unreadable(reason) => return Err(ManifestsError::File { file, reason }),
            }
        }
        Ok(())
    }

    /// Everything that is in force, as one complete list of each kind.
    fn listing(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for kind in Kind::ALL {
            events.push(Event::Init(kind));
            let of_kind = self.store.objects().filter(|object| object.kind() == kind);
            events.extend(of_kind.cloned().map(Event::InitApply));
            events.push(Event::InitDone(kind));
        }
        events
    }

    /// Waits until there is something to do. Returns false if the thread is to stop.
    fn wait(&mut self, stop: &OwnedFd) -> io::Result<bool> {
        let now = Instant::now();
        let due = if self.missing {
            Some(now + MISSING_RETRY)
        } else {
            self.pending.next_due(now)
        };
        if !wait_for(&self.follower, stop, due)? {
            return Ok(false);
        }
        let most = Instant::now() + MOST_QUIET;
        while self.follower.drain(&mut self.pending, Instant::now())? && Instant::now() < most {
            if !wait_for(&self.follower, stop, Some(most.min(Instant::now() + QUIET)))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads what has changed.
    fn work(&mut self) -> Vec<Event> {
        if !self.find_folder() {
            return Vec::new();
        }
        let now = Instant::now();
        let mut names = self.pending.take_due(now);
        let rescan = self.pending.take_rescan();
        if rescan {
            self.rescan(&mut names);
        }
        let read: Vec<_> = names
            .into_iter()
            .map(|name| (folder::read(&self.folder.join(&name)), name))
            .collect();
        // A file that was touched while it was read may have been read half: it is pending again by now.
        if let Err(error) = self.follower.drain(&mut self.pending, Instant::now()) {
            tracing::warn!("inotify: {error}");
        }
        if self.pending.moved || rescan && !self.pending.is_empty() {
            // What was found to be gone may be coming back this very moment.
            self.pending.rescan = true;
            return Vec::new();
        }
        let mut events = Vec::new();
        for (content, name) in read {
            if !self.pending.contains(&name) {
                let outcome = self.take(&name, content);
                outcome.reports.iter().for_each(log);
                events.extend(outcome.events);
            }
        }
        events
    }

    /// Makes sure that the watches are on the folder that the path leads to. Returns false if there is none.
    fn find_folder(&mut self) -> bool {
        let moved = std::mem::take(&mut self.pending.moved);
        if !self.missing && !moved {
            return true;
        }
        let found = self
            .follower
            .attach()
            .and_then(|other| Ok((other, folder::list(&self.folder)?)));
        match found {
            Ok((other, files)) if other || self.missing => {
                if other {
                    self.pending.reset();
                }
                // An empty folder in the place of the former one is about to be filled.
                let empty = files.is_empty() && !self.signatures.is_empty();
                self.pending.rescan = !empty;
                self.set_missing(empty, "is empty");
                !empty
            }
            Ok(_) => true,
            Err(error) => {
                self.set_missing(true, &format!("cannot be read: {error}"));
                false
            }
        }
    }

    fn set_missing(&mut self, missing: bool, why: &str) {
        if missing && !self.missing {
            let folder = self.folder.display();
            tracing::warn!(
                "the manifests folder {folder} {why}; what it held stays in force until it has manifests"
            );
        } else if !missing && self.missing {
            tracing::info!("the manifests folder {} is back", self.folder.display());
        }
        self.missing = missing;
    }

    /// Adds the files that differ from what was read, and that nobody is writing.
    fn rescan(&mut self, names: &mut Vec<OsString>) {
        let listed = match folder::list(&self.folder) {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(
                    "the manifests folder {} cannot be read: {error}",
                    self.folder.display()
                );
                self.missing = true;
                return;
            }
        };
        let changed = listed
            .iter()
            .filter(|(name, signature)| self.signatures.get(*name) != Some(*signature));
        let gone = self.signatures.keys().filter(|name| !listed.contains_key(*name));
        let found: Vec<_> = changed.map(|(name, _)| name).chain(gone).cloned().collect();
        for name in found {
            if !self.pending.contains(&name) && !names.contains(&name) {
                names.push(name);
            }
        }
    }

    fn take(&mut self, name: &OsStr, content: Content) -> Outcome {
        let file = name.to_string_lossy();
        match content {
            Content::Text(text, signature) => {
                self.signatures.insert(name.to_owned(), signature);
                self.store.apply(&file, parse(&text))
            }
            Content::Gone => {
                self.signatures.remove(name);
                self.store.delete(&file)
            }
            Content::Unreadable(reason) => {
                let report = Report::Unreadable {
                    file: (&*file).into(),
                    reason,
                };
                Outcome {
                    events: Vec::new(),
                    reports: vec![report],
                }
            }
        }
    }
}

/// Waits for an inotify event, the stop signal or the given time. Returns false at the stop signal.
fn wait_for(follower: &Follower, stop: &OwnedFd, due: Option<Instant>) -> io::Result<bool> {
    let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
    let timeout = timeout.map(|wait| Timespec {
        tv_sec: wait.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: wait.subsec_nanos().into(),
    });
    let mut fds = [
        PollFd::new(stop, PollFlags::IN),
        PollFd::new(follower, PollFlags::IN),
    ];
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => Ok(fds[0].revents().is_empty()),
        Err(Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn log(report: &Report) {
    match report {
        Report::Refused { .. } | Report::Unreadable { .. } => tracing::error!("{report}"),
        Report::Duplicate { .. } => tracing::warn!("{report}"),
        Report::Note { .. } => tracing::info!("{report}"),
    }
}

#[cfg(test)]
#[path = "manifests_tests.rs"]
mod tests;
