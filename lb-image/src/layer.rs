//! The one layer: a tar archive with the binary and what programs expect to find.

use std::io::Write as _;

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use crate::ENTRY_POINT;

/// A layer, packed, and the plain archive that its `diff_id` is the digest of.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) plain: Vec<u8>,
    pub(crate) packed: Vec<u8>,
}

/// Folders that things are mounted on: a root that is read-only cannot get them later.
const FOLDERS: [&str; 10] = [
    "dev/",
    "etc/",
    "etc/fairlead/",
    "proc/",
    "run/",
    "run/fairlead/",
    "run/fairlead/bpf/",
    "run/fairlead/cgroup/",
    "sys/",
    "tmp/",
];

/// The layer of a binary. Names are in order; every file is root's, from the beginning of time.
pub(crate) fn of_binary(binary: &[u8]) -> Result<Layer> {
    let mut archive = Builder::new(Vec::new());
    for folder in FOLDERS {
        let mode = if folder == "tmp/" { 0o1777 } else { 0o755 };
        append(&mut archive, folder, EntryType::Directory, mode, &[])?;
    }
    let name = ENTRY_POINT.trim_start_matches('/');
    append(&mut archive, name, EntryType::Regular, 0o755, binary)?;
    let plain = archive.into_inner()?;
    // No name and no time in the header; the operating system is "unknown".
    let mut packer = GzBuilder::new()
        .mtime(0)
        .operating_system(255)
        .write(Vec::new(), Compression::best());
    packer.write_all(&plain)?;
    let packed = packer.finish()?;
    Ok(Layer { plain, packed })
}

fn append(archive: &mut Builder<Vec<u8>>, name: &str, kind: EntryType, mode: u32, data: &[u8]) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(data.len() as u64);
    header.set_cksum();
    Ok(archive.append(&header, data)?)
}
