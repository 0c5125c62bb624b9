//! The kernel image: what happens once memory is up, in order.
#![no_std]
#![no_main]

use lazuli::arch::boot::BootInfo;
use lazuli::drivers::power;

#[unsafe(no_mangle)]
fn kernel_main(_boot: &'static BootInfo) -> ! {
    power::exit(0)
}
