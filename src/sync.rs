//! Locks and guards: what they exclude, and when a thread may wait.
//!
//! | guard or lock    | interrupts | preemption | may wait for another CPU inside |
//! |------------------|------------|------------|---------------------------------|
//! | [`IrqGuard`]     | masked     | impossible | no                              |
//! | [`IrqLock`]      | masked     | impossible | no                              |
//! | [`PreemptGuard`] | as before  | off        | for IPIs, if interrupts are on  |
//! | [`SpinLock`]     | on         | off        | for IPIs                        |
//!
//! A page fault of a copy to or from a program, and whatever else changes page tables, may wait for other CPUs to
//! invalidate (`tlbi=ipi`, `tlbi=auto`), also under a [`SpinLock`]: those who spin for that lock have interrupts on and
//! answer. Nobody waits with interrupts masked: `ipi::on_each_cpu_mask` refuses it, and a copy that faults with interrupts
//! masked fails instead of waiting. What takes longer, a final drop, waits only where [`may_wait`] says so.
//!
//! First come is not first served. A ticket lock would go to the CPU that has waited longest, and an emulator or a
//! hypervisor may have taken just that one off its host CPU: all others then wait for the host's scheduler.
//!
//! A lock that an interrupt handler takes is an [`IrqLock`]. A [`SpinLock`] is never taken with interrupts masked.

use core::arch::asm;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, Ordering, compiler_fence};

use spin::RelaxStrategy;
use spin::mutex::{SpinMutex, SpinMutexGuard};

use crate::arch::cpu::fetch_to_write;
use crate::{percpu, sched};

/// How every loop of ours waits: `yield`, which lets an emulator or a sibling thread run. The default of `spin`
/// is an ISB, which burns the time slice.
#[derive(Debug)]
pub struct Relax;

impl RelaxStrategy for Relax {
    #[inline]
    fn relax() {
        relax();
    }
}

/// One turn of a waiting loop.
#[inline]
pub fn relax() {
    // SAFETY: a hint.
    unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) };
}

/// Keeps interrupts masked on this CPU while it lives.
#[derive(Debug)]
#[must_use = "interrupts come back when the guard is dropped"]
pub struct IrqGuard {
    daif: u64,
    /// DAIF belongs to the CPU: the guard must not move to a thread that runs elsewhere.
    _not_send: core::marker::PhantomData<*const ()>,
}

const DAIF_I: u64 = 1 << 7;

impl IrqGuard {
    /// Masks interrupts.
    #[inline]
    pub fn new() -> Self {
        let daif: u64;
        // SAFETY: masking interrupts breaks no promise. No `nomem`: accesses must not move before it.
        unsafe {
            asm!("mrs {}, daif", "msr daifset, #2", out(reg) daif, options(nostack, preserves_flags));
        }
        Self { daif, _not_send: core::marker::PhantomData }
    }

    /// What to restore, for a caller that cannot keep the guard. Interrupts stay masked.
    pub(crate) fn into_state(self) -> u64 {
        let daif = self.daif;
        core::mem::forget(self);
        daif
    }

    /// The guard that `into_state` dissolved.
    ///
    /// # Safety
    ///
    /// `state` comes from `into_state`, on this CPU, and is used once.
    pub(crate) unsafe fn from_state(state: u64) -> Self {
        Self { daif: state, _not_send: core::marker::PhantomData }
    }
}

impl Default for IrqGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for IrqGuard {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: puts back what `new` found. No `nomem`: accesses must not move behind it.
        unsafe { asm!("msr daif, {}", in(reg) self.daif, options(nostack, preserves_flags)) };
    }
}

/// True if interrupts are masked on this CPU.
#[inline]
pub fn irqs_masked() -> bool {
    let daif: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, daif", out(reg) daif, options(nomem, nostack, preserves_flags)) };
    daif & DAIF_I != 0
}

/// Masks interrupts on this CPU; for the few places where a guard's life is not the time meant.
#[inline]
pub fn mask_irqs() {
    // SAFETY: masking interrupts breaks no promise. No `nomem`, as in `IrqGuard`.
    unsafe { asm!("msr daifset, #2", options(nostack, preserves_flags)) };
}

/// Unmasks interrupts on this CPU; as above. The vectors stand from the first instructions of a CPU on.
#[inline]
pub fn unmask_irqs() {
    // SAFETY: an interrupt changes nothing under the interrupted code. No `nomem`, as in `IrqGuard`.
    unsafe { asm!("msr daifclr, #2", options(nostack, preserves_flags)) };
}

/// The time is over in which there was one CPU, never interrupted. Relaxed: set by that CPU before it starts another.
static CONTENTION: AtomicBool = AtomicBool::new(false);

/// From here on locks can be contended: interrupts and other CPUs may come.
pub(crate) fn begin_contention() {
    CONTENTION.store(true, Ordering::Relaxed);
}

