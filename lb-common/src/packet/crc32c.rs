//! CRC32c, the checksum of SCTP (RFC 9260, section 6.8 and appendix A; RFC 3385), and its incremental update.
//!
//! A CRC is linear: where two packets of one length differ in one word, their checksums differ by the CRC of that
//! difference and as many zeros as bytes follow the word. Zeros multiply a CRC by a power of x modulo the polynomial,
//! which takes one multiplication for each bit of their number. So the payload, which may be long and lie anywhere, need not
//! be read, and a wrong checksum stays exactly as wrong as it was.
//!
//! Polynomials over two elements are held in the reflected order, as in Ethernet and zlib: bit 31 is the coefficient of
//! x^0, bit 0 that of x^31.

/// Castagnoli's polynomial without x^32, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Bits of a number of bytes: an SCTP packet is shorter than 2^17 bytes even where the kernel has not cut it yet.
const LENGTH_BITS: usize = 17;

/// x^(8·2^n) modulo the polynomial, for the n-th bit of a number of bytes.
const POWERS: [u32; LENGTH_BITS] = {
    let mut powers = [0x8000_0000 >> 8; LENGTH_BITS];
    let mut nth = 1;
    while nth < LENGTH_BITS {
        powers[nth] = product(powers[nth - 1], powers[nth - 1]);
        nth += 1;
    }
    powers
};

/// The product of two polynomials modulo that of CRC32c.
#[inline(always)]
const fn product(a: u32, b: u32) -> u32 {
    let (mut a, mut b, mut product) = (a, b, 0);
    let mut bit = 0;
    while bit < 32 {
        // Without branches: the kernel's verifier would follow each of them.
        product ^= b & (a >> 31).wrapping_neg();
        a <<= 1;
        b = (b >> 1) ^ (POLYNOMIAL & (b & 1).wrapping_neg());
        bit += 1;
    }
    product
}

/// As [`product`], once in the kernel's code.
#[inline(never)]
fn multiply(a: u32, b: u32) -> u32 {
    product(a, b)
}

/// The CRC register (without inversions) after `bytes` zeros, for fewer than 2^17 of them.
#[inline(always)]
fn after_zeros(register: u32, bytes: u32) -> u32 {
    let mut register = register;
    let mut nth = 0;
    while nth < LENGTH_BITS {
        if bytes >> nth & 1 != 0 {
            register = multiply(register, POWERS[nth]);
        }
        nth += 1;
    }
    register
}

/// The checksum of a packet in which the first of `covered` bytes' words changes from `old` to `new`.
///
/// `checksum`, the result and the words have their bytes as in the packet. `covered` is all that the checksum covers, the
/// word among it: at least 4, at most 131,071.
#[inline(always)]
pub fn update(checksum: u32, old: u32, new: u32, covered: u32) -> u32 {
    // The lowest byte is the first: in the packet as in the reflected register.
    checksum ^ after_zeros(u32::from_le(old ^ new), covered).to_le()
}

#[cfg(test)]
#[path = "crc32c_tests.rs"]
mod tests;
