//! The algorithm's packets, on socket buffers.
//!
//! Reads at constant offsets go to the linear part of the buffer directly. What lies elsewhere (options push headers
//! apart, drivers leave headers in fragments) is fetched by a helper. Writes and checksums go through helpers: these
//! unshare a cloned buffer only when it is written to, and they know checksums that hardware has still to finish.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::{bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes},
    programs::TcContext,
};
use lb_common::{
    datapath::{ChecksumUpdate, Packet, RewriteError},
    packet::ethernet,
};

use crate::{globals, words};

/// `PACKET_OTHERHOST` of `linux/if_packet.h`.
const PACKET_OTHERHOST: u32 = 3;

/// A frame in a socket buffer.
pub(crate) struct Skb {
    skb: *mut __sk_buff,
}

impl Skb {
    /// The frame that a tc program was called for.
    #[inline(always)]
    pub(crate) fn new(ctx: &TcContext) -> Self {
        Self { skb: ctx.skb.skb }
    }

    /// Whether the frame carries IPv6.
    #[inline(always)]
    pub(crate) fn is_ipv6(&self) -> bool {
        /// `ETH_P_IPV6` as the kernel keeps it: bytes as in the frame.
        const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { (*self.skb).protocol == ETH_P_IPV6 }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn frame_len(&self) -> usize {
        // SAFETY: the kernel hands a valid context to the program.
        unsafe { (*self.skb).len as usize }
    }

    #[inline(always)]
    fn segment_size(&self) -> u32 {
        // SAFETY: as in `frame_len`.
        unsafe { (*self.skb).gso_size }
    }

    #[inline(always)]
    fn segments(&self) -> u32 {
        // SAFETY: as in `frame_len`.
        match unsafe { (*self.skb).gso_segs } {
            0 => 1,
            segments => segments,
        }
    }

    #[inline(always)]
    fn has_vlan_tag(&self) -> bool {
        // SAFETY: as in `frame_len`.
        unsafe { (*self.skb).vlan_present != 0 }
    }

    #[inline(always)]
    fn is_for_other_host(&self) -> bool {
        // SAFETY: as in `frame_len`.
        unsafe { (*self.skb).pkt_type == PACKET_OTHERHOST }
    }

    #[inline(always)]
    fn read<const OFFSET: usize, const WORDS: usize>(&self) -> Option<[u32; WORDS]> {
        // SAFETY: as in `frame_len`. Both are read anew each time: helpers that write may move the buffer.
        let (data, end) = unsafe { ((*self.skb).data as usize, (*self.skb).data_end as usize) };
        if data + OFFSET + 4 * WORDS <= end {
            // SAFETY: the words lie within the linear part, as was just checked.
            return Some(unsafe { words::load(data + OFFSET) });
        }
        self.read_at(OFFSET)
    }

    #[inline(always)]
    fn read_at<const WORDS: usize>(&self, offset: usize) -> Option<[u32; WORDS]> {
        let mut words = MaybeUninit::<[u32; WORDS]>::uninit();
        let size = 4 * WORDS as u32;
        // SAFETY: the helper writes `size` bytes to a place of that size, or fails.
        let failed =
            unsafe { bpf_skb_load_bytes(self.skb.cast(), offset as u32, words.as_mut_ptr().cast(), size) };
        if failed != 0 {
            return None;
        }
        // SAFETY: the helper has written all of it.
        Some(unsafe { words.assume_init() })
    }

    #[inline(always)]
    fn write_at<const WORDS: usize>(
        &mut self,
        offset: usize,
        words: &[u32; WORDS],
    ) -> Result<(), RewriteError> {
        self.store(offset, words, 0)
    }

    #[inline(always)]
    fn write_alone_at<const WORDS: usize>(
        &mut self,
        offset: usize,
        words: &[u32; WORDS],
    ) -> Result<(), RewriteError> {
        self.store(offset, words, BPF_F_RECOMPUTE_CSUM)
    }

    #[inline(always)]
    fn become_answer<const WORDS: usize>(&mut self, words: &[u32; WORDS]) -> Result<(), RewriteError> {
        let addresses = self.read_at::<3>(0).ok_or(RewriteError)?;
        // What other checksums hardware was to finish does not matter: the helper was made for such answers.
        // SAFETY: takes numbers only.
        let failed = unsafe { bpf_skb_change_tail(self.skb.cast(), (ethernet::LEN + 4 * WORDS) as u32, 0) };
        if failed != 0 {
            return Err(RewriteError);
        }
        self.write_at(0, &ethernet::turned(addresses))?;
        self.write_at(ethernet::LEN, words)
    }

    #[inline(always)]
    fn update_checksum(&mut self, update: &ChecksumUpdate) -> Result<(), RewriteError> {
        // Size 0 in the flags: `to` is the difference of sums.
        let mut flags = 0;
        if update.udp {
            flags |= u64::from(BPF_F_MARK_MANGLED_0);
        }
        if let Some(ports) = update.ports {
            self.replace_l4_checksum(update.offset, ports.fold32(), flags)?;
        }
        flags |= u64::from(BPF_F_PSEUDO_HDR);
        if update.ipv6 {
            flags |= globals::csum_ipv6_flag();
        }
        self.replace_l4_checksum(update.offset, update.addresses.fold32(), flags)
    }
}

impl Skb {
    #[inline(always)]
    fn store<const WORDS: usize>(
        &mut self,
        offset: usize,
        words: &[u32; WORDS],
        flags: u32,
    ) -> Result<(), RewriteError> {
        let (from, size) = (words.as_ptr().cast(), 4 * WORDS as u32);
        // SAFETY: the helper reads `size` bytes of a place of that size.
        let failed = unsafe { bpf_skb_store_bytes(self.skb.cast(), offset as u32, from, size, flags.into()) };
        if failed == 0 { Ok(()) } else { Err(RewriteError) }
    }

    #[inline(always)]
    fn replace_l4_checksum(
        &mut self,
        offset: usize,
        difference: u32,
        flags: u64,
    ) -> Result<(), RewriteError> {
        // SAFETY: takes numbers only; the offset is checked by the helper.
        let failed =
            unsafe { bpf_l4_csum_replace(self.skb.cast(), offset as u32, 0, difference.into(), flags) };
        if failed == 0 { Ok(()) } else { Err(RewriteError) }
    }
}
