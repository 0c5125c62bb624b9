//! The Raspberry Pi 4, and QEMU's `raspi4b`.

use crate::Board;

/// The board. RAM begins at 0 and the firmware loads low.
pub const BOARD: Board = Board { name: "Raspberry Pi 4", image: 0..0x4000_0000, early_console: 0xfe20_1000 };
