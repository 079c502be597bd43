//! Links that are pinned: made, taken over, replaced.

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aya::programs::ProgramFd;

use super::AttachError;
use crate::{
    load::CGROUP_PROGRAMS,
    sys::{self, AttachType, LinkInfo, Target},
};

/// What became of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There was no link.
    Created,
    /// The link that was pinned runs the new program now.
    Updated,
    /// The link that was pinned had lost its device or cgroup, or belonged to another one.
    Replaced,
}

/// One direction of a device that is attached to by a pinned link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceLink {
    /// Name of the device when it was attached to.
    pub device: String,
    /// [`AttachType::TcxIngress`] or [`AttachType::TcxEgress`].
    pub attach_type: AttachType,
    /// What the kernel tells of the link, if it could be opened.
    pub info: Option<LinkInfo>,
}

impl DeviceLink {
    /// "ingress" or "egress".
    pub fn direction(&self) -> &'static str {
        direction(self.attach_type)
    }
}

/// A pinned link to the cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedLink {
    /// The program that it was made for.
    pub program: &'static str,
    /// What the kernel tells of the link, if it is there and could be opened.
    pub info: Option<LinkInfo>,
}

fn direction(attach_type: AttachType) -> &'static str {
    if attach_type == AttachType::TcxEgress {
        "egress"
    } else {
        "ingress"
    }
}

/// Where the link of a cgroup program is pinned.
pub(super) fn cgroup_pin(links: &Path, program: &str) -> PathBuf {
    links.join(format!("cgroup-{}", program.trim_start_matches("fl_")))
}

/// Where the link of a device is pinned. Device names hold no slash (kernel: `dev_valid_name`), but may hold dots,
/// which bpffs does not take in names.
pub(super) fn device_pin(links: &Path, device: &str, attach_type: AttachType) -> PathBuf {
    links.join(format!("tc-{}-{}", escape(device), direction(attach_type)))
}

/// bpffs refuses names with a dot (`bpf_lookup` in the kernel's `kernel/bpf/inode.c`): a dot becomes `%2e`, and a percent sign `%25`.
pub(super) fn escape(device: &str) -> String {
    device.replace('%', "%25").replace('.', "%2e")
}

pub(super) fn unescape(name: &str) -> String {
    name.replace("%2e", ".").replace("%25", "%")
}

fn info(path: &Path) -> Option<LinkInfo> {
    sys::open_pinned(path)
        .and_then(|link| sys::link_info(link.as_fd()))
        .ok()
}

/// The devices that links in `links` were made for, by the names of the pins.
pub fn list_devices(links: &Path) -> Vec<DeviceLink> {
    let Ok(entries) = fs::read_dir(links) else {
        return Vec::new();
    };
    let mut found: Vec<DeviceLink> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let rest = name.strip_prefix("tc-")?;
            let (device, attach_type) = match rest.strip_suffix("-ingress") {
                Some(device) => (device, AttachType::TcxIngress),
                None => (rest.strip_suffix("-egress")?, AttachType::TcxEgress),
            };
            Some(DeviceLink {
                device: unescape(device),
                attach_type,
                info: info(&entry.path()),
            })
        })
        .collect();
    found.sort_by(|a, b| (&a.device, a.direction()).cmp(&(&b.device, b.direction())));
    found
}

/// The devices that XDP links in `links` were made for, by the names of the pins.
pub(super) fn list_xdp_devices(links: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(links) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let (device, _mode) = name.strip_prefix("xdp-")?.rsplit_once('-')?;
            Some(unescape(device))
        })
        .collect()
}

/// The links to the cgroup.
pub fn list_cgroup_hooks(links: &Path) -> Vec<PinnedLink> {
    CGROUP_PROGRAMS
        .into_iter()
        .map(|(program, _)| PinnedLink {
            program,
            info: info(&cgroup_pin(links, program)),
        })
        .collect()
}

