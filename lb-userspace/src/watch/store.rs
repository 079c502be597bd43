//! The objects of every file of a folder, and what a change of a file means for them.
//!
//! A file is in force as a whole: while a new version of it has a problem, the last good version stays. Until a file
//! has been good as a whole once, its valid objects are used. An object that stands in several places is taken from
//! the first (by file name, then by document), and the next one takes over when that one goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use super::{
    Event, Object, ObjectKey,
    parse::{Note, Parsed, Problem},
};

/// Where an object stands. Ordered as objects win over each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Name of the file in the folder.
    pub file: Arc<str>,
    /// Number of the document in the file, from 1.
    pub document: usize,
    /// Number of the object in the file, from 0: a document can be a list.
    ordinal: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {}", self.file, self.document)
    }
}

/// Something to tell the operator about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The file, or an object in it, is refused.
    Refused {
        /// The file.
        file: Arc<str>,
        /// What is wrong.
        problem: Problem,
        /// Whether a good version of the file stays in force; otherwise its valid objects are used.
        kept: bool,
    },
    /// The file cannot be read at all.
    Unreadable {
        /// The file.
        file: Arc<str>,
        /// Why.
        reason: String,
    },
    /// An object stands in two places.
    Duplicate {
        /// The object.
        object: ObjectKey,
        /// Where the one stands that is in force.
        used: Place,
        /// Where the other one stands.
        ignored: Place,
    },
    /// A document is valid but not used.
    Note {
        /// The file.
        file: Arc<str>,
        /// The note.
        note: Note,
    },
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused {
                file,
                problem,
                kept: true,
            } => {
                write!(
                    f,
                    "{file}, {problem}; fix the file: the last good version of it stays in force"
                )
            }
            Self::Refused {
                file,
                problem,
                kept: false,
            } => {
                write!(
                    f,
                    "{file}, {problem}; fix the file: until then only its valid objects are in force"
                )
            }
            Self::Unreadable { file, reason } => {
                write!(f, "{file}: {reason}; the last good version of it stays in force")
            }
            Self::Duplicate {
                object,
                used,
                ignored,
            } => {
                write!(
                    f,
                    "{ignored}: {object} stands in {used} as well, and that one is in force; remove one of them"
                )
            }
            Self::Note { file, note } => write!(f, "{file}, {note}"),
        }
    }
}

/// What a change of a file leads to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// What has changed, as Apply and Delete events.
    pub events: Vec<Event>,
    /// What there is to tell.
    pub reports: Vec<Report>,
}

#[derive(Debug, Default)]
struct File {
    keys: BTreeSet<ObjectKey>,
    /// Some version of the file had no problem.
    was_good: bool,
}

/// The objects of all files of a folder.
#[derive(Debug, Default)]
pub struct Store {
    files: BTreeMap<Arc<str>, File>,
    objects: BTreeMap<ObjectKey, BTreeMap<Place, Object>>,
}

impl Store {
    /// All objects that are in force.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values().filter_map(|places| places.values().next())
    }

    /// Whether there are files, and every one was good as a whole at some time.
    pub fn is_whole(&self) -> bool {
        !self.files.is_empty() && self.files.values().all(|file| file.was_good)
    }

    /// Names of the files that are known.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(|name| &**name)
    }

    /// A file is new or has changed.
    pub fn apply(&mut self, file: &str, parsed: Parsed) -> Outcome {
        let name: Arc<str> = file.into();
        let was_good = self.files.get(&name).is_some_and(|file| file.was_good);
        let good = parsed.problems.is_empty();
        let mut reports: Vec<_> = parsed
            .notes
            .into_iter()
            .map(|note| Report::Note {
                file: name.clone(),
                note,
            })
            .collect();
        reports.extend(parsed.problems.into_iter().map(|problem| Report::Refused {
            file: name.clone(),
            problem,
            kept: was_good,
        }));
        if !good && was_good {
            return Outcome {
                events: Vec::new(),
                reports,
            };
        }
        let objects = parsed.objects.into_iter().enumerate().map(|(ordinal, located)| {
            (
                Place {
                    file: name.clone(),
                    document: located.document,
                    ordinal,
                },
                located.object,
            )
        });
        let (file, events) = self.replace(&name, objects.collect(), good);
        reports.extend(self.duplicates(&name, &file.keys));
        self.files.insert(name, file);
        Outcome { events, reports }
    }

    /// A file is gone.
    pub fn delete(&mut self, file: &str) -> Outcome {
        let (_, events) = self.replace(&file.into(), Vec::new(), true);
        Outcome {
            events,
            reports: Vec::new(),
        }
    }

    /// Takes the file's former objects out and the new ones in, and tells what that changed. The caller puts the
    /// returned file back if it is still there.
    fn replace(
        &mut self,
        name: &Arc<str>,
        objects: Vec<(Place, Object)>,
        was_good: bool,
    ) -> (File, Vec<Event>) {
        let former = self.files.remove(name).unwrap_or_default();
        let keys: BTreeSet<ObjectKey> = objects.iter().map(|(_, object)| object.key()).collect();
        let touched: BTreeSet<&ObjectKey> = former.keys.union(&keys).collect();
        let before: Vec<Option<Object>> = touched.iter().map(|key| self.winner(key)).collect();
        for key in &former.keys {
            if let Some(places) = self.objects.get_mut(key) {
                places.retain(|place, _| place.file != *name);
            }
        }
        for (place, object) in objects {
            self.objects
                .entry(object.key())
                .or_default()
                .insert(place, object);
        }
        let mut events = Vec::new();
        for (key, before) in touched.into_iter().zip(before) {
            match (before, self.winner(key)) {
                (Some(object), None) => {
                    self.objects.remove(key);
                    events.push(Event::Delete(object));
                }
                (before, Some(after)) if before.as_ref() != Some(&after) => events.push(Event::Apply(after)),
                _ => {}
            }
        }
        (File { keys, was_good }, events)
    }

    fn winner(&self, key: &ObjectKey) -> Option<Object> {
        self.objects.get(key)?.values().next().cloned()
    }

    /// Objects among `keys` that stand in several places, one of them in the file.
    fn duplicates<'a>(
        &'a self,
        file: &'a Arc<str>,
        keys: &'a BTreeSet<ObjectKey>,
    ) -> impl Iterator<Item = Report> + 'a {
        keys.iter().flat_map(move |key| {
            let places: Vec<&Place> = self
                .objects
                .get(key)
                .into_iter()
                .flat_map(BTreeMap::keys)
                .collect();
            let of_file = places.first().is_some_and(|first| first.file == *file);
            let used = places.first().copied().cloned();
            let ignored: Vec<Place> = places
                .into_iter()
                .skip(1)
                .filter(|place| of_file || place.file == *file)
                .cloned()
                .collect();
            ignored.into_iter().filter_map(move |ignored| {
                Some(Report::Duplicate {
                    object: key.clone(),
                    used: used.clone()?,
                    ignored,
                })
            })
        })
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
