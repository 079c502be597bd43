//! Which files are to be read again, and when.
//!
//! A file is not read while somebody writes it: between truncation and the last write it would be valid YAML with
//! objects missing, and they would be deleted. So a write waits for the writer to close the file, and a file that
//! vanished waits a moment for an editor to put a new one in its place.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    time::{Duration, Instant},
};

/// How long a file that vanished may take to come back. Editors that save by renaming the old file away create the
/// new one in the next system call.
pub(super) const VANISH_GRACE: Duration = Duration::from_millis(5);

/// After that time without another write a file is read although its writer keeps it open.
pub(super) const WRITER_PATIENCE: Duration = Duration::from_secs(1);

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// It is complete: written and closed, or moved or linked here.
    Complete,
    /// Somebody writes it, and will close it.
    Written,
    /// It was deleted or moved away.
    Vanished,
}

/// Files to read again, each with the time from which on it may be read.
#[derive(Debug, Default)]
pub(super) struct Pending {
    due: BTreeMap<OsString, Instant>,
    /// All files are to be compared with what is known of them.
    pub(super) rescan: bool,
    /// The folder's path may lead to another folder now.
    pub(super) moved: bool,
}

impl Pending {
    /// Takes down what happened to a file. The last event counts.
    pub(super) fn apply(&mut self, name: &OsStr, happened: Happened, now: Instant) {
        let wait = match happened {
            Happened::Complete => Duration::ZERO,
            Happened::Written => WRITER_PATIENCE,
            Happened::Vanished => VANISH_GRACE,
        };
        self.due.insert(name.to_owned(), now + wait);
    }

    /// Whether nothing happened to any file that has not been dealt with.
    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Whether something happened to the file that has not been dealt with.
    pub(super) fn contains(&self, name: &OsStr) -> bool {
        self.due.contains_key(name)
    }

    /// Takes out the files that may be read now.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<OsString> {
        self.due
            .extract_if(.., |_, due| *due <= now)
            .map(|(name, _)| name)
            .collect()
    }

    /// When there is something to do next.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        if self.moved {
            return Some(now);
        }
        // A rescan waits for those who write: a file that is not complete yet is no reason to believe that what it
        // holds is gone.
        self.due
            .values()
            .min()
            .copied()
            .or_else(|| self.rescan.then_some(now))
    }

    /// Takes out the order to compare all files, if nobody is writing.
    pub(super) fn take_rescan(&mut self) -> bool {
        self.due.is_empty() && std::mem::take(&mut self.rescan)
    }

    /// Forgets everything.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pending: &mut Pending, now: Instant) -> Vec<OsString> {
        pending.take_due(now)
    }

    #[test]
    fn a_file_that_is_being_written_waits_for_its_writer() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.apply("a.yaml".as_ref(), Happened::Complete, now);
        pending.apply("a.yaml".as_ref(), Happened::Written, now);
        assert!(names(&mut pending, now).is_empty());
        assert!(pending.contains("a.yaml".as_ref()));
        pending.apply("a.yaml".as_ref(), Happened::Complete, now);
        assert_eq!(names(&mut pending, now), ["a.yaml"]);
        assert!(!pending.contains("a.yaml".as_ref()));
    }

    #[test]
    fn a_writer_that_never_closes_is_not_waited_for_longer_than_its_patience() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.apply("a.yaml".as_ref(), Happened::Written, now);
        assert_eq!(pending.next_due(now), Some(now + WRITER_PATIENCE));
        assert_eq!(names(&mut pending, now + WRITER_PATIENCE), ["a.yaml"]);
    }

    #[test]
    fn a_file_that_vanishes_and_comes_back_is_read_once() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.apply("a.yaml".as_ref(), Happened::Vanished, now);
        assert!(names(&mut pending, now).is_empty());
        pending.apply("a.yaml".as_ref(), Happened::Written, now);
        assert!(names(&mut pending, now + VANISH_GRACE).is_empty());
        pending.apply("a.yaml".as_ref(), Happened::Complete, now);
        assert_eq!(names(&mut pending, now), ["a.yaml"]);
        assert_eq!(pending.next_due(now), None);
    }
}
