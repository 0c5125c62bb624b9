//! Where a thread may run.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use mm::{CpuId, CpuSet, MAX_CPUS};

use super::placement::open_cpus;
use super::thread::Thread;
use super::{current, reschedule_if_forbidden};
use crate::{ipi, percpu};

/// The CPUs a thread may run on: never empty, read without a lock.
///
/// Relaxed throughout: `set_affinity` and `placement::place` order it with `Thread::cpu` by fences.
#[derive(Debug)]
pub(super) struct Affinity {
    words: [AtomicU64; MAX_CPUS / 64],
    /// Whether it is one CPU: a hint that saves the search for another.
    is_one: AtomicBool,
}

impl Affinity {
    pub(super) fn new(set: &CpuSet) -> Self {
        let words = core::array::from_fn(|word| AtomicU64::new(set.words()[word]));
        Self { words, is_one: AtomicBool::new(set.count() == 1) }
    }

    /// Whether it is one CPU; a hint.
    #[inline]
    pub(super) fn is_one(&self) -> bool {
        self.is_one.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn allows(&self, cpu: usize) -> bool {
        self.words[cpu / 64].load(Ordering::Relaxed) & 1 << (cpu % 64) != 0
    }

    pub(super) fn get(&self) -> CpuSet {
        CpuSet::from_words(&self.words.each_ref().map(|word| word.load(Ordering::Relaxed)))
    }

    /// Adds first and takes away afterwards, so that a reader meanwhile finds at least one CPU.
    pub(super) fn set(&self, set: &CpuSet) {
        for (word, new) in self.words.iter().zip(set.words()) {
            word.fetch_or(*new, Ordering::Relaxed);
        }
        for (word, new) in self.words.iter().zip(set.words()) {
            word.store(*new, Ordering::Relaxed);
        }
        self.is_one.store(set.count() == 1, Ordering::Relaxed);
    }
}

/// No CPU of the set takes threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoSuchCpu;

/// Lets a thread run on these CPUs only. The running thread has moved when this returns; another one moves at its
/// next switch, which is asked for at once. CPUs of the set that are down count as soon as they are up again.
///
/// # Errors
///
/// If none of the CPUs takes threads now. Nothing changes then.
pub fn set_affinity(thread: &Thread, set: &CpuSet) -> Result<(), NoSuchCpu> {
    let set = set.intersection(&CpuSet::first(percpu::count()));
    if set.intersection(&open_cpus()).is_empty() {
        return Err(NoSuchCpu);
    }
    thread.affinity.set(&set);
    // Pairs with the fence in `placement::place`: either we see the CPU that a waker chose by the old set, or the
    // waker sees the new set.
    fence(Ordering::SeqCst);
    if core::ptr::eq(thread, current()) {
        reschedule_if_forbidden();
    } else {
        // Whether it runs there, waits there or sleeps, its CPU looks at the set before the thread goes on.
        ipi::send_reschedule(CpuId(thread.last_cpu() as u16));
    }
    Ok(())
}