/// Attaches `program` by the link pinned at `path`: the one that is there if it hangs on the same target, else a new
/// one.
pub(super) fn attach_pinned(
    program: &ProgramFd,
    name: &'static str,
    target: Target<'_>,
    attach_type: AttachType,
    path: &Path,
    shown_target: &str,
) -> Result<Outcome, AttachError> {
    let refused = |source: io::Error| AttachError::from_kernel(name, target, shown_target, source);
    let mut outcome = Outcome::Created;
    match sys::open_pinned(path) {
        Ok(link) => {
            let info = sys::link_info(link.as_fd()).map_err(refused)?;
            if hangs_on(&info, target, attach_type) {
                match sys::link_update(link.as_fd(), program.as_fd()) {
                    Ok(()) => return Ok(Outcome::Updated),
                    // The target went away between the two calls.
                    Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                    Err(error) => return Err(refused(error)),
                }
            }
            outcome = Outcome::Replaced;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => {
            return Err(AttachError::Pin {
                action: "open the link",
                path: path.to_owned(),
                source,
            });
        }
    }
    let link = sys::link_create(program.as_fd(), target, attach_type).map_err(refused)?;
    // The new link is attached by now: the old one may go.
    unpin(path)?;
    sys::pin(link.as_fd(), path).map_err(|source| AttachError::Pin {
        action: "pin the link at",
        path: path.to_owned(),
        source,
    })?;
    Ok(outcome)
}

/// Gives the link of a device that was renamed its new pin. The link stays where it is, so no packet is missed.
///
/// Says whether there is such a link: the one under the old name may hang on another device, or be gone.
pub(super) fn rename(
    links: &Path,
    ifindex: u32,
    [old, new]: [&str; 2],
    attach_type: AttachType,
) -> Result<bool, AttachError> {
    let pins = [old, new].map(|device| device_pin(links, device, attach_type));
    rename_pin(Target::Device(ifindex), attach_type, &pins)
}

/// Renames a pin whose link hangs on `target`; says whether there is such a link.
pub(super) fn rename_pin(
    target: Target<'_>,
    attach_type: AttachType,
    [from, to]: &[PathBuf; 2],
) -> Result<bool, AttachError> {
    let Ok(link) = sys::open_pinned(from) else {
        return Ok(false);
    };
    let info = sys::link_info(link.as_fd()).ok();
    if !info.is_some_and(|info| hangs_on(&info, target, attach_type)) {
        // Nobody will ask for the old name again.
        if info.is_some_and(|info| info.ifindex == 0) {
            unpin(from)?;
        }
        return Ok(false);
    }
    // What had the new name before is gone, or gets a link under its own new name.
    detach(to)?;
    fs::rename(from, to).map_err(|source| AttachError::Pin {
        action: "rename to the device's new name the pin",
        path: from.clone(),
        source,
    })?;
    Ok(true)
}

/// Detaches a pinned link and removes its pin, if it is there.
///
/// Without its last pin a link would go as well, but only some time later (the kernel frees it from a work queue), and
/// until then the same program cannot be attached to the device again: EEXIST.
pub(super) fn detach(path: &Path) -> Result<(), AttachError> {
    if let Ok(link) = sys::open_pinned(path) {
        // A link whose device is gone cannot be detached, and need not be.
        let _ = sys::link_detach(link.as_fd());
    }
    unpin(path)
}

/// Whether the pinned link of one direction of a device is attached to it.
pub(super) fn is_attached(links: &Path, ifindex: u32, device: &str, attach_type: AttachType) -> bool {
    info(&device_pin(links, device, attach_type))
        .is_some_and(|info| hangs_on(&info, Target::Device(ifindex), attach_type))
}

/// Whether the link that is pinned there tells of that device.
pub(super) fn is_on(path: &Path, ifindex: u32) -> bool {
    info(path).is_some_and(|info| info.ifindex == ifindex)
}

/// Whether a link is attached to that target, and not to an earlier one of the same name.
pub(super) fn hangs_on(info: &LinkInfo, target: Target<'_>, attach_type: AttachType) -> bool {
    match target {
        // The index alone does not tell: a device of another network namespace may have the same.
        Target::Device(ifindex) => {
            info.ifindex == ifindex
                && sys::tcx_links(ifindex, attach_type).is_ok_and(|links| links.contains(&info.id))
        }
        // The kernel does not list XDP links. One whose device is gone says so.
        Target::Frames { ifindex, .. } => info.ifindex == ifindex,
        Target::Cgroup(folder) => cgroup_id(folder).is_ok_and(|id| info.cgroup_id == id),
    }
}

/// The identifier of a cgroup is the inode number of its folder.
fn cgroup_id(folder: BorrowedFd<'_>) -> io::Result<u64> {
    let file = fs::File::from(folder.try_clone_to_owned()?);
    Ok(file.metadata()?.ino())
}

/// Removes a pin, if it is there.
pub(super) fn unpin(path: &Path) -> Result<(), AttachError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(AttachError::Pin {
            action: "remove the pin",
            path: path.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_with_dots_and_percents_survive_the_pin() {
        for device in ["eth0", "eth0.100", "a%2e", "100%", "..."] {
            let pin = device_pin(Path::new("/x"), device, AttachType::TcxIngress);
            let name = pin.file_name().unwrap().to_str().unwrap();
            assert!(!name.contains('.'), "{name}");
            let device_again = unescape(
                name.strip_prefix("tc-")
                    .unwrap()
                    .strip_suffix("-ingress")
                    .unwrap(),
            );
            assert_eq!(device_again, device);
        }
    }
}
