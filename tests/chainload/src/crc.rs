//! The checksum of the protocol: CRC-32 as in IEEE 802.3.

/// A checksum under way.
pub(crate) struct Crc(u32);

impl Crc {
    /// That of nothing.
    pub(crate) fn new() -> Self {
        Self(u32::MAX)
    }

    /// Takes a byte in, bit by bit: the line is slower.
    pub(crate) fn add(&mut self, byte: u8) {
        self.0 ^= u32::from(byte);
        for _ in 0..8 {
            self.0 = self.0 >> 1 ^ 0xedb8_8320 & (self.0 & 1).wrapping_neg();
        }
    }

    /// The checksum.
    pub(crate) fn value(&self) -> u32 {
        !self.0
    }

    /// That of some bytes.
    pub(crate) fn of(bytes: &[u8]) -> u32 {
        let mut crc = Self::new();
        bytes.iter().for_each(|&byte| crc.add(byte));
        crc.value()
    }
}
