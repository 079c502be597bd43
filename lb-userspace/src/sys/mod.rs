//! System calls that aya and rustix do not offer, behind safe functions. The only unsafe code of the agent.

#![expect(
    unsafe_code,
    reason = "raw system calls and memory shared with the kernel; each block says why it is sound"
)]

mod batch;
mod bpf;
mod mapped;

use std::{ffi::c_int, io, os::fd::AsRawFd as _};

pub use self::{
    batch::{Place, Steps, lookup_batch, update_batch},
    bpf::{
        AttachType, LinkInfo, Target, link_create, link_detach, link_info, link_update, open_pinned, pin,
        tcx_links,
    },
    mapped::{MappedArray, Shared},
};

/// Cookie of the calling thread's network namespace: `SO_NETNS_COOKIE` (kernel 5.14) of a socket in it.
///
/// # Errors
///
/// ENOPROTOOPT on older kernels.
pub fn netns_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: c_int = 71;
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `cookie`, which has that many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(cookie)
    }
}
