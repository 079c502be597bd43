//! A folder of manifests as a source of events.

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use rustix::event::{EventfdFlags, eventfd};
use thiserror::Error;
use tokio::sync::mpsc;

use super::{Event, reader::FolderReader};

/// Changes that wait for the agent; more make the reading thread wait.
const QUEUE_CHANGES: usize = 16;

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

/// What belongs together.
#[derive(Debug)]
struct Batch {
    events: Vec<Event>,
    /// There are files, and every one was valid as a whole at some time.
    whole: bool,
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
    changes: mpsc::Receiver<Batch>,
    events: VecDeque<Event>,
    whole: bool,
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
            whole: false,
            stop,
            thread: Some(thread),
        })
    }

    /// The next event; `None` if the folder can no longer be followed. Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<Event> {
        while self.events.is_empty() {
            let batch = self.changes.recv().await?;
            self.take(batch);
        }
        self.events.pop_front()
    }

    /// The next event, if one is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        while self.events.is_empty() {
            let batch = self.changes.try_recv().ok()?;
            self.take(batch);
        }
        self.events.pop_front()
    }

    fn take(&mut self, batch: Batch) {
        self.whole = batch.whole;
        self.events = batch.events.into();
    }

    /// Whether, as far as events were taken, there are manifests and every one has been valid as a whole at some time.
    /// Otherwise objects may be missing that were never seen.
    pub const fn is_whole(&self) -> bool {
        self.whole
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
fn follow(mut reader: FolderReader, sender: &mpsc::Sender<Batch>, stop: &OwnedFd) {
    let mut events = reader.listing();
    loop {
        let whole = reader.is_whole();
        if !events.is_empty() && sender.blocking_send(Batch { events, whole }).is_err() {
            return;
        }
        match reader.wait(stop) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::error!(folder = %reader.folder.display(), "cannot follow the manifests folder any more: {error}");
                return;
            }
        }
        events = reader.work();
        if events.is_empty() && !whole && reader.is_whole() {
            // No object has changed, but who waits for this is to hear of it.
            events = reader.listing();
        }
    }
}

#[cfg(test)]
#[path = "manifests_tests.rs"]
mod tests;
