//! What the benchmark tells its kernel programs.

/// Words of a generated frame: 60 bytes, which make 64 on a wire with the checksum behind them.
pub const GENERATED_WORDS: usize = 15;

/// What the benchmark's kernel programs do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Plan {
    /// The frame's beginning, bytes as in the frame.
    pub words: [u32; 24],
    /// How many bytes of it are restored before each run.
    pub len: u32,
    /// Number of clients that take turns, a power of two and 32768 at most; 0 for just the one in `words`.
    pub flows: u32,
    /// Where the ports lie, in bytes.
    pub ports_offset: u32,
    /// The ports, bytes as in the frame.
    pub ports: u32,
    /// Where the last word of the source address lies, in bytes.
    pub client_offset: u32,
    /// That word, bytes as in the frame.
    pub client: u32,
    /// Index of the device that the floor program and the generator send to; 0 to hand the frame on.
    pub redirect: u32,
    /// Destination port (bytes as in the frame) of what the sink counts.
    pub sunk_port: u32,
}

impl Plan {
    /// The plan as the words that the kernel programs' map holds.
    pub fn as_words(&self) -> [u32; 32] {
        let mut words = [0; 32];
        words[..24].copy_from_slice(&self.words);
        words[24..].copy_from_slice(&[
            self.len,
            self.flows,
            self.ports_offset,
            self.ports,
            self.client_offset,
            self.client,
            self.redirect,
            self.sunk_port,
        ]);
        words
    }
}

const _: () = assert!(size_of::<Plan>() == size_of::<[u32; 32]>());
