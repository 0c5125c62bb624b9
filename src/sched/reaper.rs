//! The reaper: a kernel thread that frees what its last user could not.
//!
//! A thread cannot free the stack it runs on, and whoever runs after it may have masked interrupts or be in a hurry. The
//! mm layer has the same need: the last reference to an address space may be dropped where waiting for other CPUs is not
//! allowed.

use alloc::sync::Arc;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use mm::Machine;

use super::thread::{Builder, Thread};
use super::wait::Patience;
use super::wait_queue::WaitQueue;
use crate::machine::Kernel;
use crate::sync;

/// Dead threads, linked through `Thread::next`.
static DEAD: AtomicPtr<Thread> = AtomicPtr::new(ptr::null_mut());
/// There is something to do. Swapped with AcqRel on both sides: what was there before the wake-up is seen.
static WORK: AtomicBool = AtomicBool::new(false);
static QUEUE: WaitQueue = WaitQueue::new();
/// When to look even if nobody wakes it, on the clock of `now_ns`. Relaxed: the wake-up orders it.
static DUE: AtomicU64 = AtomicU64::new(NEVER);
const NEVER: u64 = u64::MAX;

/// Starts the reaper.
///
/// # Panics
///
/// If there is no memory for it.
pub fn start() {
    Builder::new("reaper").spawn(run).expect("no memory for the reaper's stack");
}

/// Makes the reaper look for work. From any context.
pub fn wake() {
    if !WORK.swap(true, Ordering::AcqRel) {
        QUEUE.wake_one();
    }
}

/// Makes the reaper look for work at this time, on the clock of `now_ns`, or earlier. From task context.
pub fn wake_at(time: u64) {
    if DUE.fetch_min(time, Ordering::Relaxed) > time {
        // It may sleep for longer, or for ever: it looks how long once more.
        wake();
    }
}

/// Hands over a thread that has run for the last time. Interrupts are masked, and its stack is not in use any more.
pub(super) fn bury(thread: &Thread) {
    let mut first = DEAD.load(Ordering::Relaxed);
    loop {
        thread.next.store(first, Ordering::Relaxed);
        // Release: pairs with the Acquire in `free_threads`; the CPU is done with the thread.
        let new = ptr::from_ref(thread).cast_mut();
        match DEAD.compare_exchange_weak(first, new, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => break,
            Err(now) => first = now,
        }
    }
    wake();
}

fn run() {
    loop {
        let due = DUE.load(Ordering::Relaxed);
        let patience = Patience::ENDLESS.until((due != NEVER).then_some(due));
        if QUEUE.wait(patience, || WORK.swap(false, Ordering::AcqRel).then_some(())).is_err() {
            // Unless somebody wants it still earlier, who has woken it then.
            let _ = DUE.compare_exchange(due, NEVER, Ordering::Relaxed, Ordering::Relaxed);
        }
        free_threads();
        Kernel::system().reap();
    }
}

/// Frees the threads that wait for the reaper, for who makes a thread: one CPU frees more slowly than many make, and
/// stacks that wait are memory that never comes back. From task context; elsewhere it does nothing.
pub(super) fn help() {
    // Relaxed: a hint, which costs those that find nothing no write. `free_threads` takes the list with Acquire.
    if !DEAD.load(Ordering::Relaxed).is_null() && sync::may_wait() {
        free_threads();
    }
}

fn free_threads() {
    // Acquire: pairs with the Release in `bury`.
    let mut next = DEAD.swap(ptr::null_mut(), Ordering::Acquire).cast_const();
    while !next.is_null() {
        // SAFETY: a thread comes here once, after its last switch; this is the reference that `Thread::start` gave it.
        let thread = unsafe { Arc::from_raw(next) };
        next = thread.next.load(Ordering::Relaxed);
        drop(thread);
    }
}
