//! The algorithm's packets, on frames that have no socket buffer yet.
//!
//! All access is direct. Only the first piece of a frame in pieces can be reached so: where a driver leaves the headers
//! elsewhere, the frame seems to end before them, and goes up. Checksums are those of the wire, complete.

use aya_ebpf::{
    bindings::{
        xdp_action::{XDP_DROP, XDP_TX},
        xdp_md,
    },
    helpers::generated::{bpf_redirect, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use lb_common::{
    datapath::{ChecksumUpdate, Packet, RewriteError},
    packet::ethernet::{self, ether_type},
};

use crate::{maps, words};

/// No header that is written to begins beyond: the verifier asks for a bound.
const LARGEST_OFFSET: usize = 0x3ff;

/// A frame. If `PIECES`, it may lie in several.
pub(crate) struct Frame<const PIECES: bool> {
    ctx: *mut xdp_md,
}

impl<const PIECES: bool> Frame<PIECES> {
    /// The frame that an XDP program was called for.
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext) -> Self {
        Self { ctx: ctx.ctx }
    }

    /// Where the first piece begins and ends. Read anew each time: helpers may move them.
    #[inline(always)]
    fn ends(&self) -> (usize, usize) {
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { ((*self.ctx).data as usize, (*self.ctx).data_end as usize) }
    }

    #[inline(always)]
    fn first_piece_len(&self) -> usize {
        let (data, end) = self.ends();
        end.wrapping_sub(data)
    }

    /// Length of the whole frame in bytes.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        if PIECES {
            // SAFETY: the kernel hands a valid context to the program.
            unsafe { bpf_xdp_get_buff_len(self.ctx) as usize }
        } else {
            self.first_piece_len()
        }
    }

    /// Whether the frame, which is `len` bytes long, lies in one piece.
    #[inline(always)]
    pub(crate) fn is_linear(&self, len: usize) -> bool {
        !PIECES || len == self.first_piece_len()
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as in `ends`.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    /// Whether the frame carries IPv6.
    #[inline(always)]
    pub(crate) fn is_ipv6(&self) -> bool {
        matches!(
            self.read::<{ ethernet::TYPE_OFFSET }, 1>(),
            Some([word]) if ethernet::ether_type_of(word) == ether_type::IPV6
        )
    }

    /// The address of `size` bytes at `offset`, if they lie in the first piece.
    #[inline(always)]
    fn place(&self, offset: usize, size: usize) -> Option<usize> {
        let (data, end) = self.ends();
        if offset > LARGEST_OFFSET {
            return None;
        }
        let place = data + offset;
        if place + size <= end { Some(place) } else { None }
    }

    /// Sends the frame out of a device, with these Ethernet addresses; returns what the program is to return.
    #[inline(always)]
    pub(crate) fn send(&mut self, ifindex: u32, addresses: &[u32; 3]) -> u32 {
        if self.write_at(0, addresses).is_err() {
            return XDP_DROP;
        }
        if ifindex == self.ingress_ifindex() {
            return XDP_TX;
        }
        // SAFETY: takes numbers only.
        unsafe { bpf_redirect(ifindex, 0) as u32 }
    }

    /// Sends the frame out of the device that it came in by.
    #[inline(always)]
    pub(crate) fn send_back(&self) -> u32 {
        XDP_TX
    }
}

impl<const PIECES: bool> Packet for Frame<PIECES> {
    #[inline(always)]
    fn frame_len(&self) -> usize {
        self.len()
    }

    /// A tag that hardware took off is not to be seen here. It does no harm: the frame is addressed to this node, and
    /// the routing table alone says where it goes.
    #[inline(always)]
    fn has_vlan_tag(&self) -> bool {
        false
    }

    #[inline(always)]
    fn is_for_other_host(&self) -> bool {
        match (maps::uplink(self.ingress_ifindex()), self.read::<0, 2>()) {
            (Some(uplink), Some(words)) => !uplink.receives(words),
            _ => true,
        }
    }

    #[inline(always)]
    fn read<const OFFSET: usize, const WORDS: usize>(&self) -> Option<[u32; WORDS]> {
        let (data, end) = self.ends();
        if data + OFFSET + 4 * WORDS <= end {
            // SAFETY: the words lie within the first piece, as was just checked.
            return Some(unsafe { words::load(data + OFFSET) });
        }
        None
    }

    #[inline(always)]
    fn read_at<const WORDS: usize>(&self, offset: usize) -> Option<[u32; WORDS]> {
        let place = self.place(offset, 4 * WORDS)?;
        // SAFETY: the words lie within the first piece.
        Some(unsafe { words::load(place) })
    }

    #[inline(always)]
    fn write_at<const WORDS: usize>(
        &mut self,
        offset: usize,
        words: &[u32; WORDS],
    ) -> Result<(), RewriteError> {
        let place = self.place(offset, 4 * WORDS).ok_or(RewriteError)?;
        // SAFETY: the words lie within the first piece.
        unsafe { words::store(place, words) };
        Ok(())
    }

    #[inline(always)]
    fn become_answer<const WORDS: usize>(&mut self, words: &[u32; WORDS]) -> Result<(), RewriteError> {
        let addresses = self.read::<0, 3>().ok_or(RewriteError)?;
        let wanted = (ethernet::LEN + 4 * WORDS) as i32;
        // SAFETY: takes numbers only.
        let failed = unsafe { bpf_xdp_adjust_tail(self.ctx, wanted - self.len() as i32) };
        if failed != 0 {
            return Err(RewriteError);
        }
        self.write_at(0, &ethernet::turned(addresses))?;
        self.write_at(ethernet::LEN, words)
    }

    #[inline(always)]
    fn update_checksum(&mut self, update: &ChecksumUpdate) -> Result<(), RewriteError> {
        let place = self.place(update.offset, 2).ok_or(RewriteError)? as *mut u16;
        let delta = update.addresses.and(update.ports.unwrap_or_default());
        // SAFETY: the checksum lies within the first piece, at an even offset of a header.
        unsafe {
            let old = place.read();
            place.write(if update.udp {
                delta.apply_udp(old)
            } else {
                delta.apply(old)
            });
        }
        Ok(())
    }
}
