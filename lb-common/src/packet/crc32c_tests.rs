use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// CRC32c by a table, byte by byte: the textbook's way.
fn reference(bytes: &[u8]) -> u32 {
    let table: Vec<u32> = (0..256u32)
        .map(|byte| {
            (0..8).fold(byte, |crc, _| {
                if crc & 1 == 1 {
                    (crc >> 1) ^ POLYNOMIAL
                } else {
                    crc >> 1
                }
            })
        })
        .collect();
    !bytes
        .iter()
        .fold(!0, |crc, byte| (crc >> 8) ^ table[(crc as u8 ^ byte) as usize])
}

/// The checksum as it stands in an SCTP packet: lowest byte first.
fn field(bytes: &[u8]) -> u32 {
    reference(bytes).to_le()
}

fn with_word(bytes: &[u8], word: u32) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[..4].copy_from_slice(&word.to_ne_bytes());
    bytes
}

fn first_word(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The examples of RFC 3720, appendix B.4.
#[test]
fn the_reference_knows_the_vectors_of_rfc_3720() {
    let up: Vec<u8> = (0..32).collect();
    let down: Vec<u8> = (0..32).rev().collect();
    let read_command = [
        0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0, 0, 0, 0, 0x14, 0,
        0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0, 0,
    ];
    for (bytes, crc) in [
        (&[0; 32][..], 0x8a91_36aa),
        (&[0xff; 32], 0x62a8_ab43),
        (&up, 0x46dd_794e),
        (&down, 0x113f_db5c),
        (&read_command, 0xd996_3a56),
    ] {
        assert_eq!(reference(bytes), crc);
    }
}

/// From one vector of RFC 3720 to another, by the difference of their first words alone.
#[test]
fn a_vector_of_rfc_3720_with_another_first_word_is_updated() {
    let zeros = [0u8; 32];
    for word in [1, 0x8000_0000, 0xffff_ffff, 0x1234_5678] {
        assert_eq!(
            update(0x8a91_36aa_u32.to_le(), 0, word, 32),
            field(&with_word(&zeros, word))
        );
    }
}

#[test]
fn the_longest_packets_are_updated() {
    for len in [4, 5, 65_515, 65_535, 65_536, 131_071] {
        let bytes: Vec<u8> = (0..len as u32).map(|at| ((at * 31) >> 3) as u8).collect();
        let new = 0xdead_beef;
        let updated = update(field(&bytes), first_word(&bytes), new, len as u32);
        assert_eq!(updated, field(&with_word(&bytes, new)), "{len} bytes");
    }
}

proptest! {
    #[test]
    fn an_updated_checksum_is_that_of_the_changed_packet(
        bytes in prop::collection::vec(any::<u8>(), 4..3_000),
        new in any::<u32>(),
    ) {
        let updated = update(field(&bytes), first_word(&bytes), new, bytes.len() as u32);
        prop_assert_eq!(updated, field(&with_word(&bytes, new)));
    }

    #[test]
    fn a_wrong_checksum_stays_as_wrong_as_it_was(
        bytes in prop::collection::vec(any::<u8>(), 4..200),
        new in any::<u32>(),
        wrong in any::<u32>(),
    ) {
        let updated = update(field(&bytes) ^ wrong, first_word(&bytes), new, bytes.len() as u32);
        prop_assert_eq!(updated ^ wrong, field(&with_word(&bytes, new)));
    }

    #[test]
    fn a_change_and_its_reverse_cancel_out(checksum: u32, old: u32, new: u32, covered in 4u32..131_072) {
        prop_assert_eq!(update(update(checksum, old, new, covered), new, old, covered), checksum);
    }
}
