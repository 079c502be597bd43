//! The kernel programs, as compiled into this binary.

use thiserror::Error;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("FAIRLEAD_EBPF_OBJECT"));

/// The binary holds no kernel programs.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "this binary was built without the kernel programs, for lack of an eBPF toolchain; run `cargo xtask setup` and \
     build it again"
)]
pub struct NoObject;

/// The ELF object of the kernel programs, aligned for the loader.
///
/// # Errors
///
/// [`NoObject`] if the build script found no eBPF toolchain.
pub const fn bytes() -> Result<&'static [u8], NoObject> {
    if OBJECT.is_empty() {
        Err(NoObject)
    } else {
        Ok(OBJECT)
    }
}
