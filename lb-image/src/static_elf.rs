//! Whether a binary runs without any library.

use anyhow::{Result, bail, ensure};

/// `PT_INTERP` of elf(5): the program header that names the dynamic loader.
const PT_INTERP: u32 = 3;

/// Makes sure that a 64-bit little-endian ELF binary names no dynamic loader.
///
/// # Errors
///
/// If it is something else, or names one; with the remedy.
pub fn check_static(elf: &[u8]) -> Result<()> {
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = elf.get(at..at + size)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u64::from(*byte)),
        )
    };
    ensure!(
        elf.starts_with(b"\x7fELF\x02\x01"),
        "it is no 64-bit little-endian ELF binary"
    );
    let (Some(start), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2)) else {
        bail!("its ELF header is cut off");
    };
    for index in 0..count {
        let at = usize::try_from(start + index * size)?;
        match number(at, 4) {
            Some(kind) if kind == u64::from(PT_INTERP) => bail!(
                "it needs a dynamic loader, and an image from scratch has none; `cargo xtask image` builds a static one"
            ),
            Some(_) => {}
            None => bail!("its program headers are cut off"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A binary with program headers of these kinds.
    fn elf(kinds: &[u32]) -> Vec<u8> {
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = kinds.len() as u8;
        for kind in kinds {
            let mut header = [0; 56];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            elf.extend(header);
        }
        elf
    }

    #[test]
    fn a_binary_that_names_a_loader_is_refused() {
        assert!(check_static(&elf(&[1, 2])).is_ok());
        let error = check_static(&elf(&[1, PT_INTERP])).unwrap_err().to_string();
        assert!(error.contains("cargo xtask image"), "{error}");
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(check_static(&own).is_err(), "tests are linked dynamically");
    }

    #[test]
    fn what_is_no_whole_binary_is_refused() {
        for bad in [&b""[..], b"#!/bin/sh\n", &elf(&[1])[..66], &elf(&[1])[..40]] {
            assert!(check_static(bad).is_err());
        }
    }
}
