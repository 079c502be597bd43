//! The system call `bpf()`: links, pins and what the kernel tells of them.
//!
//! Structures follow `union bpf_attr` and `struct bpf_link_info` of `include/uapi/linux/bpf.h`.

use std::{
    ffi::{CString, c_int, c_long},
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

const BPF_OBJ_PIN: c_int = 6;
const BPF_OBJ_GET: c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: c_int = 15;
const BPF_PROG_QUERY: c_int = 16;
const BPF_LINK_CREATE: c_int = 28;
const BPF_LINK_UPDATE: c_int = 29;
const BPF_LINK_DETACH: c_int = 34;

/// With no other program named: before all of them.
const BPF_F_BEFORE: u32 = 1 << 3;

/// Where a link attaches: `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AttachType {
    /// `connect()` of an IPv4 socket.
    CgroupInet4Connect = 10,
    /// `connect()` of an IPv6 socket.
    CgroupInet6Connect = 11,
    /// `sendmsg()` of an unconnected IPv4 UDP socket.
    CgroupUdp4Sendmsg = 14,
    /// `sendmsg()` of an unconnected IPv6 UDP socket.
    CgroupUdp6Sendmsg = 15,
    /// `recvmsg()` of an IPv4 UDP socket.
    CgroupUdp4Recvmsg = 19,
    /// `recvmsg()` of an IPv6 UDP socket.
    CgroupUdp6Recvmsg = 20,
    /// `getpeername()` of an IPv4 socket.
    CgroupInet4Getpeername = 29,
    /// `getpeername()` of an IPv6 socket.
    CgroupInet6Getpeername = 30,
    /// Into the node from a device, before the stack (links: kernel 5.9).
    Xdp = 37,
    /// Into the node from a device (kernel 6.6).
    TcxIngress = 46,
    /// Out of the node to a device (kernel 6.6).
    TcxEgress = 47,
}

/// What a link hangs on.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A network device of the calling thread's namespace, by index.
    Device(u32),
    /// The same for XDP, in generic mode or in the driver.
    Frames {
        /// Index of the device.
        ifindex: u32,
        /// Whether in generic mode.
        generic: bool,
    },
    /// A cgroup, by its open folder.
    Cgroup(BorrowedFd<'a>),
}

/// What the kernel tells of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Identifier of the link, unique on this kernel.
    pub id: u32,
    /// Identifier of the program that runs.
    pub program_id: u32,
    /// For a tcx or XDP link: the device, 0 when it is gone. For other links meaningless.
    pub ifindex: u32,
    /// For a cgroup link: the cgroup, 0 when it is gone. For other links meaningless.
    pub cgroup_id: u64,
}

pub(super) fn bpf<T>(command: c_int, attr: &mut T) -> io::Result<c_long> {
    // SAFETY: `attr` is a whole structure that begins like `union bpf_attr` for that command, and its length is told.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn bpf_fd<T>(command: c_int, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    let fd = c_int::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u64,
    expected_revision: u64,
}

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` of `linux/if_link.h`.
const XDP_FLAGS_MODE: [u32; 2] = [1 << 1, 1 << 2];

/// Attaches a program by a link.
///
/// Of several tcx programs on a device, ours is the first to see what comes in and the last to see what goes out: the
/// others then meet the real addresses, as the stack does.
///
/// # Errors
///
/// What the kernel says: ENODEV for a device that is gone, EINVAL where the kernel knows no such links. For XDP: EBUSY or
/// EEXIST if the device has another XDP program, EOPNOTSUPP if its driver has no native XDP.
pub fn link_create(
    program: BorrowedFd<'_>,
    target: Target<'_>,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    let (target, flags) = match target {
        Target::Device(ifindex) if attach_type == AttachType::TcxIngress => (ifindex, BPF_F_BEFORE),
        Target::Device(ifindex) => (ifindex, 0),
        Target::Frames { ifindex, generic } => (ifindex, XDP_FLAGS_MODE[usize::from(!generic)]),
        Target::Cgroup(folder) => (folder.as_raw_fd().cast_unsigned(), 0),
    };
    let mut attr = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target,
        attach_type: attach_type as u32,
        flags,
        ..LinkCreate::default()
    };
    bpf_fd(BPF_LINK_CREATE, &mut attr)
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Replaces the program of a link; no packet sees neither of them.
///
/// # Errors
///
/// ENOLINK if the link has lost its device or cgroup.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate {
        link_fd: link.as_raw_fd().cast_unsigned(),
        new_prog_fd: program.as_raw_fd().cast_unsigned(),
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link at once, whoever else holds it.
///
/// # Errors
///
/// What the kernel says; a link that hangs on nothing any more is no error to it.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = link.as_raw_fd().cast_unsigned();
    bpf(BPF_LINK_DETACH, &mut attr).map(drop)
}

#[repr(C)]
struct ObjPath {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Pins a link at `path`, which must lie on a bpffs.
///
/// # Errors
///
/// EEXIST if something is pinned there already.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjPath {
        pathname: path.as_ptr() as u64,
        bpf_fd: object.as_raw_fd().cast_unsigned(),
        file_flags: 0,
    };
    bpf(BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens what is pinned at `path`.
///
/// # Errors
///
/// ENOENT if nothing is.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjPath {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    bpf_fd(BPF_OBJ_GET, &mut attr)
}

#[repr(C)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    program_id: u32,
    pad: u32,
    /// tcx and XDP: device index, then for tcx attach type. cgroup: the 64-bit cgroup id.
    target: [u32; 2],
    rest: [u64; 8],
}

/// What the kernel tells of a link.
///
/// # Errors
///
/// What the kernel says.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = RawLinkInfo::default();
    let mut attr = InfoByFd {
        bpf_fd: link.as_raw_fd().cast_unsigned(),
        info_len: size_of::<RawLinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    let [low, high] = info.target.map(u32::to_ne_bytes);
    let cgroup_id = u64::from_ne_bytes([low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]]);
    Ok(LinkInfo {
        id: info.id,
        program_id: info.program_id,
        ifindex: info.target[0],
        cgroup_id,
    })
}

/// Most programs on one direction of a device: `BPF_MPROG_MAX` of the kernel's `bpf_mprog.h`.
const MOST_TCX_PROGRAMS: usize = 64;

#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Identifiers of the tcx links on a device of the calling thread's namespace, in the order in which they run. A
/// program that was attached without a link is left out.
///
/// # Errors
///
/// What the kernel says: ENODEV if there is no such device.
pub fn tcx_links(ifindex: u32, attach_type: AttachType) -> io::Result<Vec<u32>> {
    let mut programs = [0u32; MOST_TCX_PROGRAMS];
    let mut links = [0u32; MOST_TCX_PROGRAMS];
    let mut attr = ProgQuery {
        target: ifindex,
        attach_type: attach_type as u32,
        // Without a place for these the kernel tells of no links.
        prog_ids: programs.as_mut_ptr() as u64,
        count: MOST_TCX_PROGRAMS as u32,
        link_ids: links.as_mut_ptr() as u64,
        ..ProgQuery::default()
    };
    bpf(BPF_PROG_QUERY, &mut attr)?;
    let found = MOST_TCX_PROGRAMS.min(attr.count as usize);
    Ok(links[..found].iter().copied().filter(|id| *id != 0).collect())
}
