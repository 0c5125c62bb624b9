//! The reaper's work: dead `Mm`s that were dropped where nobody may wait, and those whose time has come.

use core::ptr;

use crate::handle::{DeadList, DeadMm};
use crate::lazy::{Scheme, batch, handoff, qsbr};
use crate::machine::Machine;
use crate::mm::Mm;
use crate::sync::AtomicPtr;
use crate::system::System;

/// A lock-free stack: pushed to from any context, taken whole by the reaper thread.
pub(crate) struct Reaper<M: Machine>(AtomicPtr<Mm<M>>);

impl<M: Machine> Reaper<M> {
    pub(crate) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    pub(crate) fn push(&self, dead: DeadMm<M>) {
        dead.push_to(&self.0);
        M::wake_reaper();
    }

    pub(crate) fn take_all(&self) -> DeadList<M> {
        DeadMm::take_all(&self.0)
    }

    fn has_work(&self) -> bool {
        !DeadMm::is_empty(&self.0)
    }
}

impl<M: Machine> System<M> {
    /// Frees dead `Mm`s that were dropped, or left last, where waiting was not allowed, and those that
    /// have waited long enough. For the reaper thread, which may wait for other CPUs.
    pub fn reap(&self) {
        self.free_deferred();
        match self.config.scheme {
            Scheme::Shootdown => batch::free_old(self),
            Scheme::Handoff => handoff::shoot_old(self),
            Scheme::Qsbr => qsbr::free_old(self),
            Scheme::Refcount | Scheme::Eager => {}
        }
    }

    /// Frees every dead `Mm` that can be freed, now: on demand, for want of memory, and before a CPU
    /// goes offline. Interrupts are on, and no lock is held that is taken with interrupts masked.
    ///
    /// Under `handoff` what is still loaded stays, unless `lazy_tlb.shoot_after=` allows to shoot.
    pub fn free_all_dead(&self) {
        self.free_deferred();
        match self.config.scheme {
            Scheme::Shootdown => batch::free_all(self),
            Scheme::Handoff => handoff::shoot_all(self),
            Scheme::Qsbr => qsbr::free_all(self),
            Scheme::Refcount | Scheme::Eager => {}
        }
    }

    /// Does the reaper's work for it, for who makes an `Mm` and thereby more of it: one thread frees more slowly
    /// than many CPUs make, and what waits for it may not fill the memory.
    pub(crate) fn help_reaper(&self) {
        if (self.reaper.has_work() || self.left.has_work()) && M::may_wait() {
            self.free_deferred();
        }
    }

    fn free_deferred(&self) {
        for dead in self.reaper.take_all() {
            self.free_dead(dead);
        }
        self.free_left();
    }

    /// Frees those that the last CPU has left.
    pub(super) fn free_left(&self) {
        for dead in self.left.take_all() {
            self.release(dead);
        }
    }
}
