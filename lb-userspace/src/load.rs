//! Loads the kernel programs, over the maps that are pinned already if there are any.

mod knobs;
mod layout;

use std::{fs, io, os::fd::AsFd as _, path::PathBuf};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::MapError,
    programs::{CgroupSockAddr, ProgramError, SchedClassifier, Xdp},
};
use lb_common::{
    abi::{XdpMode, map},
    datapath::{Hook, Role},
};
use thiserror::Error;
use tracing::{info, warn};

use self::layout::{Layout, check_pinned};
pub use self::{knobs::Knobs, layout::Sizes};
use crate::{
    cli::args::SocketLb,
    pins::PinFolder,
    probe::Features,
    sys::{self, AttachType},
};

/// Names of the tc programs. All programs begin with `fl_`, so that tools show whose they are.
pub const TC_PROGRAMS: [&str; 3] = [
    tc_program(Hook::Ingress(Role::Workload)),
    tc_program(Hook::Ingress(Role::Uplink)),
    tc_program(Hook::Egress),
];

/// The cgroup programs with their attach types.
pub const CGROUP_PROGRAMS: [(&str, AttachType); 8] = [
    ("fl_connect4", AttachType::CgroupInet4Connect),
    ("fl_connect6", AttachType::CgroupInet6Connect),
    ("fl_sendmsg4", AttachType::CgroupUdp4Sendmsg),
    ("fl_sendmsg6", AttachType::CgroupUdp6Sendmsg),
    ("fl_recvmsg4", AttachType::CgroupUdp4Recvmsg),
    ("fl_recvmsg6", AttachType::CgroupUdp6Recvmsg),
    ("fl_getpeername4", AttachType::CgroupInet4Getpeername),
    ("fl_getpeername6", AttachType::CgroupInet6Getpeername),
];

/// The name of the program for a hook; of those for XDP the one for native mode.
pub const fn tc_program(hook: Hook) -> &'static str {
    match hook {
        Hook::Ingress(Role::Workload) => "fl_ingress_workload",
        Hook::Ingress(Role::Uplink) => "fl_ingress_uplink",
        Hook::Egress => "fl_egress",
        Hook::Early => xdp_program(XdpMode::Native, true),
    }
}

/// The XDP programs: for frames that may come in pieces, and for those in one piece.
pub const XDP_PROGRAMS: [&str; 2] = ["fl_early", "fl_early_generic"];

/// The name of the XDP program for a mode; `pieces` says whether the kernel has frames in pieces for XDP.
pub const fn xdp_program(mode: XdpMode, pieces: bool) -> &'static str {
    match mode {
        XdpMode::Native if pieces => XDP_PROGRAMS[0],
        _ => XDP_PROGRAMS[1],
    }
}

/// The names of all programs.
fn programs() -> impl Iterator<Item = &'static str> {
    TC_PROGRAMS
        .into_iter()
        .chain(XDP_PROGRAMS)
        .chain(cgroup_programs())
}

/// The names of the cgroup programs.
fn cgroup_programs() -> impl Iterator<Item = &'static str> {
    CGROUP_PROGRAMS.into_iter().map(|(name, _)| name)
}

/// Why the programs could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A pinned map is not what this agent works with.
    #[error(
        "the pinned map {} has {what} {found}, this agent needs {needed}; run `fairlead cleanup` (which stops \
         forwarding) or start with the value that it was made with", path.display()
    )]
    Layout {
        /// The pin.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What the map has.
        found: String,
        /// What it should have.
        needed: String,
    },
    /// A pinned map cannot be looked at.
    #[error("open the pinned map {}: {source}", path.display())]
    OpenMap {
        /// The pin.
        path: PathBuf,
        /// What went wrong.
        source: MapError,
    },
    /// The object was refused.
    #[error("load the kernel programs: {0}")]
    Object(#[source] Box<EbpfError>),
    /// A program was refused.
    #[error("load the kernel program {name}: {}", last_lines(source))]
    Program {
        /// Name of the program.
        name: &'static str,
        /// What the verifier said.
        source: Box<ProgramError>,
    },
    /// The object is not of this build.
    #[error("the object has no program {name}: it does not belong to this binary")]
    NoProgram {
        /// Name of the program.
        name: &'static str,
    },
    /// A program could not be pinned.
    #[error("pin the kernel program at {}: {source}", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// The verifier's last words; the whole log is in the debug output.
fn last_lines(error: &ProgramError) -> String {
    const LINES: usize = 12;
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
            format!(
                "{io_error}; the verifier said: {}",
                lines[lines.len().saturating_sub(LINES)..].join(" | ")
            )
        }
        other => other.to_string(),
    }
}

/// Pins the programs, in place of those of an earlier agent; the pins of programs that were not loaded are removed. The
/// links hold what runs; these pins are for people and tools.
///
/// # Errors
///
/// [`LoadError::Pin`] names the pin.
pub fn pin_programs(bpf: &mut Ebpf, pins: &PinFolder, socket_lb: SocketLb) -> Result<(), LoadError> {
    for name in programs() {
        let path = pins.programs().join(name);
        if socket_lb == SocketLb::Off && cgroup_programs().any(|of_cgroup| of_cgroup == name) {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(LoadError::Pin { path, source });
                }
                _ => continue,
            }
        }
        let program = bpf.program_mut(name).ok_or(LoadError::NoProgram { name })?;
        if XDP_PROGRAMS.contains(&name) && program.fd().is_err() {
            // It was not wanted, or refused, and an earlier agent may have left its own.
            let _ = fs::remove_file(&path);
            continue;
        }
        let fd = program.fd().map_err(|source| LoadError::Program {
            name,
            source: Box::new(source),
        })?;
        let pinned = match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sys::pin(fd.as_fd(), &path),
        };
        pinned.map_err(|source| LoadError::Pin { path, source })?;
    }
    Ok(())
}

