//! The calls of processes of the node and its pods: connect, sendmsg, recvmsg, getpeername.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_get_socket_cookie, bpf_set_retval},
    programs::SockAddrContext,
};
use lb_common::{
    datapath::{
        V4, V6,
        socket::{self, Ask, Caller, Destination},
    },
    verdict::{Action, Reason},
};

use crate::{globals, maps, routes, tables::Kernel};

/// The call goes on.
pub(crate) const ALLOW: i32 = 1;
/// The call fails, with EPERM unless another error was set.
const REFUSE: i32 = 0;
/// `ECONNREFUSED`, as helpers take it.
const ECONNREFUSED: i32 = -111;
/// How many bytes a call is counted with.
const NO_PACKET: u64 = 0;

/// The first three words of an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2).
const MAPPED: [u32; 3] = [0, 0, 0xffff_u32.to_be()];

/// A call on a socket that names or is told a peer's address.
pub(crate) struct Call {
    ctx: *mut bpf_sock_addr,
    caller: Caller,
}

impl Call {
    #[inline(always)]
    pub(crate) fn new(ctx: &SockAddrContext, caller: Caller) -> Self {
        Self {
            ctx: ctx.as_ptr().cast(),
            caller,
        }
    }

    /// What the call asks for, the peer being at `addr`: that of `connect()`, or of a datagram.
    #[inline(always)]
    fn ask<A>(&self, addr: A, connects: bool) -> Ask<A> {
        Ask {
            caller: self.caller,
            connects,
            connected: self.is_connected(),
            cookie: self.cookie(),
            addr,
            port: self.port(),
            proto: self.protocol(),
            now: routes::now(),
        }
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { bpf_get_socket_cookie(self.ctx.cast::<c_void>()) }
    }

    /// Whether the socket is connected. The kernel asks for each datagram of one that is connected to an IPv4 address in
    /// IPv6 form, as if it were not (`udpv6_sendmsg`).
    #[inline(always)]
    fn is_connected(&self) -> bool {
        /// `BPF_TCP_ESTABLISHED`; a connected UDP socket has that state too.
        const ESTABLISHED: u32 = 1;
        // SAFETY: as in `cookie`; the verifier lets nobody read through a pointer that may be null.
        unsafe {
            let socket = (*self.ctx).__bindgen_anon_1.sk;
            !socket.is_null() && (*socket).state == ESTABLISHED
        }
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        // SAFETY: as in `cookie`.
        unsafe { (*self.ctx).protocol as u8 }
    }

    #[inline(always)]
    fn port(&self) -> u16 {
        // SAFETY: as in `cookie`. The field holds the 16 bits as they stand in a packet.
        unsafe { (*self.ctx).user_port as u16 }
    }

    #[inline(always)]
    fn set_port(&self, port: u16) {
        // SAFETY: as in `cookie`; the field may be written.
        unsafe { (*self.ctx).user_port = port.into() };
    }

    #[inline(always)]
    fn addr4(&self) -> u32 {
        // SAFETY: as in `cookie`.
        unsafe { (*self.ctx).user_ip4 }
    }

    #[inline(always)]
    fn set_addr4(&self, addr: u32) {
        // SAFETY: as in `cookie`; the field may be written.
        unsafe { (*self.ctx).user_ip4 = addr };
    }

    #[inline(always)]
    fn addr6(&self) -> [u32; 4] {
        // SAFETY: as in `cookie`. Word by word: the verifier takes no wider access to the context.
        unsafe {
            let words = &raw const (*self.ctx).user_ip6;
            [
                (&raw const (*words)[0]).read_volatile(),
                (&raw const (*words)[1]).read_volatile(),
                (&raw const (*words)[2]).read_volatile(),
                (&raw const (*words)[3]).read_volatile(),
            ]
        }
    }

    #[inline(always)]
    fn set_addr6(&self, addr: [u32; 4]) {
        // SAFETY: as in `addr6`; the field may be written.
        unsafe {
            let words = &raw mut (*self.ctx).user_ip6;
            (&raw mut (*words)[0]).write_volatile(addr[0]);
            (&raw mut (*words)[1]).write_volatile(addr[1]);
            (&raw mut (*words)[2]).write_volatile(addr[2]);
            (&raw mut (*words)[3]).write_volatile(addr[3]);
        }
    }
}

