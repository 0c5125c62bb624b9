//! The running thread, and what only it may do with itself.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use mm::{Machine, Mm, MmUser};

use super::Thread;
use super::thread::flags;
use crate::arch::fpsimd;
use crate::machine::Kernel;
use crate::percpu::{self, PerCpu};
use crate::sync::{self, IrqGuard};

/// The running thread.
///
/// The borrow is good for as long as the caller runs; whoever needs more takes [`current_arc`].
#[inline]
pub fn current() -> &'static Thread {
    debug_assert!(percpu::runs_a_thread(), "this CPU has not joined the scheduler");
    // SAFETY: on a CPU that runs threads it is the beginning of the running one (`Thread::run_here`), which is alive (see
    // `thread`).
    unsafe { &*percpu::anchor_address().cast() }
}

/// The number and the name of the thread that runs on this CPU, which the caller cannot leave now; a kernel thread has no
/// number (0), and before the CPU joins the scheduler nobody runs.
#[inline]
pub fn who_runs_on(this: &PerCpu) -> (u32, &'static str) {
    // SAFETY: null, or the running thread, which is alive and runs on.
    let current = unsafe { this.sched.shared.current.load(Ordering::Relaxed).as_ref() };
    current.map_or((0, ""), |thread| (thread.tid(), thread.name()))
}

/// A counted reference to the running thread.
///
/// # Panics
///
/// In the idle thread, which is not counted.
pub fn current_arc() -> Arc<Thread> {
    let thread = current();
    assert!(thread.stack_top().is_some(), "the idle thread is not counted");
    // SAFETY: every thread with a stack was made by `Builder::build` in an Arc, and the reference it owns keeps it alive
    // while it runs.
    unsafe {
        Arc::increment_strong_count(thread);
        Arc::from_raw(thread)
    }
}

/// Whether a signal waits for the running thread: a call that takes long ends with what it has done so far.
pub fn is_interrupted() -> bool {
    // Relaxed: if it comes later, it is seen later.
    current().flags.load(Ordering::Relaxed) & (flags::SIGNAL_PENDING | flags::KILL) != 0
}

/// The running thread's address space; `None` in a kernel thread.
///
/// The borrow is good until the thread replaces it.
#[inline]
pub fn current_mm() -> Option<&'static Mm<Kernel>> {
    // SAFETY: the running thread's. The `Mm` lives while the thread is its user: until it calls `replace_mm`.
    unsafe { current().mm_cell() }.as_deref()
}

/// Another user of the running thread's address space: for a thread that is to share it.
pub fn share_mm() -> Option<MmUser<Kernel>> {
    // SAFETY: the running thread's.
    unsafe { current().mm_cell() }.clone()
}

/// Gives the running thread another address space, or none, and loads it: for exec and exit. Returns the old one, whose
/// last user may be the caller: what is dropped with it may wait.
pub fn replace_mm(new: Option<MmUser<Kernel>>) -> Option<MmUser<Kernel>> {
    debug_assert!(sync::may_wait());
    let masked = IrqGuard::new();
    // SAFETY: the running thread's, and interrupts are masked: no switch reads it meanwhile.
    let cell = unsafe { current().mm_cell() };
    let old = core::mem::replace(cell, new);
    Kernel::system().transition(old.as_deref(), cell.as_deref());
    drop(masked);
    old
}

/// The running thread used an FP register without access: gives it its own.
pub fn on_fp_trap() {
    let _masked = IrqGuard::new();
    let this = percpu::this();
    // SAFETY: interrupts are masked, and these are this CPU's and its thread's.
    unsafe { fpsimd::on_trap(&this.sched.fp, this.id, &current().fp) };
}

/// The running thread's FP registers: for fork and for a signal frame.
pub fn fp_registers() -> fpsimd::Registers {
    let _masked = IrqGuard::new();
    // SAFETY: as in `on_fp_trap`.
    unsafe { fpsimd::registers(&percpu::this().sched.fp, &current().fp) }
}

/// Replaces the running thread's FP registers: for exec and for the return from a signal handler.
pub fn set_fp_registers(registers: &fpsimd::Registers) {
    let _masked = IrqGuard::new();
    // SAFETY: as in `on_fp_trap`.
    unsafe { fpsimd::replace(&percpu::this().sched.fp, &current().fp, registers) }
}
