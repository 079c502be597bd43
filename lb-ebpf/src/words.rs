//! Words in packets.
//!
//! A header's words lie two bytes off a word's boundary where the kernel does not pad the Ethernet header. The
//! architectures that we load on take such accesses, and the verifier refuses the program elsewhere; telling LLVM that
//! the address may be odd would make it access single bytes, and letting it use odd addresses everywhere would make it
//! use them on the stack, which the verifier refuses.

/// The words at `addr`.
///
/// # Safety
///
/// They must lie within a packet.
#[inline(always)]
pub(crate) unsafe fn load<const WORDS: usize>(addr: usize) -> [u32; WORDS] {
    let mut words = [0; WORDS];
    for (nth, word) in words.iter_mut().enumerate() {
        // SAFETY: within the packet; for the alignment see above.
        *word = unsafe { (addr as *const u32).add(nth).read() };
    }
    words
}

/// Writes `words` to `addr`.
///
/// # Safety
///
/// They must lie within a packet that may be written to.
#[inline(always)]
pub(crate) unsafe fn store<const WORDS: usize>(addr: usize, words: &[u32; WORDS]) {
    for (nth, word) in words.iter().enumerate() {
        // SAFETY: as in `load`.
        unsafe { (addr as *mut u32).add(nth).write(*word) };
    }
}
