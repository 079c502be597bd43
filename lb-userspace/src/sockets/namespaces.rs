//! Network namespaces by the numbers that the kernel gives them (`ip link` shows them as `link-netnsid`).
//!
//! The kernel tells the number of the namespace behind a veth, and the number of a namespace that one has a file of, but
//! gives no file for a number. So the files that may be it are tried: those that CNI runtimes and `ip netns` leave in
//! /run/netns, and those of processes.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    thread,
};

use rtnetlink::{
    packet_route::{
        RouteNetlinkMessage,
        nsid::{NsidAttribute, NsidMessage},
    },
    sys::protocols::NETLINK_ROUTE,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::netlink::Netlink;
use crate::sys;

/// Where files of network namespaces are kept.
const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// The cookies of the namespaces with these numbers, as far as they are found.
///
/// # Errors
///
/// If the kernel cannot be asked at all.
pub(super) fn cookies(wanted: &BTreeSet<i32>) -> io::Result<BTreeMap<i32, u64>> {
    let netlink = Netlink::open(NETLINK_ROUTE)?;
    let mut found = BTreeMap::new();
    let mut seen = HashSet::new();
    for path in named().into_iter().chain(of_processes()) {
        if found.len() == wanted.len() {
            break;
        }
        // Most processes share a few namespaces. One that ends meanwhile is none of a pod that begins.
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        if !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        // What is no namespace is an ordinary file that somebody left there.
        if let Ok(Some(number)) = number(&netlink, &file)
            && wanted.contains(&number)
            && let Ok(cookie) = cookie(&file)
        {
            found.insert(number, cookie);
        }
    }
    Ok(found)
}

fn named() -> Vec<PathBuf> {
    NAMED
        .iter()
        .flat_map(|folder| entries(Path::new(folder)))
        .collect()
}

/// Asked for only if [`named`] were not enough.
fn of_processes() -> impl Iterator<Item = PathBuf> {
    std::iter::once_with(|| entries(Path::new("/proc")))
        .flatten()
        .filter(|path| {
            let name = path.file_name().unwrap_or_default();
            name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
        })
        .map(|process| process.join("ns/net"))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).collect()
}

/// The number of the namespace in `file`; none if the calling thread's has none for it.
fn number(netlink: &Netlink, file: &File) -> io::Result<Option<i32>> {
    let mut question = NsidMessage::default();
    question
        .attributes
        .push(NsidAttribute::Fd(file.as_raw_fd().cast_unsigned()));
    let answers = netlink.ask(RouteNetlinkMessage::GetNsId(question), 0)?;
    Ok(answers.into_iter().find_map(|answer| {
        let RouteNetlinkMessage::NewNsId(message) = answer else {
            return None;
        };
        message
            .attributes
            .into_iter()
            .find_map(|attribute| match attribute {
                NsidAttribute::Id(number) if number >= 0 => Some(number),
                _ => None,
            })
    }))
}

/// The cookie of the namespace in `file`, asked by a thread inside it: only a socket there tells.
fn cookie(file: &File) -> io::Result<u64> {
    thread::scope(|scope| {
        let asked = scope.spawn(|| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            sys::netns_cookie()
        });
        asked
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that asks for a cookie panicked")))
    })
}
