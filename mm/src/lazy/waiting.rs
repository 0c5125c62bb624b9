//! Where dead `Mm`s wait for one another, or for time: a list that never holds more than its limit.

use core::ptr;

use crate::handle::{DeadList, DeadMm};
use crate::machine::Machine;
use crate::mm::Mm;
use crate::sync::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// A lock-free list of dead `Mm`s with a bound, and since when somebody waits.
///
/// The number counts whoever waits or was taken off to be freed and is not freed yet: the bound is
/// one of memory, not of the list.
pub(crate) struct Waiting<M: Machine> {
    list: AtomicPtr<Mm<M>>,
    number: AtomicUsize,
    most: AtomicUsize,
    limit: usize,
    /// When the first came to the empty list, in nanoseconds.
    since: AtomicU64,
}

impl<M: Machine> Waiting<M> {
    /// Nobody waits.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            list: AtomicPtr::new(ptr::null_mut()),
            number: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            limit,
            since: AtomicU64::new(0),
        }
    }

    /// How many may wait.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// How many wait now.
    pub(crate) fn number(&self) -> usize {
        // Relaxed: a hint, and a number for people.
        self.number.load(Ordering::Relaxed)
    }

    /// How many ever waited at once.
    pub(crate) fn most(&self) -> usize {
        // Relaxed: a number for people.
        self.most.load(Ordering::Relaxed)
    }

    /// When the first came, if anybody waits.
    pub(crate) fn since(&self) -> Option<u64> {
        // Relaxed: pairs with the store in `admit`; one that is out of date frees early or late, and no more.
        (self.number() != 0).then(|| self.since.load(Ordering::Relaxed))
    }

    /// Adds one; says how many wait now. Gives it back if that would be one too many.
    pub(crate) fn admit(&self, dead: DeadMm<M>) -> Result<usize, DeadMm<M>> {
        let room = |number| (number < self.limit).then(|| number + 1);
        // Relaxed: the number bounds, the list publishes.
        let Ok(before) = self.number.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room) else {
            return Err(dead);
        };
        if before == 0 {
            self.since.store(M::now_ns(), Ordering::Relaxed);
        }
        self.most.fetch_max(before + 1, Ordering::Relaxed);
        dead.push_to(&self.list);
        Ok(before + 1)
    }

    /// Takes all off the list. They still count.
    pub(crate) fn take_all(&self) -> DeadList<M> {
        DeadMm::take_all(&self.list)
    }

    /// Puts one back that was taken off.
    pub(crate) fn put_back(&self, dead: DeadMm<M>) {
        dead.push_to(&self.list);
    }

    /// One that was taken off waits no more.
    pub(crate) fn leave(&self) {
        // Relaxed: pairs with the update in `admit`, of the same word.
        self.number.fetch_sub(1, Ordering::Relaxed);
    }
}
