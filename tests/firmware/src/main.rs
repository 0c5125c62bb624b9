//! A stand-in for a board's firmware, for tests: it hands the kernel a machine as real firmware leaves it.
//!
//! That is: RAM full of a pattern, registers full of noise, a GIC whose interrupts all belong to the Non-secure world
//! and some of which are pending, secondary CPUs that poll a word. It enters at whatever level the machine starts at.
//! What it does exactly stands in a table of parameters that `tools/src/standin.rs` writes.
#![no_std]
#![no_main]

use core::arch::global_asm;

/// Where the parameters lie, in RAM.
const PARAMETERS: u64 = 0x4410_0000;

global_asm!(include_str!("firmware.s"), parameters = const PARAMETERS);

#[panic_handler]
fn on_panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
