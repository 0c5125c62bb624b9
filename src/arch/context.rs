//! The register switch: leave one kernel stack, go on with another.
//!
//! A switch is a function call, so only what a called function must keep (AAPCS64 §6.1.1: x19 to x30 and the
//! stack pointer) is saved, and the program's stack pointer, SP_EL0; it goes onto the stack that is left.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// Where a thread goes on: the stack pointer behind which its registers lie.
#[derive(Debug)]
pub struct Context {
    /// Relaxed: written and read by the CPU that switches; the thread's `on_cpu` flag hands it over.
    sp: AtomicU64,
}

/// x19 to x30, SP_EL0 and a gap, as `switch` lays them out.
const SAVED_REGISTERS: usize = 14;
/// Where x30 is among them.
const X30: usize = 11;

impl Context {
    /// The context of what runs already: its first `switch` fills it in.
    pub const fn running() -> Self {
        Self { sp: AtomicU64::new(0) }
    }

    /// A context that begins in `entry`, on the stack that ends at `stack_top`.
    ///
    /// # Safety
    ///
    /// The stack is mapped, 16-byte aligned and nobody else's.
    pub unsafe fn starting(stack_top: u64, entry: extern "C" fn(*const ()) -> !) -> Self {
        let mut saved = [0u64; SAVED_REGISTERS];
        // x30, where `switch` returns to. x29 stays 0: a backtrace ends here.
        saved[X30] = entry as usize as u64;
        let sp = stack_top - size_of_val(&saved) as u64;
        // SAFETY: the caller gives us the stack, whose highest words these are.
        unsafe { (sp as *mut [u64; SAVED_REGISTERS]).write(saved) };
        Self { sp: AtomicU64::new(sp) }
    }
}

/// Goes on with `next` on this CPU. Returns when another switch goes on with `previous`, and then returns the
/// `message` of that switch; a context that starts gets it as its argument.
///
/// # Safety
///
/// Interrupts are masked. `previous` is what runs; `next` is a context that no CPU runs, whose stack lives.
#[inline]
pub unsafe fn switch(previous: &Context, next: &Context, message: *const ()) -> *const () {
    let next_sp = next.sp.load(Ordering::Relaxed);
    // SAFETY: the caller's promises are what the assembly needs.
    unsafe { switch_stacks(previous.sp.as_ptr(), next_sp, message) }
}

#[unsafe(naked)]
unsafe extern "C" fn switch_stacks(save_sp: *mut u64, next_sp: u64, message: *const ()) -> *const () {
    naked_asm!(
        "stp x19, x20, [sp, #-112]!",
        "stp x21, x22, [sp, #16]",
        "stp x23, x24, [sp, #32]",
        "stp x25, x26, [sp, #48]",
        "stp x27, x28, [sp, #64]",
        "stp x29, x30, [sp, #80]",
        "mrs x10, sp_el0",
        "str x10, [sp, #96]",
        "mov x9, sp",
        "str x9, [x0]",
        "mov sp, x1",
        "mov x0, x2",
        "ldr x10, [sp, #96]",
        "msr sp_el0, x10",
        "ldp x29, x30, [sp, #80]",
        "ldp x27, x28, [sp, #64]",
        "ldp x25, x26, [sp, #48]",
        "ldp x23, x24, [sp, #32]",
        "ldp x21, x22, [sp, #16]",
        "ldp x19, x20, [sp], #112",
        "ret",
    )
}
