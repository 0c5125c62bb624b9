//! The one file that names an atomic, and the locks built on them.
//!
//! Under `--cfg loom` the same names are loom's, so that the shipped protocols run in its checker (`tests/loom`).

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// A word that hardware reads, too, or that only people read: no protocol between CPUs rests on it, so it is not loom's.
pub use core::sync::atomic::AtomicU64 as PlainU64;

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

#[cfg(loom)]
use checked::{SpinMutex, SpinMutexGuard};
#[cfg(not(loom))]
use spin::mutex::{SpinMutex, SpinMutexGuard};
use spin::relax::RelaxStrategy;

use crate::machine::Machine;

/// Loom's lock under the names of the shipped one: loom must know what a lock orders.
#[cfg(loom)]
mod checked {
    use core::marker::PhantomData;

    use loom::sync::{Mutex, MutexGuard};

    pub(super) struct SpinMutex<T, R>(Mutex<T>, PhantomData<fn() -> R>);

    impl<T, R> SpinMutex<T, R> {
        pub(super) fn new(value: T) -> Self {
            Self(Mutex::new(value), PhantomData)
        }

        pub(super) fn lock(&self) -> SpinMutexGuard<'_, T, R> {
            SpinMutexGuard(self.0.lock().expect("no thread unwinds"), PhantomData)
        }
    }

    pub(super) struct SpinMutexGuard<'a, T, R>(MutexGuard<'a, T>, PhantomData<fn() -> R>);

    impl<T, R> core::ops::Deref for SpinMutexGuard<'_, T, R> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }

    impl<T, R> core::ops::DerefMut for SpinMutexGuard<'_, T, R> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.0
        }
    }
}

/// Spins the way the machine wants it: `yield` on target, a scheduling point in the model.
pub struct Relax<M>(PhantomData<M>);

impl<M: Machine> RelaxStrategy for Relax<M> {
    fn relax() {
        M::relax();
    }
}

// The locks are not fair: virtual CPUs that share real ones starve behind a ticket whose holder is
// not running. What they protect is short, and no CPU takes one in a loop.

/// A lock of the mm layer: preemption is off while it is held, interrupts stay on.
///
/// Its holder may wait for other CPUs (a flush by IPI), so it must never be an IRQ-off lock: two
/// CPUs of which one spins here with IRQs masked while the other waits for its acknowledgement
/// would wait for ever. A debug check refuses that at every acquisition.
pub struct Lock<T, M: Machine>(SpinMutex<T, Relax<M>>);

impl<T, M: Machine> Lock<T, M> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self(SpinMutex::new(value))
    }

    /// Takes the lock.
    ///
    /// # Panics
    /// In debug builds, if interrupts are masked.
    pub fn lock(&self) -> LockGuard<'_, T, M> {
        debug_assert!(M::may_lock(), "an mm lock was taken with interrupts masked");
        let pinned = M::pin();
        LockGuard { guard: self.0.lock(), _pinned: pinned }
    }
}

/// Proof that a [`Lock`] is held. Unlocks first, then lets preemption back in.
pub struct LockGuard<'a, T, M: Machine> {
    guard: SpinMutexGuard<'a, T, Relax<M>>,
    _pinned: M::Pinned,
}

impl<T, M: Machine> Deref for LockGuard<'_, T, M> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T, M: Machine> DerefMut for LockGuard<'_, T, M> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// A lock for the few words that the switch itself needs: taken with interrupts masked, held for a
/// bounded time, and never while waiting for another CPU.
pub struct SwitchLock<T, M: Machine>(SpinMutex<T, Relax<M>>);

impl<T, M: Machine> SwitchLock<T, M> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self(SpinMutex::new(value))
    }

    /// Takes the lock.
    ///
    /// # Panics
    /// In debug builds, if interrupts are not masked: an interrupt that switches would then spin
    /// on a lock that its own CPU holds.
    pub fn lock(&self) -> impl DerefMut<Target = T> + '_ {
        debug_assert!(M::irqs_masked(), "a switch lock was taken with interrupts on");
        self.0.lock()
    }
}
