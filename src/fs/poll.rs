//! Waiting for any of several files: `poll`.
//!
//! All pollers wait in one place, and whatever changes a file's readiness wakes them all to look
//! again. Pollers are few; a file without any pays one load.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::errno::Errno;
use crate::sched::{Patience, WaitError, WaitQueue};

static POLLERS: WaitQueue = WaitQueue::new();
/// How many threads are in [`wait`].
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Whether there is anybody to tell of a change. To be asked under the lock that the change is made under, and that
/// the file's `ready` takes: a poller counts itself before it looks, so either it is seen here, or it sees the change.
#[inline]
pub fn is_watched() -> bool {
    COUNT.load(Ordering::Relaxed) > 0
}

/// A file became ready for something: its pollers look again. Not for holders of a lock that `ready` takes.
pub fn changed() {
    POLLERS.wake_all();
}

/// Waits until `look` finds something, or until the deadline, in nanoseconds, if there is one.
/// `Ok(None)` says that time ran out.
pub fn wait<T>(deadline: Option<u64>, look: impl FnMut() -> Option<T>) -> Result<Option<T>, Errno> {
    // Relaxed: see `is_watched`; the lock of each file orders it.
    COUNT.fetch_add(1, Ordering::Relaxed);
    let found = POLLERS.wait(Patience::INTERRUPTIBLE.until(deadline), look);
    COUNT.fetch_sub(1, Ordering::Relaxed);
    match found {
        Ok(found) => Ok(Some(found)),
        Err(WaitError::TimedOut) => Ok(None),
        Err(WaitError::Interrupted) => Err(Errno::EINTR),
    }
}
