//! The FP and SIMD registers, which belong to EL0 alone: the kernel is compiled without them.
//!
//! A thread starts each stint on a CPU without access. Its first FP instruction traps, and [`on_trap`] loads its
//! registers and gives access. When it leaves the CPU with access, its registers are saved. If it comes back
//! before another thread has loaded its own, the registers are still there: it gets access at once.
//!
//! The registers of a CPU are *live* for a state if the CPU names it as the owner **and** the state names the CPU.
//! Both are needed: a thread that went elsewhere leaves its name with the old CPU, and one whose state was replaced
//! (exec, signal) takes the CPU's name out of it.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use aarch64_cpu::registers::{CPACR_EL1, ReadWriteable};

use crate::sync;

/// The registers, in the layout that a signal frame has too.
#[repr(C, align(16))]
#[derive(Clone, PartialEq, Eq)]
pub struct Registers {
    /// v0 to v31.
    pub v: [u128; 32],
    /// The status register.
    pub fpsr: u32,
    /// The control register.
    pub fpcr: u32,
}

impl Registers {
    /// What a program starts with.
    pub const ZERO: Self = Self { v: [0; 32], fpsr: 0, fpcr: 0 };
}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registers {{ fpsr: {:#x}, fpcr: {:#x}, .. }}", self.fpsr, self.fpcr)
    }
}

/// One thread's registers.
pub struct State {
    /// Touched only by the CPU that runs the thread or switches it, with interrupts masked.
    saved: UnsafeCell<Registers>,
    /// The CPU whose registers hold this state; see above. Relaxed: it is written by the CPU that runs the thread,
    /// and the thread's `on_cpu` flag hands it over.
    live_on: AtomicUsize,
}

const NOWHERE: usize = usize::MAX;

// SAFETY: `saved` is reached through functions only whose callers promise to be the CPU that runs or switches the
// thread, of which there is one at a time.
unsafe impl Sync for State {}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "State {{ live_on: {:?}, .. }}", self.live_on)
    }
}

impl State {
    /// The state of a thread that starts with these registers.
    pub const fn new(registers: Registers) -> Self {
        Self { saved: UnsafeCell::new(registers), live_on: AtomicUsize::new(NOWHERE) }
    }
}

/// One CPU's part. Relaxed throughout: only this CPU touches it, with interrupts masked.
#[derive(Debug)]
pub struct Local {
    /// Whose state the registers last held.
    owner: AtomicPtr<State>,
    /// EL0 has access: the registers may be newer than the running thread's saved ones.
    enabled: AtomicBool,
}

impl Local {
    /// A CPU whose registers are nobody's.
    pub const fn new() -> Self {
        Self { owner: AtomicPtr::new(core::ptr::null_mut()), enabled: AtomicBool::new(false) }
    }

    fn is_live(&self, cpu: usize, state: &State) -> bool {
        state.live_on.load(Ordering::Relaxed) == cpu && core::ptr::eq(self.owner.load(Ordering::Relaxed), state)
    }

    fn set_access(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Relaxed);
        // The return to EL0 is the context synchronisation that the change needs (Arm ARM D1, "Exception return").
        if enabled {
            CPACR_EL1.modify(CPACR_EL1::FPEN::TrapNothing);
        } else {
            CPACR_EL1.modify(CPACR_EL1::FPEN::TrapEl0);
        }
    }

    fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }
}

