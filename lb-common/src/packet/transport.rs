//! TCP (RFC 9293), UDP (RFC 768) and SCTP (RFC 9260) headers.

/// The fixed part of a TCP header, as words whose bytes stand as in the packet.
#[derive(Clone, Copy)]
pub struct Tcp(pub [u32; Self::WORDS]);

impl Tcp {
    /// Length of the header without options, in bytes.
    pub const LEN: usize = 20;
    /// Length of the header without options, in words of 4 bytes.
    pub const WORDS: usize = Self::LEN / 4;
    /// Offset of the checksum in the header.
    pub const CHECKSUM_OFFSET: usize = 16;

    /// Offset of the word in the header that tells its length and holds the flags.
    pub const LENGTH_OFFSET: usize = 12;

    /// Length of the header with options, in bytes; below 20 in a malformed one.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        Self::header_len_of(self.0[3])
    }

    /// The same from the word at [`Self::LENGTH_OFFSET`] (bytes as in the packet).
    #[inline(always)]
    pub const fn header_len_of(word: u32) -> usize {
        (u32::from_be(word) >> 28 << 2) as usize
    }

    /// CWR, ECE, URG, ACK, PSH, RST, SYN, FIN, from the high bit down.
    #[inline(always)]
    pub const fn flags(&self) -> u8 {
        (u32::from_be(self.0[3]) >> 16) as u8
    }
}

/// A UDP header, as words whose bytes stand as in the packet.
#[derive(Clone, Copy)]
pub struct Udp(pub [u32; Self::WORDS]);

impl Udp {
    /// Length of the header, in bytes.
    pub const LEN: usize = 8;
    /// Length of the header, in words of 4 bytes.
    pub const WORDS: usize = Self::LEN / 4;
    /// Offset of the checksum in the header.
    pub const CHECKSUM_OFFSET: usize = 6;

    /// Length of header and payload, in bytes.
    #[inline(always)]
    pub const fn length(&self) -> usize {
        (u32::from_be(self.0[1]) >> 16) as usize
    }
}

/// An SCTP header and the first word of the first chunk, as words whose bytes stand as in the packet.
#[derive(Clone, Copy)]
pub struct Sctp(pub [u32; Self::WORDS]);

impl Sctp {
    /// Length of the header and the shortest chunk, in bytes.
    pub const LEN: usize = 16;
    /// The same in words of 4 bytes.
    pub const WORDS: usize = Self::LEN / 4;

    /// Type of the first chunk.
    #[inline(always)]
    pub const fn chunk(&self) -> u8 {
        (u32::from_be(self.0[3]) >> 24) as u8
    }
}

/// Source and destination port, bytes as in the packet, from the first word of a TCP, UDP or SCTP header.
#[inline(always)]
pub const fn ports(word: u32) -> (u16, u16) {
    let b = word.to_ne_bytes();
    (u16::from_ne_bytes([b[0], b[1]]), u16::from_ne_bytes([b[2], b[3]]))
}

/// The first word of a TCP, UDP or SCTP header with these ports, bytes as in the packet.
#[inline(always)]
pub const fn ports_word(src: u16, dst: u16) -> u32 {
    let (s, d) = (src.to_ne_bytes(), dst.to_ne_bytes());
    u32::from_ne_bytes([s[0], s[1], d[0], d[1]])
}
