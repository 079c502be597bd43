//! Reading a folder of manifests.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

/// The largest manifest that is read, in bytes. Ten thousand services with their slices take about 15 MB.
pub(super) const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;

/// What tells one version of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signature {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Signature {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Whether a file of that name is a manifest: `*.yaml`, `*.yml` or `*.json`, and not hidden (editors keep locks and
/// half-written copies under hidden names).
pub(super) fn is_manifest(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().map(OsStr::as_bytes);
    !name.as_bytes().starts_with(b".") && matches!(extension, Some(b"yaml" | b"yml" | b"json"))
}

/// The manifests of a folder, links followed. Subfolders are not entered. A link that leads nowhere is left out.
pub(super) fn list(folder: &Path) -> io::Result<BTreeMap<OsString, Signature>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !is_manifest(&entry.file_name()) {
            continue;
        }
        match fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_file() => {
                found.insert(entry.file_name(), Signature::of(&metadata));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// What reading a manifest gave.
pub(super) enum Content {
    /// The text, and the version that it is.
    Text(String, Signature),
    /// There is no such file.
    Gone,
    /// It cannot be read, or is no text.
    Unreadable(String),
}

/// Reads a manifest.
pub(super) fn read(path: &Path) -> Content {
    match try_read(path) {
        Ok((bytes, signature)) => match String::from_utf8(bytes) {
            Ok(text) => Content::Text(text, signature),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                Content::Unreadable(format!("byte {at} is no UTF-8; write the file as UTF-8 text"))
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Content::Gone,
        Err(error) => Content::Unreadable(format!("cannot be read: {error}")),
    }
}

fn try_read(path: &Path) -> io::Result<(Vec<u8>, Signature)> {
    let metadata = fs::metadata(path)?;
    // Looked at before opening: opening a FIFO would wait for a writer.
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let file = File::open(path)?;
    let signature = Signature::of(&file.metadata()?);
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!(
            "it is larger than {} MiB; split it",
            MAX_FILE_BYTES >> 20
        )));
    }
    Ok((bytes, signature))
}
