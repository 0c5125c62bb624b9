//! Waiting for any of several files: `poll`.
//!
//! All pollers wait in one place, and whatever changes a file's readiness wakes them all to look
//! again. Pollers are few; a file without any pays one load.

use core::sync::atomic::{AtomicUsize, Ordering, fence};

use crate::errno::Errno;
use crate::sched::{Patience, WaitError, WaitQueue};

static POLLERS: WaitQueue = WaitQueue::new();
/// How many threads are in [`wait`].
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A file became ready for something.
pub fn changed() {
    // Pairs with the fence in `wait`: either this load sees the poller, or the poller's look at
    // the file sees the change that the caller made.
    fence(Ordering::SeqCst);
    if COUNT.load(Ordering::Relaxed) > 0 {
        POLLERS.wake_all();
    }
}

/// Waits until `look` finds something, or until the deadline, in nanoseconds, if there is one.
/// `Ok(None)` says that time ran out.
pub fn wait<T>(deadline: Option<u64>, look: impl FnMut() -> Option<T>) -> Result<Option<T>, Errno> {
    // Relaxed, and a fence: see `changed`.
    COUNT.fetch_add(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    let found = POLLERS.wait(Patience::INTERRUPTIBLE.until(deadline), look);
    COUNT.fetch_sub(1, Ordering::Relaxed);
    match found {
        Ok(found) => Ok(Some(found)),
        Err(WaitError::TimedOut) => Ok(None),
        Err(WaitError::Interrupted) => Err(Errno::EINTR),
    }
}
