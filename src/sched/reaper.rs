//! The reaper: a kernel thread that frees what its last user could not.
//!
//! A thread cannot free the stack it runs on, and whoever runs after it may have masked interrupts or be in a hurry. The
//! mm layer has the same need: the last reference to an address space may be dropped where waiting for other CPUs is not
//! allowed.

use alloc::sync::Arc;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use mm::Machine;

use super::thread::{Builder, Thread};
use super::wait_queue::WaitQueue;
use crate::machine::Kernel;

/// Dead threads, linked through `Thread::next`.
static DEAD: AtomicPtr<Thread> = AtomicPtr::new(ptr::null_mut());
/// There is something to do. Swapped with AcqRel on both sides: what was there before the wake-up is seen.
static WORK: AtomicBool = AtomicBool::new(false);
static QUEUE: WaitQueue = WaitQueue::new();

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
        QUEUE.wait_until(|| WORK.swap(false, Ordering::AcqRel).then_some(()));
        free_threads();
        Kernel::system().reap();
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
