//! Filters on the clsact qdisc, for kernels before 6.6. The kernel keeps a filter as long as its device.

use std::io;

use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType, TcError,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact},
};

use super::AttachError;
use crate::sys::AttachType;

/// Priority of our filters: the first that the kernel runs.
const PRIORITY: u16 = 1;
/// Handle of our filters: by it they are found again ("FL" in ASCII).
const HANDLE: TcHandle = TcHandle::new(0, 0x464c);

fn tc_type(attach_type: AttachType) -> TcAttachType {
    if attach_type == AttachType::TcxEgress {
        TcAttachType::Egress
    } else {
        TcAttachType::Ingress
    }
}

/// Attaches `program`, in place of an earlier filter of ours if there is one.
pub(super) fn attach(
    classifier: &mut SchedClassifier,
    program: &'static str,
    device: &str,
    attach_type: AttachType,
) -> Result<(), AttachError> {
    let refused = |error: &dyn std::fmt::Display| AttachError::Refused {
        program,
        target: format!("device {device}"),
        source: io::Error::other(error.to_string()),
    };
    if let Err(error) = qdisc_add_clsact(device)
        && !is_already_there(&error)
    {
        return Err(refused(&error));
    }
    let direction = tc_type(attach_type);
    let fresh = NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        ..NlOptions::default()
    };
    let attached = match classifier.attach_with_options(device, direction, TcAttachOptions::Netlink(fresh)) {
        Err(ProgramError::TcError(error)) if is_already_there(&error) => {
            SchedClassifierLink::attached(device, direction, PRIORITY, HANDLE, None)
                .map_err(|error| refused(&error))
                .and_then(|link| classifier.attach_to_link(link).map_err(|error| refused(&error)))
        }
        other => other.map_err(|error| refused(&error)),
    }?;
    let link = classifier.take_link(attached).map_err(|error| refused(&error))?;
    // Dropping the link would remove the filter, which is to outlive the agent.
    std::mem::forget(link);
    Ok(())
}

/// Whether the kernel says that a qdisc or filter is there. aya passes on the kernel's words (extended
/// acknowledgements of `net/sched/sch_api.c` and `cls_api.c`) in place of the error number where there are any.
fn is_already_there(error: &TcError) -> bool {
    const WORDS: [&str; 3] = ["Exclusivity flag on", "Filter already exists", "File exists"];
    let text = error.to_string();
    matches!(error, TcError::AlreadyAttached) || WORDS.iter().any(|words| text.contains(words))
}

/// Removes our filters from a device; whether any was there.
pub(super) fn detach(device: &str) -> bool {
    use aya::programs::links::Link as _;
    let mut found = false;
    for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
        if let Ok(link) = SchedClassifierLink::attached(device, direction, PRIORITY, HANDLE, None) {
            // A filter that is not there cannot be removed, which is what was wanted.
            found |= link.detach().is_ok();
        }
    }
    found
}