/// Loads programs and maps. Maps that are pinned in `pins` are taken over, the others are made and pinned there. What
/// runs is not touched: attaching the programs is another step.
///
/// # Errors
///
/// [`LoadError`]; maps that were newly pinned are unpinned again.
pub fn load(
    object: &[u8],
    pins: &PinFolder,
    sizes: &Sizes,
    features: &Features,
    knobs: &Knobs,
) -> Result<Ebpf, LoadError> {
    let layouts = sizes.layouts();
    let adopted = check_pinned(pins, &layouts)?;
    if !adopted.contains(&map::METERS) {
        // There is none, or one of another size; what runs goes on with that.
        let _ = fs::remove_file(pins.maps().join(map::METERS));
    }
    let result = load_over(object, pins, &layouts, features, knobs);
    match &result {
        Ok(_) => info!(
            adopted = adopted.len(),
            of = layouts.len(),
            "loaded the kernel programs"
        ),
        Err(_) => {
            for layout in layouts.iter().filter(|layout| !adopted.contains(&layout.name)) {
                // Only what this call may have made; a map that it did not get to has no pin.
                let _ = fs::remove_file(pins.maps().join(layout.name));
            }
        }
    }
    result
}

fn load_over(
    object: &[u8],
    pins: &PinFolder,
    layouts: &[Layout],
    features: &Features,
    knobs: &Knobs,
) -> Result<Ebpf, LoadError> {
    let csum_ipv6_flag: u64 = if features.csum_ipv6_flag { BPF_F_IPV6 } else { 0 };
    let set_retval = u8::from(features.set_retval);
    let sockets_of_pods = u8::from(knobs.socket_lb == SocketLb::All);
    let service_stats = u8::from(knobs.service_stats);
    let mut loader = EbpfLoader::new();
    loader
        .default_map_pin_directory(pins.maps())
        .override_global("NETNS_COOKIE", &features.netns_cookie, true)
        .override_global("CSUM_IPV6_FLAG", &csum_ipv6_flag, true)
        .override_global("HAS_SET_RETVAL", &set_retval, true)
        .override_global("SOCKETS_OF_PODS", &sockets_of_pods, true)
        .override_global("SERVICE_STATS", &service_stats, true)
        .override_global("SNAT_FIRST", &knobs.snat_ports.first, true)
        .override_global("SNAT_COUNT", &knobs.snat_ports.count, true)
        .override_global("TIMEOUT_SYN", &knobs.timeouts.syn, true)
        .override_global("TIMEOUT_ESTABLISHED", &knobs.timeouts.established, true)
        .override_global("TIMEOUT_CLOSING", &knobs.timeouts.closing, true)
        .override_global("TIMEOUT_CLOSED", &knobs.timeouts.closed, true)
        .override_global("TIMEOUT_UDP", &knobs.timeouts.udp, true)
        .override_global("TIMEOUT_UDP_STREAM", &knobs.timeouts.udp_stream, true)
        .override_global("AYA_LOG_LEVEL", &knobs.log_level, true);
    for layout in layouts {
        loader.map_max_entries(layout.name, layout.entries);
    }
    let mut bpf = loader
        .load(object)
        .map_err(|error| LoadError::Object(Box::new(error)))?;
    for name in TC_PROGRAMS {
        let program: &mut SchedClassifier = program(&mut bpf, name)?;
        program.load().map_err(|source| LoadError::Program {
            name,
            source: Box::new(source),
        })?;
    }
    for name in cgroup_programs().filter(|_| knobs.socket_lb != SocketLb::Off) {
        let program: &mut CgroupSockAddr = program(&mut bpf, name)?;
        program.load().map_err(|source| LoadError::Program {
            name,
            source: Box::new(source),
        })?;
    }
    for mode in knobs.xdp {
        load_xdp(&mut bpf, xdp_program(*mode, features.xdp_pieces))?;
    }
    Ok(bpf)
}

/// Loads an XDP program. That the kernel refuses it is no reason not to start: tc does the same work.
fn load_xdp(bpf: &mut Ebpf, name: &'static str) -> Result<(), LoadError> {
    let program: &mut Xdp = program(bpf, name)?;
    match program.load() {
        // For two modes, where the kernel has no frames in pieces.
        Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
        Err(source) => {
            let refused = LoadError::Program {
                name,
                source: Box::new(source),
            };
            warn!("{refused}; goes on without it");
        }
    }
    Ok(())
}

/// `BPF_F_IPV6` of `bpf_l4_csum_replace`.
const BPF_F_IPV6: u64 = 1 << 7;

/// A program of the object, by name and type.
///
/// # Errors
///
/// [`LoadError::NoProgram`] if there is none.
pub fn program<'a, T>(bpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, LoadError>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program>,
{
    let no_program = LoadError::NoProgram { name };
    match bpf.program_mut(name).map(<&mut T>::try_from) {
        Some(Ok(program)) => Ok(program),
        _ => Err(no_program),
    }
}
