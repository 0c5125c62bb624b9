//! QEMU's `virt` machine, with GICv2 or GICv3.

use crate::Board;

/// The board. RAM begins at 1 GiB; QEMU generates the device tree, so none is kept here.
pub const BOARD: Board = Board {
    name: "QEMU virt",
    image: 0x4000_0000..0x1_0000_0000_0000,
    early_console: 0x0900_0000,
    early_console_clock: 24_000_000,
    pins: None,
};
