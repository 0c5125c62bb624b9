//! The Raspberry Pi 4, and QEMU's `raspi4b`.

use crate::{Board, Led};

/// The board. RAM begins at 0 and the firmware loads low; unless told otherwise it sets the PL011's clock to 48 MHz.
pub const BOARD: Board = Board {
    name: "Raspberry Pi 4",
    image: 0..0x4000_0000,
    early_console: 0xfe20_1000,
    early_console_clock: 48_000_000,
    led: Some(Led { gpio: 0xfe20_0000, pin: 42 }),
};
