//! The kernel image: what happens once memory, interrupts and all CPUs are up, in order.
#![no_std]
#![no_main]

use lazuli::arch::boot::BootInfo;
use lazuli::fs::{device, initramfs};
use lazuli::process::init;
use lazuli::sched::idle;
use lazuli::start::refuse;

#[unsafe(no_mangle)]
fn kernel_main(boot: &'static BootInfo) -> ! {
    let archive = initramfs::archive(boot);
    initramfs::mount(archive).unwrap_or_else(|error| refuse(format_args!("initramfs: {error}")));
    device::init();
    init::start();
    idle::run()
}
