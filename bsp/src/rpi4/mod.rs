//! The Raspberry Pi 4, and QEMU's `raspi4b`.

use crate::{Board, Pins};

/// The board. RAM begins at 0 and the firmware loads low; unless told otherwise it sets the PL011's clock to 48 MHz.
pub const BOARD: Board = Board {
    name: "Raspberry Pi 4",
    image: 0..0x4000_0000,
    early_console: 0xfe20_1000,
    early_console_clock: 48_000_000,
    // GPIO 14 and 15: function 4 is ALT0, 2 is ALT5 (BCM2711 ARM Peripherals, 5.3). With `enable_uart=1` the core clock is
    // 500 MHz for good.
    pins: Some(Pins {
        gpio: 0xfe20_0000,
        led: 42,
        serial: [14, 15],
        pl011: 4,
        mini_uart: 2,
        mini_uart_registers: 0xfe21_5040,
        mini_uart_clock: 500_000_000,
    }),
};
