//! What a CPU does when it has nothing to do.

use aarch64_cpu::asm::wfi;

use super::{Leave, schedule};
use crate::drivers::gic;
use crate::percpu;
use crate::sync::IrqGuard;

/// Runs threads when there are any, and waits for an interrupt when there are none.
///
/// `WFI` with interrupts masked: one that is pending ends it all the same, so none slips in between the look at the
/// queue and the sleep (Arm ARM D1, "Wait for Interrupt mechanism"). It is handled here and not as an exception, for
/// which all registers would be saved: whom it brought runs next anyway.
///
/// An idle CPU keeps the last address space in TTBR0. It has none of its own, so it is lazy, and stays so until a user
/// thread comes or the address space dies.
pub fn run() -> ! {
    loop {
        let masked = IrqGuard::new();
        if percpu::this().sched.has_work() {
            schedule(Leave::Queue);
        } else {
            wfi();
            gic::handle_irq();
        }
        drop(masked);
    }
}
