//! The reaper's list: dead `Mm`s that were dropped where nobody may wait.

use core::ptr;

use crate::handle::{DeadList, DeadMm};
use crate::machine::Machine;
use crate::mm::Mm;
use crate::sync::AtomicPtr;

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
}
