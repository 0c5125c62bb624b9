//! `frames=on`: each line of the console ends with its number and a checksum, for a serial line that loses bytes.
//!
//! Behind the text stand ` ~`, four digits of the line's number and eight of the CRC-32 (IEEE 802.3) of text and number,
//! all hexadecimal. The checksum grows with the bytes, so nothing is kept back.

/// The line under way.
pub(super) struct Frame {
    number: u16,
    crc: u32,
}

impl Frame {
    /// The first line.
    pub(super) fn new() -> Self {
        Self { number: 0, crc: u32::MAX }
    }

    /// Takes in a byte of the line. A carriage return is no part of it: consoles put them in as they like.
    pub(super) fn add(&mut self, byte: u8) {
        if byte != b'\r' {
            self.crc ^= u32::from(byte);
            for _ in 0..8 {
                self.crc = self.crc >> 1 ^ 0xedb8_8320 & (self.crc & 1).wrapping_neg();
            }
        }
    }

    /// What stands before the end of the line. The next byte begins another line.
    pub(super) fn end_line(&mut self) -> [u8; 14] {
        let number = self.number;
        let digit = |value: u32, place: u32| b"0123456789abcdef"[(value >> (4 * place) & 0xf) as usize];
        (0..4).rev().for_each(|place| self.add(digit(u32::from(number), place)));
        let mut trailer = *b" ~............";
        for place in 0..4 {
            trailer[5 - place as usize] = digit(u32::from(number), place);
        }
        for place in 0..8 {
            trailer[13 - place as usize] = digit(!self.crc, place);
        }
        *self = Self { number: number.wrapping_add(1), crc: u32::MAX };
        trailer
    }
}
