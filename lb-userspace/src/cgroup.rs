//! Finds the cgroup v2 hierarchy.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{StatFs, statfs};
use thiserror::Error;

/// `CGROUP2_SUPER_MAGIC` of `linux/magic.h`.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Why there is no cgroup to attach to.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// The list of mounts cannot be read.
    #[error("read /proc/mounts: {0}")]
    Mounts(#[source] io::Error),
    /// None is mounted.
    #[error(
        "no cgroup v2 is mounted; mount one (`mount -t cgroup2 none /sys/fs/cgroup`) or name its folder with --cgroup"
    )]
    None,
    /// The folder cannot be looked at.
    #[error("look at the cgroup {}: {source}; name the folder of a cgroup v2 with --cgroup", path.display())]
    Look {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The folder belongs to another file system, for instance to a hierarchy of cgroup v1.
    #[error("{} is no cgroup v2; name the folder of one with --cgroup", path.display())]
    NotCgroup2 {
        /// The folder.
        path: PathBuf,
    },
}

/// Makes sure that `path` is the folder of a cgroup v2, before anything is changed.
///
/// # Errors
///
/// [`CgroupError`] with the remedy.
pub fn check(path: &Path) -> Result<(), CgroupError> {
    let StatFs { f_type, .. } = statfs(path).map_err(|error| CgroupError::Look {
        path: path.to_owned(),
        source: error.into(),
    })?;
    if f_type.cast_unsigned() == CGROUP2_MAGIC && path.is_dir() {
        Ok(())
    } else {
        Err(CgroupError::NotCgroup2 {
            path: path.to_owned(),
        })
    }
}

/// The mount point of the cgroup v2 hierarchy: on hybrid hosts it is not `/sys/fs/cgroup` itself.
///
/// # Errors
///
/// [`CgroupError`] with the remedy.
pub fn find() -> Result<PathBuf, CgroupError> {
    let mounts = fs::read("/proc/mounts").map_err(CgroupError::Mounts)?;
    first_mount(&mounts, "cgroup2").ok_or(CgroupError::None)
}

/// The first mount point of a file system type in the text of `/proc/mounts`, where names may be any bytes.
fn first_mount(mounts: &[u8], kind: &str) -> Option<PathBuf> {
    mounts.split(|byte| *byte == b'\n').find_map(|line| {
        let mut words = line.split(|byte| *byte == b' ');
        let (_, point, found) = (words.next()?, words.next()?, words.next()?);
        (found == kind.as_bytes()).then(|| OsString::from_vec(unescape(point)).into())
    })
}

/// `/proc/mounts` writes blanks, tabs, newlines and backslashes as three octal digits (proc(5), fstab(5)).
fn unescape(mut rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some((first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_of_a_hybrid_host_is_found() {
        let mounts = b"tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(
            first_mount(mounts, "cgroup2"),
            Some("/sys/fs/cgroup/unified".into())
        );
    }

    #[test]
    fn the_first_of_several_is_taken_and_none_is_none() {
        assert_eq!(
            first_mount(b"a /x cgroup2 rw 0 0\nb /y cgroup2 rw 0 0\n", "cgroup2"),
            Some("/x".into())
        );
        assert_eq!(
            first_mount(b"cgroup2 /x tmpfs rw 0 0\nshort\n\n", "cgroup2"),
            None
        );
    }

    #[test]
    fn escaped_characters_are_read() {
        assert_eq!(unescape(br"/a\040b\134c\011d"), b"/a b\\c\td");
        assert_eq!(unescape(br"/a\04"), br"/a\04");
        assert_eq!(unescape(br"/a\999"), br"/a\999");
    }
}
