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

/// A thread in a queue. It lives in the frame of `WaitQueue::wait`; its cells belong to the queue's lock.
struct Waiter<'a> {
    thread: &'a Thread,
    queued: Cell<bool>,
    next: Cell<Link>,
    back: Cell<Link>,
}

/// A queued waiter's address, or null. The lifetime is a lie that `WaitQueue::wait` makes good.
type Link = *const Waiter<'static>;

struct Waiters {
    first: Link,
    last: Link,
}

// SAFETY: the list and its waiters are touched under the queue's lock only.
unsafe impl Send for Waiters {}

impl WaitQueue {
    /// A queue with nobody in it.
    pub const fn new() -> Self {
        Self(IrqLock::new(Waiters { first: ptr::null(), last: ptr::null() }))
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
        let waiter = Waiter {
            thread: current(),
            queued: Cell::new(false),
            next: Cell::new(ptr::null()),
            back: Cell::new(ptr::null()),
        };
        let link: Link = (&raw const waiter).cast();
        let result = loop {
            let round = block_once(waiter.thread, &patience, || {
                // In the queue before each look, and after the state is blocked: a `wake_one` that finds us wakes us.
                self.0.lock().insert(link);
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
        // After this the queue does not know the frame any more.
        let was_queued = self.0.lock().remove(link);
        if !was_queued && result.is_err() {
            // A `wake_one` chose us, and we leave without the event: it is another waiter's.
            self.wake_one();
        }
        result
    }

    /// Wakes the thread that has waited longest. False if nobody waits.
    pub fn wake_one(&self) -> bool {
        let mut waiters = self.0.lock();
        let first = waiters.first;
        if first.is_null() {
            return false;
        }
        // Under the lock, which the thread needs before it can leave its frame.
        waiters.release(first);
        true
    }

    /// Wakes all threads that wait now, and says how many.
    pub fn wake_all(&self) -> usize {
        let mut waiters = self.0.lock();
        let mut count = 0;
        loop {
            let first = waiters.first;
            if first.is_null() {
                return count;
            }
            waiters.release(first);
            count += 1;
        }
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
    /// Puts a waiter at the end, unless it is in the queue.
    fn insert(&mut self, link: Link) {
        // SAFETY: the waiter's frame is ours, and those of queued waiters live; the lock is held.
        unsafe {
            let waiter = &*link;
            if waiter.queued.replace(true) {
                return;
            }
            waiter.next.set(ptr::null());
            waiter.back.set(self.last);
            match self.last.as_ref() {
                Some(last) => last.next.set(link),
                None => self.first = link,
            }
            self.last = link;
        }
    }

    /// Takes a waiter out. False if it was not in.
    fn remove(&mut self, link: Link) -> bool {
        // SAFETY: as in `insert`.
        unsafe {
            let waiter = &*link;
            if !waiter.queued.replace(false) {
                return false;
            }
            match waiter.back.get().as_ref() {
                Some(back) => back.next.set(waiter.next.get()),
                None => self.first = waiter.next.get(),
            }
            match waiter.next.get().as_ref() {
                Some(next) => next.back.set(waiter.back.get()),
                None => self.last = waiter.back.get(),
            }
        }
        true
    }

    /// Takes a queued waiter out and wakes it.
    fn release(&mut self, link: Link) {
        self.remove(link);
        // SAFETY: the waiter was queued, and its frame stays until its thread has had the lock.
        wake(unsafe { &*link }.thread);
    }
}
