//! The folder as it was last read, and what has changed since.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{
    Event, Kind, ManifestsError,
    folder::{self, Content, Signature},
    follow::Follower,
    parse::parse,
    pending::Pending,
    store::{Outcome, Report, Store},
};

/// Changes are read when nothing has happened in the folder for this time …
const QUIET: Duration = Duration::from_millis(1);

/// … or after this time, whatever happens.
pub(super) const MOST_QUIET: Duration = Duration::from_millis(4);

/// How often a folder that is gone is looked for.
const MISSING_RETRY: Duration = Duration::from_millis(500);

/// The folder as it was last read.
pub(super) struct FolderReader {
    pub(super) folder: PathBuf,
    follower: Follower,
    pending: Pending,
    store: Store,
    signatures: BTreeMap<OsString, Signature>,
    /// The folder is gone, or an empty one has taken its place.
    missing: bool,
}

impl FolderReader {
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
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
    pub(super) fn read_all(&mut self) -> Result<(), ManifestsError> {
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
    pub(super) fn listing(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for kind in Kind::ALL {
            events.push(Event::Init(kind));
            let of_kind = self.store.objects().filter(|object| object.kind() == kind);
            events.extend(of_kind.cloned().map(Event::InitApply));
            events.push(Event::InitDone(kind));
        }
        events
    }

    /// Whether there are files, and every one was valid as a whole at some time.
    pub(super) fn is_whole(&self) -> bool {
        self.store.is_whole()
    }

    /// Waits until there is something to do. Returns false if the thread is to stop.
    pub(super) fn wait(&mut self, stop: &OwnedFd) -> io::Result<bool> {
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
    pub(super) fn work(&mut self) -> Vec<Event> {
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
