//! Between a program and the kernel: what exceptions from EL0 mean, and the way back.

use core::arch::naked_asm;
use core::sync::atomic::Ordering;

use aarch64_cpu::registers::{ESR_EL1, Readable};

use super::exception::{FRAME, LeanFrame, TrapFrame, fault_now};
use super::fault_decode::class;
use mm::Machine;

use crate::drivers::gic;
use crate::machine::Kernel;
use crate::sched::thread::flags;
use crate::sync::{mask_irqs, unmask_irqs};
use crate::syscall::{self, Answer};
use crate::{panic, process, sched};

/// What is left to do with all registers in the frame before the program goes on. vectors.s calls it, interrupts masked.
type Rest = extern "C" fn(&mut TrapFrame);

/// A system call or a fault. Interrupts come on as soon as the syndrome is read; only a fault is worth decoding.
pub(super) extern "C" fn sync(frame: &mut LeanFrame) -> Option<Rest> {
    if class::of(ESR_EL1.get()) == class::SVC {
        unmask_irqs();
        if syscall::dispatch(frame) == Answer::NeedsAllRegisters {
            mask_irqs();
            return Some(call_with_all_registers);
        }
    } else {
        fault(frame);
    }
    before_return()
}

extern "C" fn call_with_all_registers(frame: &mut TrapFrame) {
    unmask_irqs();
    syscall::dispatch_with_all_registers(frame);
    mask_irqs();
    settle(frame);
}

/// Not inlined: a system call does not pay for the registers it needs.
#[inline(never)]
fn fault(frame: &LeanFrame) {
    let fault = fault_now();
    unmask_irqs();
    match fault.class() {
        class::FP_ACCESS => sched::on_fp_trap(),
        _ => process::fault::from_user(frame, &fault),
    }
}

/// An interrupt.
pub(super) extern "C" fn irq(_: &mut LeanFrame) -> Option<Rest> {
    Kernel::system().tick_from_user();
    gic::handle_irq();
    before_return()
}

/// The memory system reports an error that it cannot place: nothing can be trusted any more.
pub(super) extern "C" fn serror(frame: &mut TrapFrame) {
    panic::on_exception(frame, format_args!("{}", fault_now()))
}

/// What waits to be done before the running thread goes on in its program. Interrupts are masked afterwards.
#[inline(always)]
fn before_return() -> Option<Rest> {
    mask_irqs();
    is_detained().then_some(settle as Rest)
}

/// Whether something waits: another thread that should run, or a signal. Interrupts are masked.
#[inline(always)]
fn is_detained() -> bool {
    let thread = sched::current();
    // Relaxed: who raises a flag from another CPU also interrupts this one.
    thread.should_give_way() || thread.flags.load(Ordering::Relaxed) & flags::SIGNAL_PENDING != 0
}

/// Does it. Interrupts are masked.
#[cold]
extern "C" fn settle(frame: &mut TrapFrame) {
    while is_detained() {
        sched::preempt();
        if sched::current().flags.load(Ordering::Relaxed) & flags::SIGNAL_PENDING != 0 {
            unmask_irqs();
            process::before_return(frame);
            mask_irqs();
        }
    }
}

/// Leaves the kernel for a program that starts with these registers. The thread's kernel stack is empty afterwards.
pub fn enter(first: &mut TrapFrame) -> ! {
    let top = sched::current().stack_top().expect("an idle thread runs no program");
    mask_irqs();
    settle(first);
    // SAFETY: interrupts are masked, and `top` is the top of the stack we are on, which nobody comes back to.
    unsafe { load_frame(first, top) }
}

/// Puts `frame` where an exception from EL0 would have put it, and returns from that.
///
/// # Safety
///
/// Interrupts are masked. The frame lies on the stack that ends at `top`.
#[unsafe(naked)]
unsafe extern "C" fn load_frame(frame: &TrapFrame, top: u64) -> ! {
    naked_asm!(
        // Upwards in memory, so from the end: the two may overlap.
        "add x0, x0, #{frame}",
        "mov x2, #{frame} / 16",
        "1: ldp x3, x4, [x0, #-16]!",
        "stp x3, x4, [x1, #-16]!",
        "subs x2, x2, #1",
        "b.ne 1b",
        "mov sp, x1",
        "b return_to_el0",
        frame = const FRAME,
    )
}
