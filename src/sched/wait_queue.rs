//! Wait queues: threads that wait for one kind of event, first come first served.

use core::cell::Cell;
use core::fmt;
use core::ptr;

use super::current;
use super::thread::Thread;
use super::wait::{Patience, Round, WaitError, block_once, wake};
use crate::sync::IrqLock;

/// Threads that wait for one kind of event, first come first served.
pub struct WaitQueue(IrqLock<Waiters>);

/// A thread's place in the queue where it waits; it waits in one at a time. The cells belong to the queue's lock.
pub(super) struct Waiting {
    queued: Cell<bool>,
    /// The thread behind; null for the last.
    next: Cell<Link>,
    /// The thread before; for the first, the last.
    back: Cell<Link>,
}

/// A queued thread's address, or null. A thread that waits is alive, and leaves the queue before it does anything else.
type Link = *const Thread;

struct Waiters {
    first: Link,
}

// SAFETY: the list and its links are touched under the queue's lock only.
unsafe impl Send for Waiters {}

impl Waiting {
    /// In no queue.
    pub(super) const fn new() -> Self {
        Self { queued: Cell::new(false), next: Cell::new(ptr::null()), back: Cell::new(ptr::null()) }
    }
}

impl WaitQueue {
    /// A queue with nobody in it.
    pub const fn new() -> Self {
        Self(IrqLock::new(Waiters { first: ptr::null() }))
    }

    /// Waits until `look` returns something. Whoever makes that so calls one of the wake functions afterwards.
    ///
    /// `look` may run with preemption off and must not wait itself. It may take spin locks and copy user memory.
    pub fn wait_until<T>(&self, look: impl FnMut() -> Option<T>) -> T {
        match self.wait(Patience::ENDLESS, look) {
            Ok(event) => event,
            Err(error) => unreachable!("endless patience ended: {error:?}"),
        }
    }

    /// The same, unless patience runs out first.
    ///
    /// # Errors
    ///
    /// If it does.
    pub fn wait<T>(&self, patience: Patience, mut look: impl FnMut() -> Option<T>) -> Result<T, WaitError> {
        match look() {
            Some(event) => Ok(event),
            None => self.wait_in_queue(patience, look),
        }
    }

    /// Not inlined: who need not wait does not pay for the registers it needs.
    #[inline(never)]
    fn wait_in_queue<T>(&self, patience: Patience, mut look: impl FnMut() -> Option<T>) -> Result<T, WaitError> {
        let thread = current();
        let result = loop {
            let round = block_once(thread, &patience, || {
                // In the queue before each look, and after the state is blocked: a `wake_one` that finds us wakes us.
                self.0.lock().insert(thread);
                look()
            });
            match round {
                Round::Ready(event) => break Ok(event),
                Round::Failed(error) => break Err(error),
                // Most likely the event is there: a look costs less than another round.
                Round::Woken => {
                    if let Some(event) = look() {
                        break Ok(event);
                    }
                }
            }
        };
        // Under the lock, so a waker that chose us has done with us. After this the queue does not know us any more.
        let was_queued = self.0.lock().remove(thread);
        if !was_queued && result.is_err() {
            // A `wake_one` chose us, and we leave without the event: it is another waiter's.
            self.wake_one();
        }
        result
    }

    /// Wakes the thread that has waited longest. False if nobody waits.
    pub fn wake_one(&self) -> bool {
        let mut waiters = self.0.lock();
        // SAFETY: null, or a queued thread, and the lock is held.
        let Some(first) = (unsafe { waiters.first.as_ref() }) else { return false };
        waiters.remove(first);
        // Under the lock, which the thread needs before it goes on.
        wake(first);
        true
    }

    /// Wakes all threads that wait now, and says how many.
    pub fn wake_all(&self) -> usize {
        let mut waiters = self.0.lock();
        let mut next = core::mem::replace(&mut waiters.first, ptr::null());
        let mut count = 0;
        // SAFETY: null, or a queued thread, and the lock is held.
        while let Some(thread) = unsafe { next.as_ref() } {
            // Before it is woken: then the links are for its next wait.
            next = thread.waiting.next.get();
            thread.waiting.queued.set(false);
            // Under the lock, as in `wake_one`.
            wake(thread);
            count += 1;
        }
        count
    }
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for WaitQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WaitQueue { .. }")
    }
}

impl Waiters {
    /// Puts the running thread at the end, unless it is in the queue.
    fn insert(&mut self, thread: &Thread) {
        let waiting = &thread.waiting;
        if waiting.queued.replace(true) {
            return;
        }
        waiting.next.set(ptr::null());
        // SAFETY: null, or a queued thread; the lock is held.
        match unsafe { self.first.as_ref() } {
            Some(first) => {
                // SAFETY: the first's `back` is the last, which is queued.
                unsafe { &*first.waiting.back.get() }.waiting.next.set(thread);
                waiting.back.set(first.waiting.back.replace(thread));
            }
            None => {
                waiting.back.set(thread);
                self.first = thread;
            }
        }
    }

    /// Takes a thread out. False if it was not in.
    fn remove(&mut self, thread: &Thread) -> bool {
        let waiting = &thread.waiting;
        if !waiting.queued.replace(false) {
            return false;
        }
        let (next, back) = (waiting.next.get(), waiting.back.get());
        if ptr::eq(self.first, thread) {
            self.first = next;
        } else {
            // SAFETY: it is not the first, so the one before is queued; the lock is held.
            unsafe { &*back }.waiting.next.set(next);
        }
        // Behind it comes the next one, or, at the end of the circle, the first; nobody, if it was alone.
        let behind = if next.is_null() { self.first } else { next };
        // SAFETY: null, or queued.
        if let Some(behind) = unsafe { behind.as_ref() } {
            behind.waiting.back.set(back);
        }
        true
    }
}
