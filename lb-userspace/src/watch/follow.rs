//! Following a folder with inotify.
//!
//! rustix's inotify is used, and no crate above it: the agent has rustix anyway, and it is the plain events that tell a
//! closed file from one that is being written. Crates that look the same on every system hide that difference.

use std::{
    ffi::{CStr, OsStr, OsString},
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    time::Instant,
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};

use super::{
    folder::is_manifest,
    pending::{Happened, Pending},
};

/// Watches a folder, and the folder that it lies in: that is where a replacement of the whole folder shows.
pub(super) struct Follower {
    inotify: OwnedFd,
    watches: Watches,
}

struct Watches {
    folder: PathBuf,
    /// Watch of the folder, and the device and inode that it is on.
    inner: Option<(i32, Identity)>,
    /// Watch of the parent, likewise, and the name that the folder has in it.
    outer: Option<(i32, Identity)>,
    name: Option<OsString>,
}

type Identity = (u64, u64);

fn identity(path: &Path) -> io::Result<Identity> {
    std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Follower {
    /// Begins to watch. `folder` is absolute.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let name = folder.file_name().map(OsStr::to_owned);
        let watches = Watches {
            folder: folder.to_owned(),
            inner: None,
            outer: None,
            name,
        };
        let mut follower = Self { inotify, watches };
        follower.attach()?;
        Ok(follower)
    }

    /// Puts the watches on what the path leads to now. Returns whether that is another folder than before.
    pub(super) fn attach(&mut self) -> io::Result<bool> {
        let inside = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MODIFY
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        let outside = WatchFlags::CREATE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        let Self { inotify, watches } = self;
        if watches.name.is_some()
            && let Some(parent) = watches.folder.parent()
        {
            // First the parent: a replacement after this point is seen. A parent that may not be read costs
            // only that.
            let _ = watch(inotify, &mut watches.outer, parent, outside);
        }
        watch(inotify, &mut watches.inner, &watches.folder, inside)
    }

    /// Takes down all that has happened since the last call. Returns whether anything did.
    pub(super) fn drain(&mut self, pending: &mut Pending, now: Instant) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut any = false;
        loop {
            match reader.next() {
                Ok(event) => {
                    any = true;
                    let name = event.file_name().map(CStr::to_bytes).map(OsStr::from_bytes);
                    self.watches.event(pending, event.wd(), event.events(), name, now);
                }
                Err(Errno::AGAIN) => return Ok(any),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Follower {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl Watches {
    fn event(
        &mut self,
        pending: &mut Pending,
        wd: i32,
        flags: ReadFlags,
        name: Option<&OsStr>,
        now: Instant,
    ) {
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            pending.rescan = true;
            pending.moved = true;
            return;
        }
        let own = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED | ReadFlags::UNMOUNT;
        let is = |watch: Option<(i32, Identity)>| watch.is_some_and(|(known, _)| known == wd);
        if is(self.inner) {
            if flags.contains(ReadFlags::IGNORED) {
                // The watch is gone with what it watched, whose inode number may be used again.
                self.inner = None;
            }
            if flags.intersects(own) {
                pending.moved = true;
            } else if let Some(name) = name {
                self.file_event(pending, flags, name, now);
            }
        } else if is(self.outer) && (flags.intersects(own) || name == self.name.as_deref()) {
            if flags.contains(ReadFlags::IGNORED) {
                self.outer = None;
            }
            pending.moved = true;
        }
        // Anything else is the last words of a watch that was given up.
    }

    fn file_event(&self, pending: &mut Pending, flags: ReadFlags, name: &OsStr, now: Instant) {
        if !is_manifest(name) {
            // Kubernetes' volumes: the files are links through `..data`, which is swapped as a whole.
            pending.rescan |= name.as_bytes().starts_with(b"..");
            return;
        }
        let happened = if flags.intersects(ReadFlags::MOVED_FROM | ReadFlags::DELETE) {
            Happened::Vanished
        } else if flags.contains(ReadFlags::CREATE) {
            self.created(name)
        } else if flags.contains(ReadFlags::MODIFY) {
            Happened::Written
        } else if flags.contains(ReadFlags::ATTRIB) && pending.contains(name) {
            return;
        } else {
            Happened::Complete
        };
        pending.apply(name, happened, now);
    }

    /// A link is complete when it appears; a file that was created is about to be written.
    fn created(&self, name: &OsStr) -> Happened {
        match self.folder.join(name).symlink_metadata() {
            Ok(metadata) if metadata.is_file() && metadata.nlink() == 1 => Happened::Written,
            _ => Happened::Complete,
        }
    }
}

/// Moves a watch to what `path` leads to now. Returns whether that is something else than before.
fn watch(
    inotify: &OwnedFd,
    slot: &mut Option<(i32, Identity)>,
    path: &Path,
    flags: WatchFlags,
) -> io::Result<bool> {
    for _ in 0..ATTEMPTS {
        let wanted = identity(path)?;
        if slot.is_some_and(|(_, known)| known == wanted) {
            return Ok(false);
        }
        if let Some((old, _)) = slot.take() {
            // It fails if what it watched is gone, and then there is nothing to remove.
            let _ = inotify::remove_watch(inotify, old);
        }
        let wd = inotify::add_watch(inotify, path, flags | WatchFlags::ONLYDIR)?;
        *slot = Some((wd, wanted));
        // Between the first look and the watch the path may have come to lead elsewhere.
        if identity(path)? == wanted {
            return Ok(true);
        }
    }
    Err(io::Error::other(
        "the path leads to another folder each time it is looked at",
    ))
}

/// How often a watch is tried on a path that changes meanwhile.
const ATTEMPTS: usize = 8;