/// True if this code may wait for another CPU: interrupts are on (so it is no interrupt handler and holds no
/// [`IrqLock`]) and it may be preempted (so it holds no [`SpinLock`]).
pub fn may_wait() -> bool {
    // Relaxed: the thread's own count.
    !irqs_masked() && percpu::anchor().preempt.load(Ordering::Relaxed) == 0
}

/// True if this code may take a [`SpinLock`]: interrupts are on, or nothing can contend yet.
fn may_lock() -> bool {
    !irqs_masked() || !CONTENTION.load(Ordering::Relaxed)
}

/// Keeps the running thread on this CPU, with no other thread of this CPU in between, while it lives.
#[derive(Debug)]
#[must_use = "preemption comes back when the guard is dropped"]
pub struct PreemptGuard {
    /// The count belongs to the thread: the guard must not move to another.
    _not_send: core::marker::PhantomData<*const ()>,
}

impl PreemptGuard {
    /// Turns preemption off.
    #[inline]
    pub fn new() -> Self {
        // An interrupt between load and store leaves the count as it found it, and so does a switch.
        let preempt = &percpu::anchor().preempt;
        preempt.store(preempt.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        Self { _not_send: core::marker::PhantomData }
    }
}

impl Default for PreemptGuard {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for PreemptGuard {
    #[inline]
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        let anchor = percpu::anchor();
        let held = anchor.preempt.load(Ordering::Relaxed);
        debug_assert!(held > 0, "preemption was turned on more often than off");
        // As in `new`.
        anchor.preempt.store(held - 1, Ordering::Relaxed);
        // Who asks after the store finds the count 0 and does not leave it to us; who asked before is seen.
        compiler_fence(Ordering::SeqCst);
        if held == 1 && anchor.need_resched.load(Ordering::Relaxed) {
            sched::make_up_for_preemption();
        }
    }
}

/// A lock that is held with interrupts masked.
#[derive(Debug)]
pub struct IrqLock<T>(SpinMutex<T, Relax>);

/// The right to what an [`IrqLock`] protects.
#[derive(Debug)]
pub struct IrqLockGuard<'a, T> {
    // Order matters: the lock is released before interrupts come back.
    inner: SpinMutexGuard<'a, T, Relax>,
    _masked: IrqGuard,
}

impl<T> IrqLock<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(SpinMutex::new(value))
    }

    /// Masks interrupts and waits for the lock.
    #[inline]
    pub fn lock(&self) -> IrqLockGuard<'_, T> {
        let masked = IrqGuard::new();
        fetch_to_write(&self.0);
        IrqLockGuard { inner: self.0.lock(), _masked: masked }
    }

    /// Takes the lock if nobody has it.
    #[inline]
    pub fn try_lock(&self) -> Option<IrqLockGuard<'_, T>> {
        let masked = IrqGuard::new();
        Some(IrqLockGuard { inner: self.0.try_lock()?, _masked: masked })
    }

    /// Opens the lock, whoever has it.
    ///
    /// # Safety
    ///
    /// The owner never goes on: it was stopped, or it is this CPU in a panic.
    pub unsafe fn force_unlock(&self) {
        // SAFETY: our caller promises that the owner will not release it again.
        unsafe { self.0.force_unlock() };
    }
}

impl<T> Deref for IrqLockGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for IrqLockGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A lock that is held with preemption off and interrupts on: no interrupt handler may take it.
#[derive(Debug)]
pub struct SpinLock<T>(SpinMutex<T, Relax>);

/// The right to what a [`SpinLock`] protects.
#[derive(Debug)]
pub struct SpinLockGuard<'a, T> {
    // Order matters: the lock is released before preemption comes back.
    inner: SpinMutexGuard<'a, T, Relax>,
    _pinned: PreemptGuard,
}

impl<T> SpinLock<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(SpinMutex::new(value))
    }

    /// Turns preemption off and waits for the lock.
    #[inline]
    pub fn lock(&self) -> SpinLockGuard<'_, T> {
        debug_assert!(may_lock(), "a SpinLock is never taken with interrupts masked");
        let pinned = PreemptGuard::new();
        fetch_to_write(&self.0);
        SpinLockGuard { inner: self.0.lock(), _pinned: pinned }
    }

    /// What the lock protects, without the lock.
    ///
    /// # Safety
    ///
    /// Nobody locks it while the reference lives.
    #[inline]
    pub unsafe fn peek(&self) -> &T {
        // SAFETY: the caller keeps others from changing it.
        unsafe { &*self.0.as_mut_ptr() }
    }

    /// Takes the lock if nobody has it.
    #[inline]
    pub fn try_lock(&self) -> Option<SpinLockGuard<'_, T>> {
        debug_assert!(may_lock(), "a SpinLock is never taken with interrupts masked");
        let pinned = PreemptGuard::new();
        Some(SpinLockGuard { inner: self.0.try_lock()?, _pinned: pinned })
    }
}

impl<T> Deref for SpinLockGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for SpinLockGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}
