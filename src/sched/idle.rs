//! What a CPU does when it has nothing to do.

use aarch64_cpu::asm::wfi;
use mm::Machine;

use super::{Leave, schedule};
use crate::arch::timer;
use crate::drivers::gic;
use crate::machine::Kernel;
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
///
/// Under `lazy_tlb=qsbr` a CPU that idles for long leaves it all the same: the alarm that wakes it for that costs less
/// than the dead address spaces that wait for it.
pub fn run() -> ! {
    run_until(|| false);
    unreachable!("CPU 0 idles for ever")
}

/// Does so until nothing waits here any more and no thread may be sent here.
pub fn run_while_open() {
    run_until(|| !percpu::this().sched.is_open());
}

/// Does so until `is_over` says that it is, and then nothing waits. Asked with interrupts masked; who changes the answer
/// interrupts this CPU afterwards.
pub fn run_until(is_over: impl Fn() -> bool) {
    let mut since = None;
    loop {
        let _masked = IrqGuard::new();
        // Before the look at the queue: what was sent here before it was over is seen.
        let over = is_over();
        if percpu::this().sched.has_work() {
            since = None;
            schedule(Leave::Queue);
        } else if over {
            return;
        } else {
            if let Some(time) = Kernel::system().before_sleep(&mut since) {
                percpu::this().sched.request_alarm(timer::ticks_from_ns(time));
            }
            wfi();
            gic::handle_irq();
        }
    }
}