/// A process connects a socket to an IPv4 peer.
#[inline(always)]
pub(crate) fn connect4(call: &Call) -> i32 {
    ask4(call, true)
}

/// A process sends to an IPv4 peer.
#[inline(always)]
pub(crate) fn send4(call: &Call) -> i32 {
    ask4(call, false)
}

/// A process connects a socket to an IPv6 peer, which may be an IPv4 one in disguise.
#[inline(always)]
pub(crate) fn connect6(call: &Call) -> i32 {
    ask6(call, true)
}

/// A process sends to an IPv6 peer, which may be an IPv4 one in disguise.
#[inline(always)]
pub(crate) fn send6(call: &Call) -> i32 {
    ask6(call, false)
}

#[inline(always)]
fn ask4(call: &Call, connects: bool) -> i32 {
    finish(ask_v4(call, call.addr4(), connects).map(|addr| call.set_addr4(addr)))
}

#[inline(always)]
fn ask6(call: &Call, connects: bool) -> i32 {
    let addr = call.addr6();
    if [addr[0], addr[1], addr[2]] == MAPPED {
        return finish(
            ask_v4(call, addr[3], connects)
                .map(|addr| call.set_addr6([MAPPED[0], MAPPED[1], MAPPED[2], addr])),
        );
    }
    finish(
        match socket::destination::<V6, _>(&Kernel, &call.ask(addr, connects)) {
            Destination::Unchanged(reason) => Err(reason),
            Destination::Endpoint { addr, port } => {
                call.set_port(port);
                call.set_addr6(addr);
                Ok(())
            }
        },
    )
}

/// The endpoint's address for an IPv4 peer; its port is set already.
#[inline(always)]
fn ask_v4(call: &Call, addr: u32, connects: bool) -> Result<u32, Reason> {
    match socket::destination::<V4, _>(&Kernel, &call.ask(addr, connects)) {
        Destination::Unchanged(reason) => Err(reason),
        Destination::Endpoint { addr, port } => {
            call.set_port(port);
            Ok(addr)
        }
    }
}

/// Counts the call and says whether it goes on.
#[inline(always)]
fn finish(asked: Result<(), Reason>) -> i32 {
    let reason = match asked {
        Ok(()) => Reason::SocketRewritten,
        Err(reason) => reason,
    };
    maps::count(reason, NO_PACKET);
    if !matches!(reason.action(), Action::Drop) {
        return ALLOW;
    }
    if globals::has_set_retval() {
        // SAFETY: takes a number only. The process sees what a service without endpoints looks like elsewhere.
        unsafe { bpf_set_retval(ECONNREFUSED) };
    }
    REFUSE
}

/// A process is told an IPv4 peer.
#[inline(always)]
pub(crate) fn show4(call: &Call) -> i32 {
    if let Some(peer) = socket::shown_peer::<V4, _>(&Kernel, call.cookie(), call.addr4(), call.port()) {
        call.set_addr4(peer.addr);
        call.set_port(peer.port);
        maps::count(Reason::SocketReplyRestored, NO_PACKET);
    }
    ALLOW
}

/// A process is told an IPv6 peer, which may be an IPv4 one in disguise.
#[inline(always)]
pub(crate) fn show6(call: &Call) -> i32 {
    let addr = call.addr6();
    if [addr[0], addr[1], addr[2]] == MAPPED {
        if let Some(peer) = socket::shown_peer::<V4, _>(&Kernel, call.cookie(), addr[3], call.port()) {
            call.set_addr6([MAPPED[0], MAPPED[1], MAPPED[2], peer.addr]);
            call.set_port(peer.port);
            maps::count(Reason::SocketReplyRestored, NO_PACKET);
        }
    } else if let Some(peer) = socket::shown_peer::<V6, _>(&Kernel, call.cookie(), addr, call.port()) {
        call.set_addr6(peer.addr);
        call.set_port(peer.port);
        maps::count(Reason::SocketReplyRestored, NO_PACKET);
    }
    ALLOW
}