impl Default for Local {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes access from EL0 and keeps it for EL1, which saves and loads. On each CPU when it starts: what the registers hold
/// is nobody's, also where the CPU has run before.
pub fn init_cpu(local: &Local) {
    local.owner.store(core::ptr::null_mut(), Ordering::Relaxed);
    local.set_access(false);
}

/// The FP part of a context switch on this CPU.
///
/// # Safety
///
/// Interrupts are masked, `local` and `cpu` are this CPU's, `previous` ran here, and no CPU runs `next`.
#[inline]
pub unsafe fn switch(local: &Local, cpu: usize, previous: &State, next: &State) {
    if local.is_enabled() {
        // SAFETY: `previous` ran here and has access, so these are its registers.
        unsafe { save(previous.saved.get()) };
        // They are live for `previous`, so not for `next`.
        local.set_access(false);
    } else if local.is_live(cpu, next) {
        local.set_access(true);
    }
}

/// Gives the running thread its registers: it used one without access.
///
/// # Safety
///
/// Interrupts are masked, `local` and `cpu` are this CPU's, and `state` is the running thread's.
pub unsafe fn on_trap(local: &Local, cpu: usize, state: &State) {
    if !local.is_live(cpu, state) {
        // SAFETY: the running thread's saved registers are its newest, for it had no access.
        unsafe { load(state.saved.get()) };
        state.live_on.store(cpu, Ordering::Relaxed);
        local.owner.store(core::ptr::from_ref(state).cast_mut(), Ordering::Relaxed);
    }
    local.set_access(true);
}

/// The running thread's registers as they are now: for fork and for a signal frame.
///
/// # Safety
///
/// As for [`on_trap`].
pub unsafe fn registers(local: &Local, state: &State) -> Registers {
    debug_assert!(sync::irqs_masked());
    if local.is_enabled() {
        // SAFETY: the running thread has access, so these are its registers.
        unsafe { save(state.saved.get()) };
    }
    // SAFETY: the caller is the only one that may touch the state.
    unsafe { (*state.saved.get()).clone() }
}

/// Replaces the running thread's registers: for exec and for the return from a signal handler.
///
/// # Safety
///
/// As for [`on_trap`].
pub unsafe fn replace(local: &Local, state: &State, registers: &Registers) {
    debug_assert!(sync::irqs_masked());
    // SAFETY: the caller is the only one that may touch the state.
    unsafe { *state.saved.get() = registers.clone() };
    // What this CPU's registers hold is no longer this thread's.
    state.live_on.store(NOWHERE, Ordering::Relaxed);
    local.set_access(false);
}

/// `stp` or `ldp` of all 32 registers. The soft-float target's assembler must be told that they exist.
macro_rules! for_all_pairs {
    ($instruction:literal) => {
        for_all_pairs!($instruction,
            0 1, 2 3, 4 5, 6 7, 8 9, 10 11, 12 13, 14 15, 16 17, 18 19, 20 21, 22 23, 24 25, 26 27, 28 29, 30 31)
    };
    ($instruction:literal, $($even:literal $odd:literal),*) => {
        concat!(
            ".arch_extension fp\n.arch_extension simd\n",
            $($instruction, " q", $even, ", q", $odd, ", [{registers}, #16 * ", $even, "]\n",)*
        )
    };
}

/// # Safety
///
/// `registers` is valid and nobody else uses it.
unsafe fn save(registers: *mut Registers) {
    let (fpsr, fpcr): (u64, u64);
    // SAFETY: stores within what the caller gave; EL1 always has access.
    unsafe {
        asm!(
            for_all_pairs!("stp"),
            "mrs {fpsr}, fpsr",
            "mrs {fpcr}, fpcr",
            registers = in(reg) registers,
            fpsr = out(reg) fpsr,
            fpcr = out(reg) fpcr,
            options(nostack, preserves_flags),
        );
        (*registers).fpsr = fpsr as u32;
        (*registers).fpcr = fpcr as u32;
    }
}

/// # Safety
///
/// `registers` is valid. What the registers held is lost.
unsafe fn load(registers: *const Registers) {
    // SAFETY: loads within what the caller gave; the kernel keeps nothing in these registers.
    unsafe {
        asm!(
            for_all_pairs!("ldp"),
            "msr fpsr, {fpsr}",
            "msr fpcr, {fpcr}",
            registers = in(reg) registers,
            fpsr = in(reg) u64::from((*registers).fpsr),
            fpcr = in(reg) u64::from((*registers).fpcr),
            options(nostack, preserves_flags, readonly),
        );
    }
}
