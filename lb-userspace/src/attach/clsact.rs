//! Filters on the clsact qdisc, for kernels before 6.6. The kernel keeps a filter as long as its device.
//!
//! Nothing of a filter can be pinned, so folders of the pin folder note where filters are and which qdiscs are ours:
//! `filters/<device>` and `qdiscs/<device>`, both empty.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType, TcError,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact, qdisc_detach_program},
};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::tc::TcHandle as Handle;

use super::{
    AttachError,
    link::{Outcome, escape, unescape},
};
use crate::{load::TC_PROGRAMS, pins::PinFolder, sys::AttachType};

/// Priority of our filters: the first that the kernel runs.
const PRIORITY: u16 = 1;
/// Handle of our filters: by it they are found again ("FL" in ASCII).
const HANDLE: TcHandle = TcHandle::new(0, 0x464c);

fn tc_type(direction: AttachType) -> TcAttachType {
    if direction == AttachType::TcxEgress {
        TcAttachType::Egress
    } else {
        TcAttachType::Ingress
    }
}

/// Where filters of ours are, and which qdiscs were made for them.
#[derive(Debug)]
pub(super) struct Marks {
    filters: PathBuf,
    qdiscs: PathBuf,
}

impl Marks {
    pub(super) fn new(pins: &PinFolder) -> Self {
        Self {
            filters: pins.filters(),
            qdiscs: pins.qdiscs(),
        }
    }

    /// Attaches `classifier`, in place of an earlier filter of ours if there is one.
    pub(super) fn attach(
        &self,
        classifier: &mut SchedClassifier,
        program: &'static str,
        device: &str,
        direction: AttachType,
    ) -> Result<Outcome, AttachError> {
        let failed = |error: io::Error| AttachError::of_device(program, device, error);
        match qdisc_add_clsact(device) {
            Ok(()) => mark(&self.qdiscs, device)?,
            Err(error) if is_already_there(&error) => {}
            Err(error) => return Err(failed(kernel_error(ProgramError::TcError(error)))),
        }
        // Before there is a filter: one without its mark would never be found again.
        mark(&self.filters, device)?;
        let direction = tc_type(direction);
        let fresh = NlOptions {
            priority: PRIORITY,
            handle: HANDLE,
            ..NlOptions::default()
        };
        let (attached, outcome) =
            match classifier.attach_with_options(device, direction, TcAttachOptions::Netlink(fresh)) {
                Err(ProgramError::TcError(error)) if is_already_there(&error) => {
                    let there = SchedClassifierLink::attached(device, direction, PRIORITY, HANDLE, None);
                    let link = there.map_err(failed)?;
                    (classifier.attach_to_link(link), Outcome::Updated)
                }
                other => (other, Outcome::Created),
            };
        let link = attached
            .and_then(|id| classifier.take_link(id))
            .map_err(|error| failed(kernel_error(error)))?;
        // Dropping the link would remove the filter, which is to outlive the agent.
        std::mem::forget(link);
        Ok(outcome)
    }

    /// The devices that filters of ours were attached to.
    pub(super) fn devices(&self) -> Vec<String> {
        marked(&self.filters)
    }

    /// Whether filters of ours were attached to a device.
    pub(super) fn has(&self, device: &str) -> bool {
        self.filters.join(escape(device)).exists()
    }

    /// Forgets that there are filters on a device.
    pub(super) fn forget(&self, device: &str) -> Result<(), AttachError> {
        unmark(&self.filters, device)
    }

    /// Takes note of the new name of a device.
    pub(super) fn rename(&self, old: &str, new: &str) -> Result<(), AttachError> {
        for folder in [&self.filters, &self.qdiscs] {
            if folder.join(escape(old)).exists() {
                mark(folder, new)?;
                unmark(folder, old)?;
            }
        }
        Ok(())
    }
}

/// The devices with filters of ours, by the marks in the folder `filters`.
pub fn list_filtered_devices(filters: &Path) -> Vec<String> {
    marked(filters)
}

fn mark(folder: &Path, device: &str) -> Result<(), AttachError> {
    let path = folder.join(escape(device));
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(AttachError::Pin {
            action: "make the folder",
            path,
            source: error,
        }),
        _ => Ok(()),
    }
}

fn unmark(folder: &Path, device: &str) -> Result<(), AttachError> {
    let path = folder.join(escape(device));
    match fs::remove_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(AttachError::Pin {
            action: "remove the folder",
            path,
            source: error,
        }),
        _ => Ok(()),
    }
}

fn marked(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Some(unescape(&entry.ok()?.file_name().into_string().ok()?)))
        .collect()
}

/// Whether the kernel says that a qdisc or filter is there.
fn is_already_there(error: &TcError) -> bool {
    match error {
        TcError::AlreadyAttached => true,
        TcError::NetlinkError(error) => error.raw_os_error() == Some(libc::EEXIST),
        _ => false,
    }
}

/// The error number, where aya has one.
fn kernel_error(error: ProgramError) -> io::Error {
    match error {
        ProgramError::TcError(TcError::NetlinkError(error)) => error
            .raw_os_error()
            .map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error),
        ProgramError::TcError(TcError::IoError(error)) => error,
        other => io::Error::other(other),
    }
}

/// Removes our filters of one direction from a device, by their names; whether any was there.
pub(super) fn detach(device: &str, direction: AttachType) -> bool {
    TC_PROGRAMS
        .into_iter()
        // One that is not there cannot be removed, which is what was wanted.
        .filter(|program| qdisc_detach_program(device, tc_type(direction), program).is_ok())
        .count()
        > 0
}

/// Removes our filters from a device; whether any was there.
pub fn remove_filters(device: &str) -> bool {
    let [egress, ingress] = super::DIRECTIONS;
    // Not `||`: both are to go.
    detach(device, ingress) | detach(device, egress)
}

/// Removes the clsact qdisc of a device, if nobody's filters are left on it; whether it did.
///
/// # Errors
///
/// What the kernel says. Must be called inside a tokio runtime.
pub async fn remove_empty_qdisc(ifindex: u32) -> io::Result<bool> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let removed = async {
        let index = ifindex.cast_signed();
        let mut filters = handle.traffic_filter(index);
        let (ingress, egress) = (filters.get().ingress(), filters.get().egress());
        if ingress.execute().try_next().await?.is_some() || egress.execute().try_next().await?.is_some() {
            return Ok(false);
        }
        let mut request = handle.qdisc().del(index);
        request.message_mut().header.parent = Handle::CLSACT;
        request.execute().await.map(|()| true)
    }
    .await;
    connection.abort();
    removed.map_err(|error: rtnetlink::Error| io::Error::other(error))
}
