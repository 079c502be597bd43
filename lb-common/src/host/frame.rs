//! An Ethernet frame in memory.

use std::vec::Vec;

use crate::datapath::{ChecksumUpdate, Packet, RewriteError};

/// An Ethernet frame in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The bytes of the frame, from the destination hardware address on.
    pub bytes: Vec<u8>,
    /// Whether a VLAN tag was taken off on receipt.
    pub vlan_tag: bool,
    /// Whether the frame is addressed to another machine.
    pub for_other_host: bool,
}

impl Frame {
    /// A frame for this machine, without a tag beside its bytes.
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            vlan_tag: false,
            for_other_host: false,
        }
    }
}

impl Packet for Frame {
    fn frame_len(&self) -> usize {
        self.bytes.len()
    }

    fn has_vlan_tag(&self) -> bool {
        self.vlan_tag
    }

    fn is_for_other_host(&self) -> bool {
        self.for_other_host
    }

    fn read<const OFFSET: usize, const WORDS: usize>(&self) -> Option<[u32; WORDS]> {
        self.read_at(OFFSET)
    }

    fn read_at<const WORDS: usize>(&self, offset: usize) -> Option<[u32; WORDS]> {
        let bytes = self.bytes.get(offset..offset.checked_add(4 * WORDS)?)?;
        let (words, _) = bytes.as_chunks::<4>();
        Some(core::array::from_fn(|nth| u32::from_ne_bytes(words[nth])))
    }

    fn write_at<const WORDS: usize>(
        &mut self,
        offset: usize,
        words: &[u32; WORDS],
    ) -> Result<(), RewriteError> {
        let end = offset.checked_add(4 * WORDS).ok_or(RewriteError)?;
        let bytes = self.bytes.get_mut(offset..end).ok_or(RewriteError)?;
        for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *bytes = word.to_ne_bytes();
        }
        Ok(())
    }

    fn become_answer<const WORDS: usize>(&mut self, words: &[u32; WORDS]) -> Result<(), RewriteError> {
        let [to, from] = [0..6, 6..12].map(|range| self.bytes.get(range).map(<[u8]>::to_vec));
        let mut bytes = from.ok_or(RewriteError)?;
        bytes.extend(to.ok_or(RewriteError)?);
        bytes.extend(self.bytes.get(12..14).ok_or(RewriteError)?);
        bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        self.bytes = bytes;
        Ok(())
    }

    fn update_checksum(&mut self, update: &ChecksumUpdate) -> Result<(), RewriteError> {
        let bytes = self.bytes.get_mut(update.offset..).ok_or(RewriteError)?;
        let checksum: &mut [u8; 2] = bytes.first_chunk_mut().ok_or(RewriteError)?;
        let old = u16::from_ne_bytes(*checksum);
        let delta = update.addresses.and(update.ports.unwrap_or_default());
        let new = if update.udp {
            delta.apply_udp(old)
        } else {
            delta.apply(old)
        };
        *checksum = new.to_ne_bytes();
        Ok(())
    }
}
