//! Boards as data: what must be known of one before, or without, its device tree.
//!
//! Everything else comes from the tree that firmware or emulator hands over. A board is a constant
//! in a folder of its own, next to how it is run.
#![no_std]
#![forbid(unsafe_code)]

use core::ops::Range;

pub mod qemu_virt;
pub mod rpi4;

/// A board.
#[derive(Debug)]
pub struct Board {
    /// Its name.
    pub name: &'static str,
    /// Where its loaders put a kernel: what tells the boards apart before anything else is known.
    pub image: Range<u64>,
    /// The physical address of a PL011 that works from the first instruction.
    pub early_console: u64,
    /// The clock of it, in Hz, should it be off after all.
    pub early_console_clock: u32,
    /// The pins that matter before the tree is known.
    pub pins: Option<Pins>,
}

/// A pin controller, and what hangs on it.
#[derive(Debug)]
pub struct Pins {
    /// The physical address of the controller.
    pub gpio: u64,
    /// The pin of an LED, lit when that is high.
    pub led: u8,
    /// The pins of a serial line, the sending one first.
    pub serial: [u8; 2],
    /// The function that connects them to the PL011.
    pub pl011: u8,
    /// The function that connects them to another port instead.
    pub mini_uart: u8,
    /// The physical address of that port.
    pub mini_uart_registers: u64,
    /// The clock of it, in Hz, should it be off.
    pub mini_uart_clock: u32,
}

/// The boards that are promised to work.
pub const BOARDS: &[&Board] = &[&qemu_virt::BOARD, &rpi4::BOARD];

/// The board whose loader puts a kernel at this physical address.
pub fn board_of_image(image: u64) -> Option<&'static Board> {
    BOARDS.iter().copied().find(|board| board.image.contains(&image))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_boards_load_at_the_same_address() {
        for (index, board) in BOARDS.iter().enumerate() {
            for other in &BOARDS[index + 1..] {
                let apart = board.image.end <= other.image.start || other.image.end <= board.image.start;
                assert!(apart, "{} and {}", board.name, other.name);
            }
        }
    }

    #[test]
    fn the_loaders_tell_the_boards_apart() {
        // Where QEMU 10.0 puts a flat image whose header asks for offset 0.
        assert_eq!(board_of_image(0x4020_0000).map(|board| board.name), Some("QEMU virt"));
        assert_eq!(board_of_image(0x0020_0000).map(|board| board.name), Some("Raspberry Pi 4"));
        assert!(board_of_image(u64::MAX).is_none());
    }
}
